"""Search in one version of a Lance table: exactly, or by its approximate index with the scores exact.

Legend of shapes: N rows of a fragment, Q queries, D width, P candidates, K hits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.store.columns import matrix
from clearsight.store.exact import Best, Block, best_rows, ordered, scores, unit_rows

CACHE_BYTES = 1 << 29
"""Vectors of a table up to this size stay in memory: 100,000 of width 1,024 are 410 MB."""
_BATCH_BYTES = 1 << 26
REFINE = 10
"""Candidates of the approximate index, for each hit, that are scored by their own vectors."""
_FEW_ROWS = 20_000
"""Rows that a filter leaves, up to which they are scored one by one, index or not."""


class Fragments:
    """Vectors of fragments in memory: of the newest version, and of older ones that were searched since."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[Any, ...], Block] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._blocks)

    def keep(self, dataset: Any) -> None:
        """Forget what is not in this version: every commit leaves a block that nobody asks for again."""
        alive = {_contents(fragment) for fragment in dataset.get_fragments()}
        with self._lock:
            for key in [key for key in self._blocks if key[1:] not in alive]:
                self._bytes -= self._blocks.pop(key).unit_ND.nbytes

    def block(self, fragment: Any, column: str) -> Block:
        """The rows of a fragment; read where they are not in memory."""
        key = (column, *_contents(fragment))
        with self._lock:
            known = self._blocks.get(key)
            if known is not None:
                self._blocks.move_to_end(key)
                return known
        table = fragment.scanner(columns=["id", column], with_row_id=True).to_table()
        block = block_of(table, column)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self._bytes += block.unit_ND.nbytes
            while self._bytes > CACHE_BYTES and len(self._blocks) > 1:
                self._bytes -= self._blocks.popitem(last=False)[1].unit_ND.nbytes
        return block


def _contents(fragment: Any) -> tuple[Any, ...]:
    """What changes when a fragment's rows or columns do."""
    metadata = fragment.metadata
    files = tuple(file.path for file in metadata.files)
    return fragment.fragment_id, files, str(metadata.deletion_file)


def block_of(rows: pa.Table | pa.RecordBatch, column: str) -> Block:
    ids, vectors = rows.column("id"), rows.column(column)
    if isinstance(vectors, pa.ChunkedArray):
        vectors = vectors.combine_chunks()
    place_N = np.asarray(rows.column("_rowid").to_numpy(), dtype=np.int64)
    return Block(ids, place_N, unit_rows(matrix(vectors)))


def exact_best(
    dataset: Any, column: str, filter: str | None, query_QD: NDArray[np.float32], top: int, cache: Fragments
) -> list[Best]:
    """The best rows, each compared with each query."""
    width = query_QD.shape[1]
    if dataset.count_rows() * width * 4 > CACHE_BYTES:
        return best_rows(_streamed(dataset, column, filter, width), query_QD, top)
    blocks = (cache.block(fragment, column) for fragment in dataset.get_fragments())
    if filter is None:
        return best_rows(blocks, query_QD, top)
    named = dataset.scanner(columns=[], filter=filter, with_row_id=True).to_table()
    place_P = np.sort(np.asarray(named.column("_rowid").to_numpy(), dtype=np.int64))
    return best_rows((_among(block, place_P) for block in blocks), query_QD, top)


def _among(block: Block, place_P: NDArray[np.int64]) -> Block:
    at_N = np.flatnonzero(np.isin(block.place_N, place_P, assume_unique=True))
    return Block(block.ids.take(pa.array(at_N)), block.place_N[at_N], block.unit_ND[at_N])


def _streamed(dataset: Any, column: str, filter: str | None, width: int) -> Iterator[Block]:
    rows = max(1, _BATCH_BYTES // (4 * width))
    scanner = dataset.scanner(columns=["id", column], filter=filter, with_row_id=True, batch_size=rows)
    return (block_of(batch, column) for batch in scanner.to_batches())


def near_best(
    dataset: Any,
    column: str,
    filter: str | None,
    query_QD: NDArray[np.float32],
    top: int,
    probes: int,
    cache: Fragments,
) -> list[Best]:
    """The best rows among what the approximate index finds.

    Where a filter leaves few rows, or the index finds fewer than were asked for, all are compared.
    """
    return [best for best, _ in near_rows(dataset, column, filter, query_QD, top, probes, cache, ())]


def near_rows(
    dataset: Any,
    column: str,
    filter: str | None,
    query_QD: NDArray[np.float32],
    top: int,
    probes: int,
    cache: Fragments,
    columns: Sequence[str],
) -> list[tuple[Best, pa.Table | None]]:
    """As `near_best`, with columns of the rows, which the same scan reads; None where all were compared."""
    rows = dataset.count_rows(filter=filter)
    if rows <= max(top, _FEW_ROWS if filter else 0):
        return [(best, None) for best in exact_best(dataset, column, filter, query_QD, top, cache)]

    def near(query_D: NDArray[np.float32]) -> tuple[Best, pa.Table | None]:
        nearest = {
            "column": column,
            "q": query_D,
            "k": top,
            "metric": "cosine",
            "refine_factor": REFINE,
            "minimum_nprobes": probes,
        }
        table = dataset.scanner(
            columns=list(dict.fromkeys(["id", column, *columns, "_distance"])),
            nearest=nearest,
            filter=filter,
            prefilter=True,
            with_row_id=True,
        ).to_table()
        if len(table) < top:
            return exact_best(dataset, column, filter, query_D[None], top, cache)[0], None
        block = block_of(table, column)
        best = ordered(block.ids.to_pylist(), block.place_N, scores(query_D, block.unit_ND), top)
        at = {place: row for row, place in enumerate(block.place_N.tolist())}
        return best, table.take(pa.array([at[place] for place in best.place_K.tolist()], pa.int64()))

    if len(query_QD) == 1:
        return [near(query_QD[0])]
    # Lance works outside Python's lock. One product of all queries with 400 MB of rows took no less time.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(near, query_QD))
