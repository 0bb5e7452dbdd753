"""Items in columns: a pool of millions as an Arrow table, each `Item` made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import pyarrow as pa

from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.types import ImageSource, Item

COLUMNS = ("id", "text", "image", "instruction")
_AT_ONCE = 1024


class Images(Protocol):
    """Images by number: what a table points to whose own rows hold numbers in place of pictures."""

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these numbers, in that order."""
        ...


class ItemTable(Sequence[Item]):
    """A sequence of items over an Arrow table (in memory or memory-mapped).

    Args:
        table: columns `id` (string), and where there are such `text` (string), `image` (a string path, the
            `datasets` library's struct {bytes, path}, or a whole number into `images`) and `instruction`
            (string); all but `id` nullable.
        images: folder at which relative image paths start, or what the numbers of the column count.

    Raises:
        DataError: no `id` column or a null in it, or a column that items do not have.
    """

    def __init__(self, table: pa.Table, *, images: Path | Images | None = None) -> None:
        unknown = [name for name in table.column_names if name not in COLUMNS]
        if "id" not in table.column_names or unknown:
            raise DataError(
                f"Items have columns {', '.join(COLUMNS)}; the table has {', '.join(table.column_names)}.",
                do="Rename or drop the others.",
            )
        self.table = table
        self.ids = Names(table.column("id"))
        self._images = images

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches(_AT_ONCE):
            yield from batch

    def batches(self, size: int) -> Iterator[list[Item]]:
        """The items, `size` at a time."""
        for start in range(0, len(self), size):
            yield self._items(self.table.slice(start, size))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> ItemTable: ...
    def __getitem__(self, index: int | slice) -> Item | ItemTable:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return ItemTable(self.table.slice(start, max(0, stop - start)), images=self._images)
            return ItemTable(self.table.take(list(range(start, stop, step))), images=self._images)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._items(self.table.slice(index % len(self), 1))[0]

    def _items(self, part: pa.Table) -> list[Item]:
        rows = part.to_pylist()
        images = self._read([row.get("image") for row in rows])
        return [
            Item(row["id"], row.get("text"), image, row.get("instruction"))
            for row, image in zip(rows, images, strict=True)
        ]

    def _read(self, values: Sequence[Any]) -> list[ImageSource | None]:
        if self._images is None or isinstance(self._images, Path):
            return [self._image(value) for value in values]
        numbers = [value for value in values if value is not None]
        found = iter(self._images.read(numbers))
        return [None if value is None else next(found) for value in values]

    def _image(self, value: str | Mapping[str, Any] | None) -> ImageSource | None:
        if isinstance(value, Mapping):
            content = value.get("bytes")
            if content is not None:
                return bytes(content)
            value = value.get("path")
        if value is None:
            return None
        return str(self._images / value) if isinstance(self._images, Path) else value
