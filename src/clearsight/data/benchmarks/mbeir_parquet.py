"""M-BEIR's parquet mirror (huggingface.co/MRBench, and copies): a folder `mbeir_<set>` for each set.

| file | columns |
|---|---|
| query-*.parquet, corpus-*.parquet | id, modality, text, image {bytes, path} |
| qrels-*.parquet | query-id, corpus-id, score (and Q0) |

It has the test split and the local pools. It has no instructions: queries carry none, unless the release's
instructions/query_instructions.tsv lies in the set's folder or beside it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clearsight.data.benchmarks.base import need_columns
from clearsight.data.benchmarks.mbeir_relevance import (
    draw_instructions,
    judged,
    make_task,
    pairs_of_references,
)
from clearsight.data.benchmarks.mbeir_sets import MbeirSet, find_set
from clearsight.data.benchmarks.mbeir_tables import check_file, item_table
from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_COLUMNS = ("id", "modality", "text")
_QRELS = ("query-id", "corpus-id", "score")
_AT_ONCE = 64
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


def is_mirror(folder: Path) -> bool:
    """Whether the folder holds one set of the mirror."""
    return all(any(folder.glob(f"{part}-*.parquet")) for part in ("query", "corpus", "qrels"))


def mirror_sets(folder: Path) -> tuple[str, ...]:
    """The sets (names without suffix) whose folders lie in `folder`, or which it is by its own name."""
    places = [folder, *sorted(folder.glob("*_task*"))] if folder.is_dir() else []
    named = [_set_of(place) for place in places if is_mirror(place)]
    return tuple(one.base for one in named if one is not None)


def mirror_folder(folder: Path, one: MbeirSet) -> Path | None:
    """The mirror's folder of a set: `folder` itself, or one in it; None where there is no mirror.

    Raises:
        DataError: the folder is named for another set, or the mirror has no such pool or split.
    """
    inner = (folder / f"mbeir_{one.base}", folder / one.base, folder)
    place = next((path for path in inner if is_mirror(path)), None)
    if place is None:
        return None
    named = _set_of(place)
    if named is not None and named.base != one.base:
        raise DataError(
            f"The folder holds the set '{named.base}', not '{one.base}'.",
            where=str(place),
            do=f"Ask for mbeir/{named.base}, or give the folder of {one.base}.",
        )
    if one.union or one.split != "test":
        raise DataError(
            f"The parquet mirror has local pools of the test split only, not '{one.name}'.",
            where=str(place),
            do=f"Use mbeir/{MbeirSet(one.base, one.reference).name}, or the release's files.",
        )
    return place


def read_mirror(folder: Path, one: MbeirSet, options: TaskOptions) -> Task:
    """The task of a set. Images stay in the files until an item is asked for.

    Raises:
        DataError: a shard is missing or broken, columns are missing, rows are bad.
    """
    sides = []
    for part in ("query", "corpus"):
        images = ParquetImages(_shards(folder, part))
        rows = images.columns(_COLUMNS)
        table = item_table(rows, where=f"{part}-*.parquet", faults=options.faults, embedded=True)
        sides.append((table, images))
    (queries, query_images), (pool, pool_images) = sides
    query_ids = queries["id"].to_pylist()
    relevance = judged(
        _judgements(_shards(folder, "qrels")),
        where="qrels-*.parquet",
        candidate_ids=pool["id"],
        query_ids=set(query_ids),
        faults=options.faults,
    )
    instructions = (place / "instructions" / "query_instructions.tsv" for place in (folder, folder.parent))
    if (path := next((path for path in instructions if path.is_file()), None)) is not None:
        drawn = draw_instructions(path, one, len(queries), options.seed)
        queries = queries.append_column("instruction", drawn)
    asked, candidates = (
        ParquetItems(queries.slice(0, options.n), query_images),
        ParquetItems(pool, pool_images),
    )
    excluded = {}
    if not one.reference:
        excluded = pairs_of_references(asked.digests(), candidates.digests(), str(folder))
    return make_task(
        one,
        asked,
        candidates,
        query_ids[: options.n],
        relevance,
        excluded,
    )


class ParquetImages:
    """The encoded images of parquet files, read when asked for; row numbers run on over the files.

    Raises:
        DataError: a file is no parquet, or lacks the column `image`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._lock = threading.Lock()
        self._group: tuple[int, pa.ChunkedArray] | None = None
        starts, groups = [0], []
        for path in self.paths:
            with _open(path) as file:
                need_columns(file.schema_arrow.names, (*_COLUMNS, "image"), path.name)
                for group in range(file.num_row_groups):
                    groups.append((path, group))
                    starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
        self._groups, self._starts = groups, np.array(starts)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Other columns of the same rows, as strings (a column without a value has no type of its own)."""
        schema = pa.schema([(name, pa.string()) for name in names])
        parts = []
        for path in self.paths:
            with _open(path) as file:
                table = _read(path, file.read, columns=list(names)).select(list(names))
                parts.append(_read(path, table.cast, schema))
        return pa.concat_tables(parts)

    def __getitem__(self, row: int) -> bytes:
        """One image; its row group is kept for the next. Null is empty bytes, which nobody takes for one."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if self._group is None or self._group[0] != at:
                path, group = self._groups[at]
                with _open(path) as file:
                    table = _read(path, file.read_row_group, group, columns=["image"])
                self._group = at, table["image"]
            value = self._group[1][row - int(self._starts[at])].as_py()
        return bytes((value or {}).get("bytes") or b"")


class ParquetItems(Sequence[Item]):
    """Items whose images stay in parquet files.

    Args:
        table: columns id, text, row (of the image) and has_image, and where there is one instruction.
        images: where the images are.
    """

    def __init__(self, table: pa.Table, images: ParquetImages) -> None:
        self.table = table
        self._images = images

    @property
    def ids(self) -> Names:
        """The items' ids, without their images."""
        return Names(self.table["id"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), _AT_ONCE):
            for row in self.table.slice(start, _AT_ONCE).to_pylist():
                yield self._item(row)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            rows = list(range(*index.indices(len(self))))
            return ParquetItems(self.table.take(pa.array(rows, pa.int64())), self._images)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._item(self.table.slice(index % len(self), 1).to_pylist()[0])

    def _item(self, row: Mapping[str, Any]) -> Item:
        image = self._images[row["row"]] if row["has_image"] else None
        return Item(row["id"], row["text"], image, row.get("instruction"))

    def digests(self) -> Iterator[tuple[str, bytes]]:
        """(id, digest of the image's bytes) of the items that have one."""
        for item in self:
            if isinstance(item.image, bytes):
                yield item.id, hashlib.sha256(item.image).digest()


def _judgements(paths: Sequence[Path]) -> Iterator[tuple[int, str, str, float]]:
    number = 0
    for path in paths:
        with _open(path) as file:
            need_columns(file.schema_arrow.names, _QRELS, path.name)
            table = _read(path, file.read, columns=list(_QRELS))
        for query, candidate, grade in zip(*(table[name].to_pylist() for name in _QRELS), strict=True):
            number += 1
            yield number, str(query), str(candidate), float(grade)


def _shards(folder: Path, part: str) -> list[Path]:
    """The files of a part, all of those that their names promise."""
    paths = sorted(folder.glob(f"{part}-*.parquet"))
    promised = {int(match[2]) for path in paths if (match := _SHARD.search(path.name))}
    if promised and len(paths) != max(promised):
        raise DataError(
            f"The names promise {max(promised)} files {part}-*.parquet; {len(paths)} are there.",
            where=str(folder),
            do="Fetch the rest.",
        )
    return paths


def _set_of(folder: Path) -> MbeirSet | None:
    return find_set(folder.resolve().name.removeprefix("mbeir_"))


def _open(path: Path) -> Any:
    check_file(path)
    return _read(path, pq.ParquetFile, path)


def _read(path: Path, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return read(*args, **options)
    except (pa.ArrowException, OSError) as fault:
        raise DataError(
            f"The parquet file cannot be read ({fault}).", where=str(path), do="Fetch it again."
        ) from fault
