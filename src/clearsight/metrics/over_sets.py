"""Means over the sets of a benchmark: each set counts once, however many queries it has.

Legend: Q queries of a set, S resamples.
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
    scores: Sequence[Score], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Score:
    """The unweighted mean over sets of their means.

    The interval draws queries anew within every set (a bootstrap stratified by set; Davison and Hinkley 1997,
    section 3.2): the sets are those of the benchmark and not a sample of others.

    Args:
        scores: one measure's score on each set; sets may report different measures, all are named then.

    Raises:
        DataError: no score is given.
    """
    if not scores:
        raise DataError("There is no set to take a mean over.", do="Give at least one score.")
    means_S = np.mean(
        [
            bootstrap_means(_judged(score.values_Q), resamples, np.random.default_rng((seed, i)))
            for i, score in enumerate(scores)
        ],
        axis=0,
    )
    low, high = tails(means_S, confidence)

    def mean(name: str) -> float:
        return float(np.mean([getattr(score, name) for score in scores]))

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
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedTest:
    """`paired_test` for means over sets: signs are flipped within each query, a query weighs 1 / (its set's
    size x number of sets), and the interval is stratified by set.

    Args:
        a, b: the same sets in the same order.

    Raises:
        DataError: the sets differ in number, measure or queries, or one has no query judged in both.
    """
    if len(a) != len(b) or not a:
        raise DataError(f"{len(a)} sets cannot be paired with {len(b)}.", do="Compare the same sets.")
    differences = [check_pair(one, other) for one, other in zip(a, b, strict=True)]
    weighted = np.concatenate([part / (len(part) * len(differences)) for part in differences])
    means_S = np.mean(
        [
            bootstrap_means(part, resamples, np.random.default_rng((seed, i)))
            for i, part in enumerate(differences)
        ],
        axis=0,
    )
    p_value = sign_flip(weighted, resamples, np.random.default_rng(seed))
    return PairedTest(float(weighted.sum()), *tails(means_S, confidence), p_value, len(weighted))


def _judged(values_Q: Floats) -> Floats:
    judged_Q: Floats = values_Q[np.isfinite(values_Q)]
    return judged_Q
