"""The best rows of a query by cosine, exactly and reproducibly, one block of rows at a time.

A float32 product screens; what comes near the best is scored again as `clearsight.ranking` scores: unit rows
rounded to multiples of 2^-26, their product summed without rounding. So equal rows have equal scores whatever
the block they lie in, and equal scores are ordered by id.

Legend of shapes: N rows of a block, D width, Q queries, P candidates, K kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.names import Names

UNIT = 2.0**26
_LENGTH_TOLERANCE = 1e-6
_ROWS_AT_ONCE = 4096
_AT_ONCE = 1 << 22
"""Scores screened at a time: 16 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows to be searched: ids, numbers by which the caller knows them, vectors of length 1 or 0."""

    ids: pa.Array | pa.ChunkedArray
    place_N: NDArray[np.int64]
    unit_ND: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The best rows of one query, best first: K ids, the caller's numbers of them, scores."""

    ids: tuple[str, ...]
    place_K: NDArray[np.int64]
    score_K: NDArray[np.float32]


def unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1: each as it came where it has that length, zero rows as they are."""
    unit_ND = rows_ND
    for first in range(0, len(rows_ND), _ROWS_AT_ONCE):
        part_ND = rows_ND[first : first + _ROWS_AT_ONCE].astype(np.float64)
        length_N = np.sqrt(np.square(part_ND).sum(axis=1))  # row by row: its bits depend on no other row
        other_N = np.flatnonzero((np.abs(length_N - 1) > _LENGTH_TOLERANCE) & (length_N > 0))
        if len(other_N):
            unit_ND = rows_ND.copy() if unit_ND is rows_ND else unit_ND
            unit_ND[first + other_N] = part_ND[other_N] / length_N[other_N, None]
    return unit_ND


def unit_queries(query_QD: NDArray[np.float32], width: int | None, top: int) -> NDArray[np.float32]:
    """Queries of length 1.

    Raises:
        DataError: another width, NaN, infinity, or a query of length zero.
        UsageError: `top` below 1.
    """
    queries = np.asarray(query_QD, dtype=np.float32)
    if top < 1:
        raise UsageError(f"{top} best rows were asked for.", do="Ask for at least 1.")
    if queries.ndim != 2 or (width is not None and queries.shape[1] != width):
        raise DataError(
            f"Queries of shape {queries.shape} do not fit vectors of width {width}.",
            do="Embed the query with the model, and repair it with the repair, of the store.",
        )
    finite_Q = np.isfinite(queries).all(axis=1)
    if not finite_Q.all() or not queries.any(axis=1).all():
        raise DataError("A query's vector is zero, or holds NaN or infinity.", do="Embed the query again.")
    return unit_rows(queries)


def scores(query_D: NDArray[np.float32], unit_PD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (P) of a query with rows, both of length 1: the same bits for the same rows."""
    left_D = np.rint(query_D.astype(np.float64) * UNIT)
    right_PD = np.rint(unit_PD.astype(np.float64) * UNIT)
    cosine_P = (right_PD @ left_D) / UNIT**2  # whole numbers below 2^53: exact in any order
    return np.clip(cosine_P, -1, 1).astype(np.float32)


def best_rows(blocks: Iterable[Block], query_QD: NDArray[np.float32], top: int) -> list[Best]:
    """The best `top` rows of each query (of length 1) over all blocks."""
    best = [Best((), np.empty(0, np.int64), np.empty(0, np.float32)) for _ in query_QD]
    margin = 2 * (query_QD.shape[1] + 16) * 2.0**-24
    for whole in blocks:
        if not len(whole.place_N):
            continue
        step = max(1, _AT_ONCE // len(whole.place_N))
        for first in range(0, len(query_QD), step):
            screen_QN = query_QD[first : first + step] @ whole.unit_ND.T
            for query, screen_N in enumerate(screen_QN, start=first):
                best[query] = _merged(best[query], whole, query_QD[query], screen_N, top, margin)
    return best


def _merged(
    best: Best,
    block: Block,
    query_D: NDArray[np.float32],
    screen_N: NDArray[np.float32],
    top: int,
    margin: float,
) -> Best:
    near_P = np.arange(len(screen_N))
    if len(best.ids) >= top:  # after the first blocks few come near: cheaper than to order them all
        near_P = np.flatnonzero(screen_N >= best.score_K[top - 1] - margin)
    if len(near_P) > top:
        near_N = screen_N[near_P]
        least = np.partition(near_N, len(near_N) - top)[len(near_N) - top]
        near_P = near_P[near_N >= least - 2 * margin]
    if not len(near_P):
        return best
    score_P = scores(query_D, block.unit_ND[near_P])
    ids = block.ids.take(pa.array(near_P)).to_pylist()
    return ordered(
        [*best.ids, *ids],
        np.concatenate([best.place_K, block.place_N[near_P]]),
        np.concatenate([best.score_K, score_P]),
        top,
    )


def ordered(ids: Sequence[str], place_P: NDArray[np.int64], score_P: NDArray[np.float32], top: int) -> Best:
    """The best `top` of candidates, equal scores by id."""
    if len(ids) > 4 * top:  # of many candidates few are sorted by name
        least = np.partition(score_P, len(score_P) - top)[len(score_P) - top]
        keep = np.flatnonzero(score_P >= least)
        ids, place_P, score_P = Names.of(ids).take(keep), place_P[keep], score_P[keep]
    order = sorted(range(len(ids)), key=lambda i: (-score_P[i], ids[i]))[:top]
    return Best(tuple(ids[i] for i in order), place_P[order], score_P[order])
