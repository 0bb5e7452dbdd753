"""The approximate index of a Lance table: built, extended, and its recall measured.

IVF_RQ keeps a few bits of every dimension (RaBitQ, Gao & Long 2024, arXiv:2405.12497) in clusters; the best
ten times K by those bits are scored by their own vectors (`lance_search.REFINE`). It takes widths that 8
divides; the others get IVF_SQ, a byte of every dimension.

Legend of shapes: N rows, S rows of the sample, D width, K hits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from clearsight.store.columns import matrix
from clearsight.store.exact import unit_rows
from clearsight.store.lance_files import INDEX_NOTE, Place, config_of
from clearsight.store.lance_schema import Layout
from clearsight.store.lance_search import Fragments, exact_best, near_best

INDEX_ROWS = 100_000
"""Below so many rows every row is compared: that is faster than one would notice, and exact."""
LEAST_ROWS = 256
"""An index is trained on no fewer rows, not even where one is forced."""
GROWN = 2
"""An index is trained again when the rows have grown by this factor; until then new rows are added to it."""
ROWS_A_PARTITION = 4096
MOST_BESIDE = 4096
"""An index is not extended for fewer new rows (or a fiftieth of all): a search compares those one by one."""
NAMES = ("id", "key")
"""Columns by which rows are read, replaced and deleted; without an index all rows are read for it."""
SAMPLE = 200
TOP = 10
WANTED_RECALL = 0.98


Create: TypeAlias = Callable[[Any, str, str, str, int], None]
"""Builds an index and commits it: of a dataset's column, of a kind, under a name, with so many partitions."""


def create_here(dataset: Any, column: str, kind: str, name: str, partitions: int) -> None:
    """Build an index by this machine alone."""
    dataset.create_index(column, kind, name=name, metric="cosine", num_partitions=partitions, replace=True)


def _segments(dataset: Any, name: str) -> list[Any]:
    return [part for index in dataset.describe_indices() if index.name == name for part in index.segments]


def _beside(dataset: Any, segments: Sequence[Any]) -> int:
    """How many rows the segments of an index do not know."""
    covered = {number for segment in segments for number in segment.fragment_ids}
    return sum(one.count_rows() for one in dataset.get_fragments() if one.fragment_id not in covered)


def build_indexes(place: Place, dataset: Any, *, force: bool, create: Create = create_here) -> None:
    """Build or extend the indexes of names and of both vectors; note what the latter reach."""
    rows = dataset.count_rows()
    if rows < (LEAST_ROWS if force else INDEX_ROWS):
        return
    notes = json.loads(config_of(dataset).get(INDEX_NOTE, "{}"))
    version, most = dataset.version, 0 if force else min(MOST_BESIDE, rows // 50)
    for column in NAMES:
        _sorted(dataset, column, most)
    columns = ("raw", Layout(dataset.schema).stored("vector"))
    made = {column: _built(dataset, column, notes.get(column), create, most) for column in columns}
    if made == notes and dataset.version == version:
        return
    place.sync_index()
    if made != notes:
        dataset.update_config({INDEX_NOTE: json.dumps(made)})
    place.sync_commit(dataset.version)


def _sorted(dataset: Any, column: str, most: int) -> None:
    """Build the index that finds rows by one of their names; extend it where it lacks more than `most`."""
    name = f"{column}_idx"
    known = _segments(dataset, name)
    if not known:
        dataset.create_scalar_index(column, "BTREE", name=name)
    elif _beside(dataset, known) > most:
        dataset.optimize.optimize_indices(index_names=[name])


def _built(
    dataset: Any, column: str, note: dict[str, Any] | None, create: Create, most: int
) -> dict[str, Any]:
    """The note of an index, which is built, or extended where it lacks more than `most` rows."""
    name, rows = f"{column}_idx", dataset.count_rows()
    began = time.monotonic()
    known = _segments(dataset, name)
    if note is not None and known and rows < GROWN * note["trained_rows"]:
        if _beside(dataset, known) <= most:
            return note
        dataset.optimize.optimize_indices(index_names=[name])
        trained = int(note["trained_rows"])
    else:
        partitions = max(1, rows // ROWS_A_PARTITION)
        create(dataset, column, _kind(dataset, column), name, partitions)
        dataset.checkout_latest()
        trained = rows
    seconds = time.monotonic() - began
    probes, recall = _measured(dataset, column, max(1, trained // ROWS_A_PARTITION))
    return {
        "kind": _kind(dataset, column),
        "rows": rows,
        "trained_rows": trained,
        "partitions": max(1, trained // ROWS_A_PARTITION),
        "nprobes": probes,
        "recall@10": recall,
        "build_seconds": round(seconds, 1),
    }


def _kind(dataset: Any, column: str) -> str:
    return "IVF_SQ" if dataset.schema.field(column).type.list_size % 8 else "IVF_RQ"


def _measured(dataset: Any, column: str, partitions: int) -> tuple[int, float]:
    """How many partitions to search, and the share of the ten exact neighbours of stored vectors that are
    found so (the vector itself left out)."""
    rows = dataset.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(SAMPLE, rows), replace=False))
    taken = dataset.take(chosen.tolist(), columns=["id", column])
    query_SD = unit_rows(matrix(taken.column(column).combine_chunks()))
    some = np.flatnonzero(query_SD.any(axis=1))
    query_SD, own = query_SD[some], taken.column("id").take(pa.array(some)).to_pylist()
    cache = Fragments()
    exact = exact_best(dataset, column, None, query_SD, TOP + 1, cache)
    expected = [set(best.ids) - {name} for best, name in zip(exact, own, strict=True)]
    probes, recall = 0, 0.0
    for probes in _tries(partitions):
        near = near_best(dataset, column, None, query_SD, TOP + 1, probes, cache)
        found = [len(set(best.ids) & wanted) for best, wanted in zip(near, expected, strict=True)]
        recall = float(sum(found)) / max(1, sum(map(len, expected)))
        if recall >= WANTED_RECALL:
            break
    return probes, round(recall, 4)


def _tries(partitions: int) -> list[int]:
    tries = [probes for probes in (8, 16, 32, 64, 128, 256) if probes < partitions]
    return [*tries, partitions]
