"""Means over the sets of a benchmark: each set counts once, however many queries it has.

Legend: N sets, Q queries of a set, S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clearsight.errors import DataError
from clearsight.metrics.statistics import (
    Floats,
    PairedTest,
    bootstrap_means,
    check_pair,
    sign_flip,
    tails,
)
from clearsight.types import Score


def mean_over_sets(
    scores: Sequence[Score],
    weights: Sequence[float] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """The mean over sets of their means: each counts the same, whatever its size.

    The interval draws queries anew within every set (a bootstrap stratified by set; Davison and Hinkley 1997,
    section 3.2): the sets are those of the benchmark and not a sample of others.

    Args:
        scores: one measure's score on each set; sets may report different measures, all are named then.
        weights: of the sets, summing to 1, where they do not count the same (means of means).

    Returns:
        A score whose `values_Q` are the means of the sets.

    Raises:
        DataError: no score is given.
    """
    share_N = _shares(weights, len(scores))
    parts = [score.values_Q[np.isfinite(score.values_Q)] for score in scores]
    low, high = tails(_resampled(parts, share_N, resamples, seed), confidence)

    def mean(name: str) -> float:
        return float(share_N @ [getattr(score, name) for score in scores])

    return Score(
        measure=" or ".join(dict.fromkeys(score.measure for score in scores)),
        values_Q=np.array([score.mean for score in scores]),
        mean=mean("mean"),
        low=low,
        high=high,
        optimistic=mean("optimistic"),
        pessimistic=mean("pessimistic"),
        judged=sum(score.judged for score in scores),
        tie_rate=mean("tie_rate"),
        chance=mean("chance"),
    )


def paired_test_over_sets(
    a: Sequence[Score],
    b: Sequence[Score],
    weights: Sequence[float] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedTest:
    """`paired_test` for means over sets: signs are flipped within each query, a query weighs its set's weight
    over the set's size, and the interval is stratified by set.

    Args:
        a, b: the same sets in the same order.
        weights: as for `mean_over_sets`.

    Raises:
        DataError: the sets differ in number, measure or queries, or one has no query judged in both.
    """
    if len(a) != len(b):
        raise DataError(f"{len(a)} sets cannot be paired with {len(b)}.", do="Compare the same sets.")
    share_N = _shares(weights, len(a))
    parts = [check_pair(one, other) for one, other in zip(a, b, strict=True)]
    weighted_Q = np.concatenate(
        [share * part / len(part) for share, part in zip(share_N, parts, strict=True)]
    )
    low, high = tails(_resampled(parts, share_N, resamples, seed), confidence)
    p_value = sign_flip(weighted_Q, resamples, np.random.default_rng(seed))
    return PairedTest(float(weighted_Q.sum()), low, high, p_value, len(weighted_Q))


def _shares(weights: Sequence[float] | None, count: int) -> Floats:
    if not count:
        raise DataError("There is no set to take a mean over.", do="Give at least one score.")
    share_N: Floats = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
    return share_N


def _resampled(parts: Sequence[Floats], share_N: Floats, resamples: int, seed: int) -> Floats:
    """The weighted mean of resampled means of sets, each drawn by itself."""
    means_NS = [
        bootstrap_means(values_Q, resamples, np.random.default_rng((seed, i)))
        for i, values_Q in enumerate(parts)
    ]
    means_S: Floats = share_N @ np.stack(means_NS)
    return means_S
