"""Means of means: over meta-tasks that hold unlike numbers of sets, with intervals and paired tests.

Legend: Q queries, S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clearsight.metrics import PairedTest, mean_over_sets
from clearsight.metrics.statistics import bootstrap_means, check_pair, sign_flip, tails
from clearsight.types import Score

RESAMPLES, TEST_RESAMPLES, CONFIDENCE = 2000, 10_000, 0.95


def set_weights(sets: Sequence[str], groups: Sequence[Sequence[str]]) -> list[float]:
    """What each set weighs in the mean over groups of the means over their sets; groups without a set that
    is there are left out. Weights sum to 1."""
    there = [[name for name in group if name in sets] for group in groups]
    there = [group for group in there if group]
    return [
        next(1 / (len(there) * len(group)) for group in there if name in group) for name in sets
    ]  # fmt: skip


def weighted_mean(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """The weighted mean of the sets' means; the interval draws queries anew within every set.

    `values_Q` are the means of the sets, as `metrics.mean_over_sets` has them.
    """
    means_S = sum(
        weight * bootstrap_means(score.values_Q[np.isfinite(score.values_Q)], RESAMPLES, _random(place))
        for place, (weight, score) in enumerate(zip(weights, scores, strict=True))
    )
    low, high = tails(np.asarray(means_S), CONFIDENCE)

    def mean(field: str) -> float:
        return float(np.dot(weights, [getattr(score, field) for score in scores]))

    return replace(
        mean_over_sets(scores, resamples=1),
        low=low,
        high=high,
        mean=mean("mean"),
        optimistic=mean("optimistic"),
        pessimistic=mean("pessimistic"),
        tie_rate=mean("tie_rate"),
        chance=mean("chance"),
    )


def weighted_test(a: Sequence[Score], b: Sequence[Score], weights: Sequence[float]) -> PairedTest:
    """The difference of two weighted means over the same sets: signs flipped within each query.

    Raises:
        DataError: a set differs in measure or queries.
    """
    differences = [check_pair(one, other) for one, other in zip(a, b, strict=True)]
    weighted_Q = np.concatenate(
        [weight * part / len(part) for weight, part in zip(weights, differences, strict=True)]
    )
    means_S = sum(
        weight * bootstrap_means(part, TEST_RESAMPLES, _random(place))
        for place, (weight, part) in enumerate(zip(weights, differences, strict=True))
    )
    low, high = tails(np.asarray(means_S), CONFIDENCE)
    p_value = sign_flip(weighted_Q, TEST_RESAMPLES, np.random.default_rng(0))
    return PairedTest(float(weighted_Q.sum()), low, high, p_value, len(weighted_Q))


def _random(place: int) -> np.random.Generator:
    return np.random.default_rng((0, place))
