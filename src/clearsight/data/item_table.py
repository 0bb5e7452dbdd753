"""Items in columns: a pool of millions as an Arrow table, each `Item` made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from clearsight.errors import DataError
from clearsight.types import ImageSource, Item

COLUMNS = ("id", "text", "image", "instruction")
_AT_ONCE = 1024


class ItemTable(Sequence[Item]):
    """A sequence of items over an Arrow table (in memory or memory-mapped).

    Args:
        table: columns `id` (string), and where there are such `text` (string), `image` (a string path, or
            the `datasets` library's struct {bytes, path}) and `instruction` (string); all but `id` nullable.
        images: folder at which relative image paths start.

    Raises:
        DataError: no `id` column, or a column that items do not have.
    """

    def __init__(self, table: pa.Table, *, images: Path | None = None) -> None:
        unknown = [name for name in table.column_names if name not in COLUMNS]
        if "id" not in table.column_names or unknown:
            raise DataError(
                f"Items have columns {', '.join(COLUMNS)}; the table has {', '.join(table.column_names)}.",
                do="Rename or drop the others.",
            )
        self.table = table
        self._images = images

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._items(self.table.slice(start, _AT_ONCE))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return ItemTable(self.table.slice(start, max(0, stop - start)), images=self._images)
            return ItemTable(self.table.take(list(range(start, stop, step))), images=self._images)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._items(self.table.slice(index % len(self), 1))[0]

    def _items(self, part: pa.Table) -> list[Item]:
        return [
            Item(row["id"], row.get("text"), self._image(row.get("image")), row.get("instruction"))
            for row in part.to_pylist()
        ]

    def _image(self, value: str | Mapping[str, Any] | None) -> ImageSource | None:
        if isinstance(value, Mapping):
            content = value.get("bytes")
            if content is not None:
                return bytes(content)
            value = value.get("path")
        if value is None:
            return None
        return value if self._images is None else str(self._images / value)
