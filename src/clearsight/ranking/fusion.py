"""From a coarse ranking and fine scores of its first entries to the ranking that both make.

What the fine stage judged stands first, by the fused score; all else keeps its coarse order below it, ties
included. How many candidates stand above a relevant one, and how many beside it, is counted anew from what
the coarse ranking counted, so that measures stay exact also for relevant items that were never listed.

Legend: Q queries, K ranks of the coarse list, T of them given to the fine stage, R (query, relevant item)
pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.ranking.reorder import reordered
from clearsight.registry import Registry
from clearsight.types import Ranking, Relevance

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Unparsed: TypeAlias = Literal["coarse", "below"]
"""What becomes of candidates without a fine score: "coarse" leaves the whole query as it was, "below" puts
them under those that have one, in coarse order."""
Fusion: TypeAlias = Callable[[Floats, Floats], Floats]
"""(coarse scores, fine scores) of one query's judged candidates -> fused scores, higher is better."""

FUSIONS: Registry[Fusion] = Registry("fusion")
RRF_K = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """A reranked ranking, and what went into it.

    Attributes:
        ranking: its scores are minus the number of candidates that stand strictly above: equal where tied,
            and comparable within a query only.
        judged_Q: how many candidates were placed by their fine score.
        unparsed_Q: how many of the first T have none (NaN).
        fell_back_Q: whether the query kept its coarse order for want of fine scores.
        cut_tied_Q: whether the coarse score at the depth T goes on below it: which of these equals were
            judged, their row decided.
    """

    ranking: Ranking
    judged_Q: NDArray[np.int64]
    unparsed_Q: NDArray[np.int64]
    fell_back_Q: Flags
    cut_tied_Q: Flags


def fuse(
    coarse: Ranking,
    fine_QT: NDArray[np.floating],
    *,
    how: str = "fine",
    entropy_QT: NDArray[np.floating] | None = None,
    unparsed: Unparsed = "coarse",
) -> Fused:
    """The ranking that coarse and fine scores make together.

    Args:
        coarse: a list of at least T ranks.
        fine_QT: the fine score of `coarse.rows_QK[q, t]`, higher is better; NaN where the answer could not be
            parsed. What stands where the list has no entry is not read.
        how: "fine" (the fine score alone), "zscore" (sum of the two scores, each standardised over the
            query's judged candidates; sums are rounded to 12 decimals), or "rrf" (reciprocal rank fusion,
            Cormack et al. 2009: sum of 1 / (60 + rank), ranks within the judged candidates, tied ones share
            their mean rank).
        entropy_QT: breaks ties of the fused score, least first (NaN last). Equal or absent, ties stay ties.
        unparsed: what becomes of candidates without a fine score.

    Raises:
        DataError: shapes that do not fit the list, or infinite fine scores under "zscore".
        UsageError: unknown `how`.
    """
    fusion = FUSIONS.get(how)
    fine = _checked(coarse, fine_QT, "fine scores")
    entropy = None if entropy_QT is None else _checked(coarse, entropy_QT, "entropies")
    if entropy is not None and entropy.shape != fine.shape:
        raise DataError(
            f"Entropies of shape {entropy.shape} do not fit fine scores of shape {fine.shape}.",
            do="Give one entropy for each fine score.",
        )
    depth = fine.shape[1]
    if how == "zscore" and np.isinf(fine[_listed(coarse, depth)]).any():
        raise DataError(
            "Some fine scores are infinite, so that they cannot be standardised.",
            do="Fuse by 'fine' or 'rrf', which look at their order alone.",
        )
    listed_QT = _listed(coarse, depth)
    missing_QT = listed_QT & np.isnan(fine)
    judged_QT = listed_QT & ~missing_QT
    if unparsed == "coarse":
        judged_QT &= ~missing_QT.any(axis=1, keepdims=True)
    level_QT = _levels(coarse, fine, judged_QT, fusion, entropy)
    judged_Q = judged_QT.sum(axis=1)
    return Fused(
        ranking=reordered(coarse, level_QT),
        judged_Q=judged_Q,
        unparsed_Q=missing_QT.sum(axis=1),
        fell_back_Q=(judged_Q == 0) & missing_QT.any(axis=1),
        cut_tied_Q=_cut_tied(coarse, depth),
    )


def oracle(coarse: Ranking, top: int, relevance: Relevance | None = None) -> Ranking:
    """The best ranking that any fine stage can make of the first `top` candidates.

    Relevant candidates among them stand first, higher grades before lower ones and equals in coarse order; no
    measure offered can be higher at this depth.

    Args:
        relevance: the grades. None: those counted in the ranking, all of grade 1.

    Raises:
        DataError: neither relevance nor counts, or `top` beyond the list.
        UsageError: `top` below 1.
    """
    _check_top(coarse, top)
    if relevance is None and not coarse.counted:
        raise DataError("Nothing says which candidates are relevant.", do="Pass relevance.")
    rows_QT = coarse.rows_QK[:, :top]
    grade_QT = np.zeros(rows_QT.shape)
    if relevance is None:
        pairs = zip(coarse.relevant_query_R.tolist(), coarse.relevant_row_R.tolist(), strict=True)
        for query, row in pairs:
            grade_QT[query, rows_QT[query] == row] = 1.0
    else:
        for query, name in enumerate(coarse.query_ids):
            grades = relevance.get(name, {})
            for place, row in enumerate(rows_QT[query].tolist()):
                grade_QT[query, place] = grades.get(coarse.candidate_ids[row], 0.0) if row >= 0 else 0.0
    before_QT = -coarse.scores_QK[:, :top].astype(np.float64)
    return fuse(coarse, grade_QT, entropy_QT=before_QT).ranking


def _check_top(coarse: Ranking, top: int) -> None:
    """Whether a fine stage can look at the first `top` entries of the list.

    Raises:
        UsageError: `top` below 1.
        DataError: `top` beyond the list.
    """
    kept = coarse.rows_QK.shape[1]
    if top < 1:
        raise UsageError(f"top is {top}.", where="top", do="Give at least 1.")
    if top > kept:
        raise DataError(
            f"The fine stage is to see {top} candidates, the ranking keeps {kept}.",
            where="top",
            do=f"Give at most {kept}, or keep more ranks.",
        )


def _fine_alone(coarse_J: Floats, fine_J: Floats) -> Floats:
    return fine_J


def _zscores(coarse_J: Floats, fine_J: Floats) -> Floats:
    # Equal sums that differ in their last bits only would pass for an order.
    summed_J: Floats = np.round(_standard(coarse_J) + _standard(fine_J), 12)
    return summed_J


def _reciprocal_ranks(coarse_J: Floats, fine_J: Floats) -> Floats:
    return 1.0 / (RRF_K + _mean_ranks(coarse_J)) + 1.0 / (RRF_K + _mean_ranks(fine_J))


FUSIONS.add("fine", _fine_alone)
FUSIONS.add("zscore", _zscores)
FUSIONS.add("rrf", _reciprocal_ranks)


def _standard(values_J: Floats) -> Floats:
    """(value - mean) / standard deviation; 0 where all values are equal."""
    if (values_J == values_J[0]).all():
        return np.zeros_like(values_J)
    standard_J: Floats = (values_J - values_J.mean()) / values_J.std()
    return standard_J


def _mean_ranks(values_J: Floats) -> Floats:
    """1 for the highest; equals share the mean of their ranks."""
    _, inverse_J, count_U = np.unique(-values_J, return_inverse=True, return_counts=True)
    mean_U = np.cumsum(count_U) - (count_U - 1) / 2
    ranks_J: Floats = mean_U[inverse_J]
    return ranks_J


def _checked(coarse: Ranking, values_QT: NDArray[np.floating], what: str) -> Floats:
    values = np.asarray(values_QT, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(coarse.query_ids):
        raise DataError(
            f"{what.capitalize()} of shape {values.shape} do not fit {len(coarse.query_ids)} queries.",
            do="Give one row for each query of the ranking, in its order.",
        )
    _check_top(coarse, values.shape[1])
    return values


def _listed(coarse: Ranking, depth: int) -> Flags:
    listed_QT: Flags = coarse.rows_QK[:, :depth] >= 0
    return listed_QT


def _levels(
    coarse: Ranking, fine_QT: Floats, judged_QT: Flags, fusion: Fusion, entropy_QT: Floats | None
) -> NDArray[np.int64]:
    """0 for the best judged of a query, 1 for the next, ...; equal where tied, -1 where unjudged."""
    level_QT = np.full(fine_QT.shape, -1, dtype=np.int64)
    for query in np.flatnonzero(judged_QT.any(axis=1)):
        judged_T = judged_QT[query]
        coarse_J = coarse.scores_QK[query, : len(judged_T)][judged_T].astype(np.float64)
        keys = [-fusion(coarse_J, fine_QT[query, judged_T])]
        if entropy_QT is not None:
            keys.append(np.where(np.isnan(entropy_QT[query, judged_T]), np.inf, entropy_QT[query, judged_T]))
        order_J = np.lexsort(keys[::-1])
        new_J = np.zeros(len(order_J), dtype=np.int64)
        for key_J in keys:
            new_J[1:] |= key_J[order_J][1:] != key_J[order_J][:-1]
        level_J = np.empty_like(new_J)
        level_J[order_J] = np.cumsum(new_J)
        level_QT[query, judged_T] = level_J
    return level_QT


def _cut_tied(coarse: Ranking, depth: int) -> Flags:
    """Whether a candidate below the first `depth` has the coarse score of the last of them."""
    tied_Q: Flags
    if depth == coarse.rows_QK.shape[1]:
        tied_Q = coarse.tied_out_Q > 0
    else:
        tied_Q = (coarse.scores_QK[:, depth - 1] == coarse.scores_QK[:, depth]) & (
            coarse.rows_QK[:, depth] >= 0
        )
    return tied_Q
