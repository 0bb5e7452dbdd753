"""Parquet files that others wrote: what a broken download leaves is told, images are read late, by row."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clearsight.data.tables import check_file, need_columns
from clearsight.errors import DataError
from clearsight.types import ImageSource

_SHARD = re.compile(r"(?P<part>.*)-\d+-of-(?P<count>\d+)\.parquet")


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turns what the parquet library raises into an error that says what to do.

    Raises:
        DataError: the file is cut short, or is no parquet file.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as fault:
        raise DataError(
            f"The parquet file cannot be read ({fault}).",
            where=str(path),
            do="The download may have broken off: fetch the file again.",
        ) from fault


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file, opened; to be closed by `with`.

    Raises:
        DataError: as `check_file` and `whole`.
    """
    check_file(path)
    with whole(path):
        return pq.ParquetFile(path)


def columns_of(path: Path) -> list[str]:
    """The column names of a file; only its footer is read.

    Raises:
        DataError: as `open_parquet`.
    """
    with open_parquet(path) as file:
        return list(file.schema_arrow.names)


def has_columns(path: Path, wanted: Iterable[str]) -> bool:
    """Whether a file can be read and has all the columns: for looking, never raises DataError."""
    try:
        return set(wanted).issubset(columns_of(path))
    except DataError:
        return False


def need_shards(paths: Sequence[Path]) -> None:
    """Check that all files are there which names such as `val-00000-of-00013.parquet` promise.

    Raises:
        DataError: some are not; says how many of how many are there.
    """
    there: dict[tuple[Path, str, int], int] = {}
    for path in paths:
        if (shard := _SHARD.fullmatch(path.name)) is not None:
            key = path.parent, shard["part"], int(shard["count"])
            there[key] = there.get(key, 0) + 1
    for (folder, part, count), found in there.items():
        if found != count:
            raise DataError(
                f"The names promise {count} files {part}-*.parquet; {found} are there.",
                where=str(folder),
                do="Fetch the rest.",
            )


def read_columns(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Some columns of all the files, in memory.

    Raises:
        DataError: as `open_parquet`; a file lacks a column (the nearest is named).
    """
    parts = []
    for path in paths:
        with open_parquet(path) as file:
            need_columns(file.schema_arrow.names, columns, str(path))
            with whole(path):
                parts.append(file.read(columns=list(columns)).select(list(columns)))
    return pa.concat_tables(parts, promote_options="permissive")


class ParquetImages:
    """Images in a column of parquet files, numbered by row through all files; one row group is held.

    Args:
        column: structs {bytes, path} (the `datasets` library's images) or encoded bytes.
        folder: where relative paths start.

    Raises:
        DataError: as `open_parquet`; a file lacks the column.
    """

    def __init__(self, paths: Sequence[Path], column: str = "image", folder: Path = Path()) -> None:
        self._groups: list[tuple[Path, int]] = []
        self._nulls: list[bool] = []
        sizes: list[int] = []
        for path in paths:
            with open_parquet(path) as file:
                need_columns(file.schema_arrow.names, (column,), str(path))
                for group in range(file.num_row_groups):
                    facts = file.metadata.row_group(group)
                    self._groups.append((path, group))
                    self._nulls.append(_may_be_null(facts, column))
                    sizes.append(facts.num_rows)
        self._where = ", ".join(sorted({str(path.parent) for path in paths}))
        self._firsts = [0, *accumulate(sizes)]
        self._column, self._folder = column, folder
        self._held: tuple[int, pa.ChunkedArray] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._firsts[-1]

    def __str__(self) -> str:
        return self._where

    def absent(self) -> list[int]:
        """The rows without an image: neither bytes nor a file.

        The files' statistics tell which row groups have a null, and only those are read. A file without
        statistics is believed: its absent images are found when they are opened.
        """
        return [
            first + place
            for at, (first, nulls) in enumerate(zip(self._firsts, self._nulls, strict=False))
            if nulls
            for place, value in enumerate(self._read_group(at))
            if not _is_there(value.as_py(), self._folder)
        ]

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these rows, in that order: encoded bytes, or a path.

        A null is empty bytes: its row promised an image, and opening it is the item's own fault.
        """
        found: dict[int, ImageSource | None] = {}
        with self._lock:
            for number in sorted(set(numbers)):  # so that each row group is read once
                found[number] = self._image(number)
        return [found[number] for number in numbers]

    def _image(self, number: int) -> ImageSource:
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = bisect_right(self._firsts, number) - 1
        if self._held is None or self._held[0] != at:
            self._held = None  # before the next is read: two row groups may be 200 MB
            self._held = at, self._read_group(at)
        return content(self._held[1][number - self._firsts[at]].as_py(), self._folder)

    def _read_group(self, at: int) -> pa.ChunkedArray:
        path, group = self._groups[at]
        with open_parquet(path) as file, whole(path):
            return file.read_row_group(group, columns=[self._column]).column(0)


class TableImages:
    """Images in a column of an Arrow table, as `ParquetImages` reads them.

    Raises:
        DataError: the table lacks the column.
    """

    def __init__(self, table: pa.Table, column: str = "image", where: str = "the dataset") -> None:
        need_columns(table.column_names, (column,), where)
        self._column, self._where = table[column], where

    def __str__(self) -> str:
        return self._where

    def absent(self) -> list[int]:
        """The rows without an image: neither bytes nor a file."""
        kind = self._column.type
        inner = pc.struct_field(self._column, "bytes") if pa.types.is_struct(kind) else self._column
        nulls = pc.indices_nonzero(pc.is_null(inner)).to_pylist()
        return [at for at in nulls if not _is_there(self._column[at].as_py(), Path())]

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these rows, in that order."""
        return [content(self._column[number].as_py(), Path()) for number in numbers]


def _may_be_null(group: Any, column: str) -> bool:
    """Whether a row group's statistics count nulls among the bytes of a column."""
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema in (column, f"{column}.bytes"):
            facts = chunk.statistics
            return bool(facts is not None and facts.has_null_count and facts.null_count)
    return False


def _is_there(value: Any, folder: Path) -> bool:
    image = content(value, folder)
    return bool(image) if isinstance(image, bytes) else Path(image).is_file()


def content(value: Any, folder: Path) -> bytes | str:
    """The image of a cell: bytes win over a path, as in `datasets`; nothing is empty bytes."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path") is not None:
            return str(folder / value["path"])
        value = value.get("bytes")
    return bytes(value or b"")
