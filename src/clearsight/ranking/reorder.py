"""A ranking in another order, its counts kept exact; a ranking of fewer queries.

Legend: Q queries, K ranks of the list, T of them that may move, J those of a query that do, R (query,
relevant item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.types import Ranking

_CHUNK = 1 << 14


def reordered(coarse: Ranking, level_QT: NDArray[np.int64]) -> Ranking:
    """The ranking with some of its first T candidates put before all others.

    Scores become minus the number of candidates that stand strictly above: equal where tied.

    Args:
        level_QT: for each entry of `coarse.rows_QK[:, :T]` 0 for the best, 1 for the next, ... (equal: tied),
            or -1 for one that keeps its coarse place among the rest.
    """
    queries, kept = coarse.rows_QK.shape
    depth = level_QT.shape[1]
    level_QK = np.full((queries, kept), -1, dtype=np.int64)
    level_QK[:, :depth] = level_QT
    judged_QK, absent_QK = level_QK >= 0, coarse.rows_QK < 0
    judged_Q = judged_QK.sum(axis=1)
    # Judged first, by level and then by row; the rest as it stands; what is absent last.
    place_QK = np.where(judged_QK, coarse.rows_QK, np.arange(kept))
    group_QK = np.where(judged_QK, level_QK, np.where(absent_QK, kept + 1, kept))
    order_QK = np.lexsort((place_QK, group_QK), axis=1)
    above_QK = _above_in_list(coarse, level_QK)
    scores_QK = np.where(absent_QK, -np.inf, -above_QK).astype(np.float32)
    above_R, equal_R = _places(coarse, level_QK, judged_Q)
    last_Q = order_QK[:, -1:]
    last_score_Q = np.take_along_axis(coarse.scores_QK, last_Q, axis=1)[:, 0]
    last_judged_Q = np.take_along_axis(judged_QK, last_Q, axis=1)[:, 0]
    keeps_ties_Q = ~last_judged_Q & (last_score_Q == coarse.scores_QK[:, -1])
    return replace(
        coarse,
        rows_QK=np.take_along_axis(coarse.rows_QK, order_QK, axis=1),
        scores_QK=np.take_along_axis(scores_QK, order_QK, axis=1),
        tied_out_Q=np.where(keeps_ties_Q, coarse.tied_out_Q, 0),
        above_R=above_R,
        equal_R=equal_R,
        relevant_score_R=(-above_R).astype(np.float32),
    )


def _above_in_list(coarse: Ranking, level_QK: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many candidates stand strictly above each entry of the coarse list, in the new order."""
    judged_QK = level_QK >= 0
    above_QK = np.empty(level_QK.shape, dtype=np.int64)
    for query, (level_K, judged_K) in enumerate(zip(level_QK, judged_QK, strict=True)):
        sorted_J = np.sort(level_K[judged_K])
        above_QK[query, judged_K] = np.searchsorted(sorted_J, level_K[judged_K])
        rest = -coarse.scores_QK[query, ~judged_K]  # ascending: the list is sorted
        above_QK[query, ~judged_K] = len(sorted_J) + np.searchsorted(rest, rest)
    return above_QK


def _places(
    coarse: Ranking, level_QK: NDArray[np.int64], judged_Q: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(above, equal) of each relevant item in the new order."""
    query_R = coarse.relevant_query_R
    above_R, equal_R = coarse.above_R.copy(), coarse.equal_R.copy()
    for start in range(0, len(query_R), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        level_RK, judged_RK = level_QK[query_R[chunk]], level_QK[query_R[chunk]] >= 0
        own_RK = (coarse.rows_QK[query_R[chunk]] == coarse.relevant_row_R[chunk, None]) & judged_RK
        own_R = own_RK.any(axis=1)
        own_level_R1 = np.where(own_RK, level_RK, -1).max(axis=1, keepdims=True, initial=-1)
        better_R = (judged_RK & (level_RK < own_level_R1)).sum(axis=1)
        beside_R = (judged_RK & (level_RK == own_level_R1)).sum(axis=1) - 1
        score_RK, score_R1 = coarse.scores_QK[query_R[chunk]], coarse.relevant_score_R[chunk, None]
        # Each judged candidate that did not stand above an unjudged one now does.
        lifted_R = judged_Q[query_R[chunk]] - (judged_RK & (score_RK > score_R1)).sum(axis=1)
        taken_R = (judged_RK & (score_RK == score_R1)).sum(axis=1)
        above_R[chunk] = np.where(own_R, better_R, above_R[chunk] + lifted_R)
        equal_R[chunk] = np.where(own_R, beside_R, equal_R[chunk] - taken_R)
    return above_R, equal_R


def of_queries(ranking: Ranking, query_ids: Sequence[str]) -> Ranking:
    """The ranking of some of its queries, in the order given.

    Raises:
        DataError: an unknown query id, or one given twice.
    """
    place_of = {name: place for place, name in enumerate(ranking.query_ids)}
    unknown = next((name for name in query_ids if name not in place_of), None)
    if unknown is not None:
        raise DataError("The ranking has no such query.", where=unknown, do="Give ids of its queries.")
    if len(set(query_ids)) != len(query_ids):
        raise DataError("A query is given twice.", do="Give each id once.")
    chosen_Q = np.array([place_of[name] for name in query_ids], dtype=np.int64)
    new_place_Q = np.full(len(ranking.query_ids), -1, dtype=np.int64)
    new_place_Q[chosen_Q] = np.arange(len(chosen_Q))
    kept_R = np.flatnonzero(new_place_Q[ranking.relevant_query_R] >= 0)
    kept_R = kept_R[np.argsort(new_place_Q[ranking.relevant_query_R[kept_R]], kind="stable")]
    return replace(
        ranking,
        query_ids=tuple(query_ids),
        rows_QK=ranking.rows_QK[chosen_Q],
        scores_QK=ranking.scores_QK[chosen_Q],
        pool_size_Q=ranking.pool_size_Q[chosen_Q],
        tied_out_Q=ranking.tied_out_Q[chosen_Q],
        relevant_query_R=new_place_Q[ranking.relevant_query_R[kept_R]],
        relevant_row_R=ranking.relevant_row_R[kept_R],
        above_R=ranking.above_R[kept_R],
        equal_R=ranking.equal_R[kept_R],
        relevant_score_R=ranking.relevant_score_R[kept_R],
    )
