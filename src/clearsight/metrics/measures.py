"""Expected values of retrieval measures when candidates tie.

Each function takes the places of the relevant candidates and a cut-off k (None: no cut-off) and returns one
float64 value for each query: the mean over all orders of the tied candidates, in closed form (McSherry &
Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied
scores"; hit rate and reciprocal rank by the hypergeometric law). Without ties they are the measures of
trec_eval. Range 0..1, higher is better. Queries without a relevant candidate get 0; who counts is decided by
`score`.

Legend: Q queries, R (query, relevant candidate) pairs, G tie groups with above_G candidates before them,
size_G members, hits_G relevant ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clearsight.errors import UsageError
from clearsight.metrics.judged import Floats, Ints, Judged
from clearsight.registry import Registry


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure one can ask for by name.

    Attributes:
        values: (places, cut-off) -> expected value for each query.
        needs_cut: whether it says nothing without "@k" (it would be constant).
    """

    values: Callable[[Judged, int | None], Floats]
    needs_cut: bool = False


MEASURES: Registry[Measure] = Registry("measure")


def parse(name: str) -> tuple[Measure, int | None]:
    """ "ndcg@10" -> (the measure, 10).

    Raises:
        UsageError: unknown measure, a cut-off below 1, or none where one is needed.
    """
    kind, at, cut = name.partition("@")
    measure = MEASURES.get(kind)
    if not at and not measure.needs_cut:
        return measure, None
    if not (cut.isascii() and cut.isdigit() and int(cut) >= 1):
        raise UsageError(f"The measure '{name}' has no cut-off.", do=f"Write it as '{kind}@10'.")
    return measure, int(cut)


def hit_rate(places: Judged, cut: int | None) -> Floats:
    """Probability that a relevant candidate is among the first k ("Recall@k" of the multimodal papers).

    In the tie group that the cut-off divides, t of its places count: 1 - C(size - hits, t) / C(size, t).
    """
    query_G, above_G, size_G, hits_G = _groups(places)
    taken_G = _within(above_G, size_G, cut)
    # The quotient of binomials is a product of min(t, hits) factors; the shorter of its two forms is taken.
    longer_G, shorter_G = np.maximum(taken_G, hits_G), np.minimum(taken_G, hits_G)
    miss_G = np.where(taken_G + hits_G > size_G, 0.0, 1.0)
    for i in range(int(shorter_G.max(initial=0))):
        live_G = (i < shorter_G) & (miss_G > 0)
        if not live_G.any():
            break
        miss_G[live_G] *= (size_G - longer_G - i)[live_G] / (size_G - i)[live_G]
    miss_Q = np.ones(places.queries)
    np.multiply.at(miss_Q, query_G, miss_G)
    return np.asarray(1.0 - miss_Q)


def recall(places: Judged, cut: int | None) -> Floats:
    """Share of the relevant candidates that are among the first k."""
    found_R = _within(places.above_R, places.size_R, cut) / places.size_R
    return _per_query(places, found_R) / np.maximum(places.relevant_Q, 1)


def all_recall(places: Judged, cut: int | None) -> Floats:
    """Probability that every relevant candidate is among the first k (0 or 1 without ties).

    In the tie group that the cut-off divides, t of its places count: all of its hits are there with
    probability C(t, hits) / C(size, hits). SugarCrepe++'s image-to-text condition is its value at k = 2.
    """
    query_G, above_G, size_G, hits_G = _groups(places)
    taken_G = _within(above_G, size_G, cut)
    all_G = np.where(taken_G >= hits_G, 1.0, 0.0)
    for i in range(int(hits_G.max(initial=0))):
        live_G = (i < hits_G) & (taken_G < size_G) & (all_G > 0)
        if not live_G.any():
            break
        all_G[live_G] *= (taken_G - i)[live_G] / (size_G - i)[live_G]
    all_Q = np.where(places.relevant_Q > 0, 1.0, 0.0)
    np.multiply.at(all_Q, query_G, all_G)
    return all_Q


def precision(places: Judged, cut: int | None) -> Floats:
    """Share of the first k places that hold a relevant candidate (k places, however small the pool)."""
    found_R = _within(places.above_R, places.size_R, cut) / places.size_R
    return _per_query(places, found_R) / (cut or np.maximum(places.pool_Q, 1))


def mrr(places: Judged, cut: int | None) -> Floats:
    """1 / rank of the first relevant candidate; 0 beyond k.

    It stands at place j of its tie group with probability C(size - j, hits - 1) / C(size, hits).
    """
    query_G, above_G, size_G, hits_G = _groups(places)
    first_G = np.ones(len(query_G), dtype=bool)
    first_G[1:] = np.diff(query_G) != 0
    above, size, hits = above_G[first_G], size_G[first_G], hits_G[first_G]
    value = _mean_over_places(lambda rank: 1.0 / rank, above, size, cut)
    tied = np.flatnonzero((hits > 1) & (size > 1))
    cases, which = np.unique(np.stack([above, size, hits], 1)[tied], axis=0, return_inverse=True)
    expected = [_first_of_many(int(a), int(g), int(m), cut) for a, g, m in cases]
    value[tied] = np.array(expected, dtype=np.float64)[which.reshape(-1)]
    value_Q = np.zeros(places.queries)
    value_Q[query_G[first_G]] = value
    return value_Q


def _first_of_many(above: int, size: int, hits: int, cut: int | None) -> float:
    last = size - hits + 1 if cut is None else min(size - hits + 1, cut - above)
    if last < 1:
        return 0.0
    j = np.arange(1, last, dtype=np.float64)
    steps = (size - j - hits + 1) / (size - j)
    chance = hits / size * np.cumprod(np.concatenate([[1.0], steps]))
    return float((chance / (above + np.arange(1, last + 1))).sum())


def ndcg(places: Judged, cut: int | None) -> Floats:
    """Discounted cumulative gain, linear gains (the grades), discount 1 / log2(rank + 1), over the ideal one.

    Järvelin & Kekäläinen 2002, in the variant of trec_eval.
    """
    discount_R = _mean_over_places(lambda rank: 1.0 / np.log2(rank + 1.0), places.above_R, places.size_R, cut)
    order_R = np.lexsort((-places.grade_R, places.query_R))
    start_Q = np.cumsum(places.relevant_Q) - places.relevant_Q
    rank_R = np.arange(len(order_R)) - np.repeat(start_Q, places.relevant_Q) + 1
    ideal_R = places.grade_R[order_R] / np.log2(rank_R + 1.0)
    if cut is not None:
        ideal_R = np.where(rank_R <= cut, ideal_R, 0.0)
    ideal_Q = _per_query(places, ideal_R)
    gain_Q = _per_query(places, places.grade_R * discount_R)
    return np.asarray(np.divide(gain_Q, ideal_Q, out=np.zeros_like(gain_Q), where=ideal_Q > 0))


def mean_average_precision(places: Judged, cut: int | None) -> Floats:
    """Mean over the relevant candidates of the precision at their ranks (0 beyond k).

    At place j of a tie group, given a relevant one there, (j - 1) (hits - 1) / (size - 1) relevant ones are
    expected before it in the group.
    """
    query_G, above_G, size_G, hits_G = _groups(places)
    first_of_query_G = np.concatenate([[0], np.cumsum(places.relevant_Q)])[query_G]
    before_G = places.groups()[0] - first_of_query_G
    slope_G = (hits_G - 1) / np.maximum(size_G - 1, 1)
    mean_G = _mean_over_places(lambda rank: 1.0 / rank, above_G, size_G, cut)
    taken_G = _within(above_G, size_G, cut) / size_G
    value_G = hits_G * ((before_G + 1 - slope_G * (above_G + 1)) * mean_G + slope_G * taken_G)
    sum_Q = np.bincount(query_G, value_G, minlength=places.queries)
    return np.asarray(sum_Q / np.maximum(places.relevant_Q, 1))


for _name, _measure in {
    "hit_rate": Measure(hit_rate, needs_cut=True),
    "recall": Measure(recall, needs_cut=True),
    "all_recall": Measure(all_recall, needs_cut=True),
    "precision": Measure(precision, needs_cut=True),
    "mrr": Measure(mrr),
    "ndcg": Measure(ndcg),
    "map": Measure(mean_average_precision),
}.items():
    MEASURES.add(_name, _measure)


def _groups(places: Judged) -> tuple[Ints, Ints, Ints, Ints]:
    first_G, hits_G = places.groups()
    return places.query_R[first_G], places.above_R[first_G], places.size_R[first_G], hits_G


def _within(above_R: Ints, size_R: Ints, cut: int | None) -> Ints:
    """How many places of each tie group lie within the cut-off."""
    return size_R if cut is None else np.clip(cut - above_R, 0, size_R)


def _mean_over_places(weight: Callable[[Floats], Floats], above: Ints, size: Ints, cut: int | None) -> Floats:
    """Mean of weight(rank), 0 beyond the cut-off, over the ranks above + 1 .. above + size."""
    taken = _within(above, size, cut)
    ranks = np.arange(1, int((above + taken).max(initial=0, where=taken > 0)) + 1, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(weight(ranks))])
    top = np.where(taken > 0, above, 0)
    mean = (sums[top + taken] - sums[top]) / size
    # Without a tie the weight itself, free of the rounding of the sums: a perfect ranking scores exactly 1.
    single = (size == 1) & (taken > 0)
    mean[single] = weight(above[single] + 1.0)
    return np.asarray(mean)


def _per_query(places: Judged, value_R: Floats) -> Floats:
    return np.bincount(places.query_R, value_R, minlength=places.queries).astype(np.float64)
