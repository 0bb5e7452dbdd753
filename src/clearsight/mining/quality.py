"""How good clusters are: how hard their negatives, and, where the truth is known, how many are wrong.

Legend of shapes: G clusters, N negatives (members without anchors), P ordered pairs in clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.metrics.statistics import bootstrap_interval
from clearsight.mining.cosines import listed, measured
from clearsight.mining.found import Found
from clearsight.mining.pairs import Rows, TrainingPairs
from clearsight.types import RowSource

Judge: TypeAlias = Callable[[int, int], bool]
"""Whether a candidate (row) is a right answer to a query (row), named in the data or not."""
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Quality:
    """What is known of one data set's clusters.

    Attributes:
        clusters, left_over: how many of each.
        in_clusters: queries in at least one cluster.
        mean_size: members of a cluster, the anchor counted.
        negatives: of all anchors together.
        cosine: mean cosine of an anchor with its negatives' candidates, -1..1: higher is harder; NaN without
            negatives.
        false_negatives: mean over anchors with negatives of the share of them that are right answers to the
            anchor, 0..1, lower is better; None where the truth is not known.
        low, high: its 95% bootstrap interval over clusters.
        false_pairs: the same share over all ordered pairs of a cluster's members, each query against each
            other member's candidate: what the loss sees; None where the truth is not known.
    """

    clusters: int
    left_over: int
    in_clusters: int
    mean_size: float
    negatives: int
    cosine: float
    false_negatives: float | None = None
    low: float | None = None
    high: float | None = None
    false_pairs: float | None = None


def quality(
    pairs: TrainingPairs,
    found: Found,
    queries: RowSource,
    candidates: RowSource,
    judge: Judge | None = None,
    *,
    seed: int = 0,
) -> Quality:
    """Measure clusters.

    Args:
        candidates: vectors of `pairs.distinct`, in that order.
        judge: the truth, where it is known.
        seed: of the bootstrap.
    """
    cluster_M = np.repeat(np.arange(len(found.size_G)), found.size_G)
    starts_G = np.cumsum(found.size_G) - found.size_G
    negative_M = np.ones(len(cluster_M), dtype=bool)
    negative_M[starts_G] = False
    cluster_N, anchor_N = cluster_M[negative_M], found.query_M[starts_G][cluster_M[negative_M]]
    candidate_N = found.positive_M[negative_M]
    facts = {
        "clusters": len(found.size_G),
        "left_over": len(found.left_over) + int((pairs.positive_Q < 0).sum()),
        "in_clusters": len(np.unique(found.query_M[found.query_M >= 0])),
        "mean_size": float(found.size_G.mean()) if len(found.size_G) else 0.0,
        "negatives": len(candidate_N),
        "cosine": _hardness(pairs, queries, candidates, anchor_N, candidate_N),
    }
    if judge is None or not len(candidate_N):
        return Quality(**facts)  # type: ignore[arg-type]
    wrong_N = _judged(judge, anchor_N, candidate_N)
    share_G = np.bincount(cluster_N, wrong_N, len(found.size_G)) / np.maximum(found.size_G - 1, 1)
    share_G = share_G[found.size_G > 1]
    low, high = bootstrap_interval(share_G, confidence=0.95, resamples=2000, seed=seed)
    query_P, other_P = _ordered_pairs(found, starts_G)
    return Quality(
        **facts,  # type: ignore[arg-type]
        false_negatives=float(share_G.mean()),
        low=low,
        high=high,
        false_pairs=float(_judged(judge, query_P, other_P).mean()),
    )


def _hardness(
    pairs: TrainingPairs, queries: RowSource, candidates: RowSource, anchor_N: Rows, candidate_N: Rows
) -> float:
    if not len(anchor_N):
        return float("nan")
    place_N = np.searchsorted(pairs.distinct, pairs.first_C[candidate_N])
    total = 0.0
    for start in range(0, len(anchor_N), BLOCK):
        part = slice(start, start + BLOCK)
        left, left_N = np.unique(anchor_N[part], return_inverse=True)
        right, right_N = np.unique(place_N[part], return_inverse=True)
        sides = (measured(queries.take(left).rows_ND), measured(candidates.take(right).rows_ND))
        total += float(listed(*sides, left_N, right_N).sum(dtype=np.float64))
    return total / len(anchor_N)


def _judged(judge: Judge, query_P: Rows, candidate_P: Rows) -> NDArray[np.bool_]:
    known: dict[tuple[int, int], bool] = {}
    wrong = np.zeros(len(query_P), dtype=bool)
    for i, key in enumerate(zip(query_P.tolist(), candidate_P.tolist(), strict=True)):
        if key not in known:
            known[key] = judge(*key)
        wrong[i] = known[key]
    return wrong


def _ordered_pairs(found: Found, starts_G: Rows) -> tuple[Rows, Rows]:
    """Each member's query with each other member's candidate."""
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, size in zip(starts_G.tolist(), found.size_G.tolist(), strict=True):
        query, candidate = found.query_M[start : start + size], found.positive_M[start : start + size]
        apart = ~np.eye(size, dtype=bool) & (query >= 0)[:, None]
        at = np.nonzero(apart)
        left.append(query[at[0]])
        right.append(candidate[at[1]])
    return np.concatenate(left), np.concatenate(right)
