"""M-BEIR's parquet mirror (huggingface.co/MRBench, and copies): a folder `mbeir_<set>` for each set.

| file | columns |
|---|---|
| query-*.parquet, corpus-*.parquet | id, modality, text, image {bytes, path} |
| qrels-*.parquet | query-id, corpus-id, score (and Q0) |

By the name of a dataset (`hub:MRBench/mbeir_cirr_task7`) it is read through the `datasets` library.

It has the test split and the local pools. It has no instructions: queries carry none, unless the release's
instructions/query_instructions.tsv lies in the set's folder or beside it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from clearsight.data.hub import Hub
from clearsight.data.item_table import ItemTable
from clearsight.errors import DataError
from clearsight.types import ImageSource, Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_COLUMNS = ("id", "modality", "text")
_QRELS = ("query-id", "corpus-id", "score")
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


def is_mirror(folder: Path) -> bool:
    """Whether the folder holds one set of the mirror."""
    return all(any(folder.glob(f"{part}-*.parquet")) for part in ("query", "corpus", "qrels"))


def mirror_sets(folder: Path) -> tuple[str, ...]:
    """The sets (names without suffix) whose folders lie in `folder`, or which it is by its own name."""
    places = [folder, *sorted(folder.glob("*_task*"))] if folder.is_dir() else []
    named = [_set_of(place.resolve().name) for place in places if is_mirror(place)]
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
    _check_set(place.resolve().name, one, str(place))
    return place


def open_folder(folder: Path) -> Mirror:
    """The mirror of one set in a folder.

    Raises:
        DataError: a shard is missing or broken, columns are missing.
    """
    query, corpus = (ParquetImages(_shards(folder, part)) for part in ("query", "corpus"))
    return Mirror(str(folder), query, corpus, _judgements(_shards(folder, "qrels")))


def open_hub(hub: Hub, one: MbeirSet) -> Mirror:
    """The mirror of one set by its name on the hub.

    Raises:
        UsageError: the `datasets` library is not installed. DataError: the dataset cannot be had, is of
            another set, or columns are missing.
    """
    _check_set(Path(hub.name).name, one, hub.name)
    query, corpus = (TableImages(hub.table(*part)) for part in (("query", "test"), ("corpus", "corpus")))
    return Mirror(hub.name, query, corpus, _rows_of(hub.table("qrels", "test"), hub.name))


def read_mirror(mirror: Mirror, one: MbeirSet, options: TaskOptions) -> Task:
    """The task of a set. Images stay where they are until an item is asked for.

    Raises:
        DataError: rows are bad; a file is broken.
    """
    queries, pool = (
        item_table(
            side.columns(_COLUMNS), where=f"{part} of {mirror.where}", faults=options.faults, embedded=True
        )
        for part, side in (("query", mirror.query), ("corpus", mirror.corpus))
    )
    query_ids = queries["id"].to_pylist()
    relevance = judged(
        mirror.judgements,
        where="qrels",
        candidate_ids=pool["id"],
        query_ids=set(query_ids),
        faults=options.faults,
    )
    places = (Path(mirror.where), Path(mirror.where).parent)
    instructions = (place / "instructions" / "query_instructions.tsv" for place in places)
    if (path := next((path for path in instructions if path.is_file()), None)) is not None:
        drawn = draw_instructions(path, one, len(queries), options.seed)
        queries = queries.append_column("instruction", drawn)
    asked = ItemTable(queries.slice(0, options.n), images=mirror.query)
    candidates = ItemTable(pool, images=mirror.corpus)
    excluded = {}
    if not one.reference:
        excluded = pairs_of_references(_digests(asked), _digests(candidates), mirror.where)
    return make_task(one, asked, candidates, query_ids[: options.n], relevance, excluded)


class Mirror(NamedTuple):
    """One set: its two sides, and (row, query id, candidate id, grade) of its relevance."""

    where: str
    query: ParquetImages | TableImages
    corpus: ParquetImages | TableImages
    judgements: Iterator[tuple[int, str, str, float]]


class TableImages:
    """The encoded images of an Arrow table (memory-mapped, as `datasets` gives it).

    Raises:
        DataError: the table lacks a column.
    """

    def __init__(self, table: pa.Table) -> None:
        need_columns(table.column_names, (*_COLUMNS, "image"), "the dataset")
        self._table = table

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Other columns of the same rows, as strings."""
        return self._table.select(list(names)).cast(_strings(names))

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these rows."""
        return [_content(self._table["image"][number].as_py()) for number in numbers]


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
        """Other columns of the same rows, as strings."""
        parts = []
        for path in self.paths:
            with _open(path) as file:
                table = _read(path, file.read, columns=list(names)).select(list(names))
                parts.append(_read(path, table.cast, _strings(names)))
        return pa.concat_tables(parts)

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these rows; the row group read last is kept for the next."""
        with self._lock:
            return [self._image(number) for number in numbers]

    def _image(self, row: int) -> bytes:
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._group is None or self._group[0] != at:
            path, group = self._groups[at]
            with _open(path) as file:
                table = _read(path, file.read_row_group, group, columns=["image"])
            self._group = at, table["image"]
        return _content(self._group[1][row - int(self._starts[at])].as_py())


def _digests(items: Iterable[Item]) -> Iterator[tuple[str, bytes]]:
    """(id, digest of the image's bytes) of the items that have one."""
    for item in items:
        if isinstance(item.image, bytes):
            yield item.id, hashlib.sha256(item.image).digest()


def _content(value: Mapping[str, Any] | None) -> bytes:
    """Null is empty bytes, which nobody takes for an image."""
    return bytes((value or {}).get("bytes") or b"")


def _strings(names: Sequence[str]) -> pa.Schema:
    """A column without a value has no type of its own."""
    return pa.schema([(name, pa.string()) for name in names])


def _check_set(name: str, one: MbeirSet, where: str) -> None:
    named = _set_of(name)
    if named is not None and named.base != one.base:
        raise DataError(
            f"The data is of the set '{named.base}', not '{one.base}'.",
            where=where,
            do=f"Ask for mbeir/{named.base}, or give the data of {one.base}.",
        )
    if one.union or one.split != "test":
        raise DataError(
            f"The parquet mirror has local pools of the test split only, not '{one.name}'.",
            where=where,
            do=f"Use mbeir/{MbeirSet(one.base, one.reference).name}, or the release's files.",
        )


def _judgements(paths: Sequence[Path]) -> Iterator[tuple[int, str, str, float]]:
    for path in paths:
        with _open(path) as file:
            need_columns(file.schema_arrow.names, _QRELS, path.name)
            table = _read(path, file.read, columns=list(_QRELS))
        yield from _rows_of(table, path.name)


def _rows_of(table: pa.Table, where: str) -> Iterator[tuple[int, str, str, float]]:
    need_columns(table.column_names, _QRELS, where)
    columns = (table[name].to_pylist() for name in _QRELS)
    for number, (query, candidate, grade) in enumerate(zip(*columns, strict=True), 1):
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


def _set_of(name: str) -> MbeirSet | None:
    return find_set(name.removeprefix("mbeir_"))


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
