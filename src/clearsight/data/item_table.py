"""Items in columns: a pool of millions as an Arrow table, each `Item` made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.types import MODALITIES, ImageSource, Item

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

    @cached_property
    def kind_N(self) -> NDArray[np.uint8]:
        """Each item's modality, as its place in `types.MODALITIES`; no image is read."""
        image_N, text_N = self._there("image"), self._there("text")
        kind_N = np.full(len(self), MODALITIES.index("text"), np.uint8)
        kind_N[image_N] = MODALITIES.index("image")
        kind_N[image_N & text_N] = MODALITIES.index("image+text")
        return kind_N

    @property
    def brings_images(self) -> bool:
        """Whether making an item brings the bytes of its image into memory."""
        kind = self.table.schema.field("image").type if "image" in self.table.column_names else None
        return kind is not None and not _is_text(kind)

    def image_paths(self) -> Iterator[str]:
        """The image files that items name; images that come as bytes have none."""
        if "image" not in self.table.column_names or (self._images and not isinstance(self._images, Path)):
            return
        column = self.table.column("image")
        if pa.types.is_struct(column.type):
            if "path" not in column.type.names:
                return
            paths = pc.struct_field(column, "path")
            if "bytes" in column.type.names:
                paths = paths.filter(pc.is_null(pc.struct_field(column, "bytes")))
            column = paths
        for start in range(0, len(column), _AT_ONCE):
            for value in column.slice(start, _AT_ONCE).drop_null().to_pylist():
                yield str(self._images / value) if isinstance(self._images, Path) else value

    def take(self, rows: NDArray[np.int64]) -> ItemTable:
        """The items at `rows`, in that order; no image is read."""
        return ItemTable(self.table.take(pa.array(rows)), images=self._images)

    def only(self, ids: Sequence[str]) -> ItemTable:
        """The items of these ids, in the order of the table; no image is read."""
        known = pc.is_in(self.ids.column, value_set=Names.of(ids).column.combine_chunks())
        return ItemTable(self.table.filter(known), images=self._images)

    def _there(self, name: str) -> NDArray[np.bool_]:
        if name not in self.table.column_names:
            return np.zeros(len(self), bool)
        column = self.table.column(name)
        parts = [column]
        if pa.types.is_struct(column.type):
            parts = [pc.struct_field(column, part) for part in ("bytes", "path") if part in column.type.names]
        there = [pc.is_valid(part).to_numpy() for part in parts]
        return np.logical_or.reduce(there, axis=0) if there else np.zeros(len(self), bool)

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


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
