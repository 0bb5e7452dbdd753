"""How sure a mean is: bootstrap intervals and paired permutation tests over queries, float64 throughout.

Legend: Q queries, S resamples, U distinct values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.types import Score

Floats = NDArray[np.float64]
CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Whether one ranking beats another on the same queries.

    Attributes:
        difference: mean of a - b.
        low, high: bootstrap interval of it.
        p_value: two-sided, under random swaps of a and b within each query; never 0.
        n: queries judged in both.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def bootstrap_interval(
    values_Q: Floats, *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean when queries are drawn anew with replacement (Efron 1979).

    Few distinct values (hit rates) are resampled as one multinomial draw of how often each occurs: the same
    law at a fraction of the cost. No values give NaN.

    Raises:
        UsageError: confidence outside (0, 1) or fewer than one resample.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise UsageError(
            f"confidence is {confidence} and resamples {resamples}.",
            do="Give a confidence between 0 and 1, such as 0.95, and at least one resample.",
        )
    if len(values_Q) == 0:
        return float("nan"), float("nan")
    return tails(bootstrap_means(values_Q, resamples, np.random.default_rng(seed)), confidence)


def bootstrap_means(values_Q: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """Means (S,) of resamples of at least one value, drawn with replacement."""
    size = len(values_Q)
    value_U, count_U = np.unique(values_Q, return_counts=True)
    means_S: Floats
    if len(value_U) * 8 <= size or len(value_U) == 1:
        means_S = random.multinomial(size, count_U / size, size=resamples) @ value_U / size
    else:
        step = max(1, CHUNK // size)
        sizes = [min(step, resamples - done) for done in range(0, resamples, step)]
        means_S = np.concatenate([values_Q[random.integers(size, size=(s, size))].mean(1) for s in sizes])
    return means_S


def tails(means_S: Floats, confidence: float) -> tuple[float, float]:
    """The percentile interval of resampled means."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_S, [tail, 1 - tail])
    return float(low), float(high)


def paired_test(
    a: Score, b: Score, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> PairedTest:
    """Paired sign-flip permutation test of mean(a) = mean(b), two-sided (Fisher 1935; Smucker et al. 2007).

    Where 2^(queries that differ) is at most `resamples`, every sign pattern is counted and p is exact;
    otherwise p = (1 + patterns at least as extreme) / (1 + resamples).

    Args:
        a, b: the same measure over the same queries, in the same order.

    Raises:
        DataError: measures or query counts differ, or no query is judged in both.
    """
    difference_Q = check_pair(a, b)
    low, high = bootstrap_interval(difference_Q, confidence=confidence, resamples=resamples, seed=seed)
    p_value = sign_flip(difference_Q, resamples, np.random.default_rng(seed))
    return PairedTest(float(difference_Q.mean()), low, high, p_value, len(difference_Q))


def check_pair(a: Score, b: Score) -> Floats:
    """a - b for each query judged in both.

    Raises:
        DataError: measures or query counts differ, or no query is judged in both.
    """
    if a.measure != b.measure or len(a.values_Q) != len(b.values_Q):
        raise DataError(
            f"{a.measure} over {len(a.values_Q)} queries cannot be paired with {b.measure} over "
            f"{len(b.values_Q)}.",
            do="Compare one measure over the same queries.",
        )
    difference_Q = a.values_Q - b.values_Q
    both_Q: Floats = difference_Q[np.isfinite(difference_Q)]
    if len(both_Q) == 0:
        raise DataError("No query is judged in both rankings.", do="Compare rankings of the same task.")
    return both_Q


def sign_flip(difference_Q: Floats, resamples: int, random: np.random.Generator) -> float:
    """p of |sum| under random signs of the differences (see `paired_test`)."""
    size_Q = np.abs(difference_Q[difference_Q != 0])
    queries = len(size_Q)
    exact = 2.0**queries <= resamples if queries < 64 else False
    value_U, count_U = np.unique(size_Q, return_counts=True)
    if exact:
        pattern_SQ = (np.arange(2**queries)[:, None] >> np.arange(queries)) & 1
        sums_S = (2.0 * pattern_SQ - 1.0) @ size_Q
    elif len(value_U) * 8 <= queries:
        # Signs of equal differences are interchangeable: their sum is a binomial draw.
        heads_SU = random.binomial(count_U, 0.5, size=(resamples, len(value_U)))
        sums_S = (2.0 * heads_SU - count_U) @ value_U
    else:
        step = max(1, CHUNK // queries)
        sizes = [min(step, resamples - done) for done in range(0, resamples, step)]
        draws = (random.integers(0, 2, size=(s, queries), dtype=np.int8) for s in sizes)
        sums_S = np.concatenate([(2.0 * draw_SQ - 1.0) @ size_Q for draw_SQ in draws])
    observed = abs(difference_Q.sum())
    # Sums equal but for their order of addition count as equal.
    extreme = int((np.abs(sums_S) >= observed - 1e-12 * size_Q.sum()).sum())
    return extreme / len(sums_S) if exact else (1 + extreme) / (1 + len(sums_S))
