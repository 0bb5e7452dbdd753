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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from clearsight.data.benchmarks.mbeir_relevance import (
    draw_instructions,
    judged,
    make_task,
    pairs_of_references,
)
from clearsight.data.benchmarks.mbeir_sets import MbeirSet, find_set
from clearsight.data.benchmarks.mbeir_tables import item_table, mirror_rows, table_rows
from clearsight.data.hub import Hub
from clearsight.data.item_table import Images, ItemTable
from clearsight.data.parquet import ParquetImages, TableImages, need_shards, read_columns
from clearsight.data.tables import need_columns
from clearsight.errors import DataError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_QRELS = ("query-id", "corpus-id", "score")


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
    shards = [_shards(folder, part) for part in ("query", "corpus", "qrels")]
    query, corpus = (Side(mirror_rows(paths), ParquetImages(paths)) for paths in shards[:2])
    return Mirror(str(folder), query, corpus, _judgements(read_columns(shards[2], _QRELS), str(folder)))


def open_hub(hub: Hub, one: MbeirSet) -> Mirror:
    """The mirror of one set by its name on the hub.

    Raises:
        UsageError: the `datasets` library is not installed. DataError: the dataset cannot be had, is of
            another set, or columns are missing.
    """
    _check_set(Path(hub.name).name, one, hub.name)
    tables = [hub.table(*part) for part in (("query", "test"), ("corpus", "corpus"), ("qrels", "test"))]
    query, corpus = (Side(table_rows(table, hub.name), TableImages(table)) for table in tables[:2])
    return Mirror(hub.name, query, corpus, _judgements(tables[2], hub.name))


def read_mirror(mirror: Mirror, one: MbeirSet, options: TaskOptions) -> Task:
    """The task of a set. Images stay where they are until an item is asked for.

    Raises:
        DataError: rows are bad; a file is broken.
    """
    queries, pool = (
        item_table(side.rows, where=f"{part} of {mirror.where}", faults=options.faults)
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
    asked = ItemTable(queries.slice(0, options.n), images=mirror.query.images)
    candidates = ItemTable(pool, images=mirror.corpus.images)
    excluded = {}
    if not one.reference:
        excluded = pairs_of_references(_digests(asked), _digests(candidates), mirror.where)
    return make_task(one, asked, candidates, query_ids[: options.n], relevance, excluded)


class Side(NamedTuple):
    """Queries or candidates: rows of `mbeir_tables`, and their images by row number."""

    rows: pa.Table
    images: Images


class Mirror(NamedTuple):
    """One set: its two sides, and (row, query id, candidate id, grade) of its relevance."""

    where: str
    query: Side
    corpus: Side
    judgements: Iterator[tuple[int, str, str, float]]


def _digests(items: Iterable[Item]) -> Iterator[tuple[str, bytes]]:
    """(id, digest of the image's bytes) of the items that have one."""
    for item in items:
        if isinstance(item.image, bytes):
            yield item.id, hashlib.sha256(item.image).digest()


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


def _judgements(table: pa.Table, where: str) -> Iterator[tuple[int, str, str, float]]:
    need_columns(table.column_names, _QRELS, where)
    columns = (table[name].to_pylist() for name in _QRELS)
    for number, (query, candidate, grade) in enumerate(zip(*columns, strict=True), 1):
        yield number, str(query), str(candidate), float(grade)


def _shards(folder: Path, part: str) -> list[Path]:
    paths = sorted(folder.glob(f"{part}-*.parquet"))
    need_shards(paths)
    return paths


def _set_of(name: str) -> MbeirSet | None:
    return find_set(name.removeprefix("mbeir_"))
