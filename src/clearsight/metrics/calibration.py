"""Bias and calibration of a model that judges: which answers it favours, and whether its scores are shares.

All arithmetic is in float64; intervals are percentile bootstraps over the judgements (see `statistics`).
Judgements count as independent, which those of one query are not quite.

Legend: A answers, P positions of options, N judgements, B bins, S resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from clearsight.errors import DataError, UsageError
from clearsight.metrics.statistics import bootstrap_interval, tails

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FEW = 5.0
"""Expected counts below this make the chi-square law a poor one (Cochran 1954): p is then simulated."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its bootstrap interval; NaN where nothing was measured."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class PositionBias:
    """How often the option at each position was chosen.

    Attributes:
        chosen_P: counts.
        expected_P: what chance gives: the sum over answers of 1 / options, over answers with that position.
        offered_P: how many answers have an option at the position.
        chi_square: sum of (chosen - expected)^2 / expected; 0 and above, 0 is no bias.
        p_value: of a chi-square this large without any bias; 0 to 1.
        simulated: whether p was simulated, for want of counts.
        answers: A.
    """

    chosen_P: Ints
    expected_P: Floats
    offered_P: Ints
    chi_square: float
    p_value: float
    simulated: bool
    answers: int


@dataclass(frozen=True, slots=True)
class YesBias:
    """What a judge says of candidates when the query is empty.

    Attributes:
        mean: mean score, 0 to 1.
        above_half: share of the scores above 0.5; 0 to 1.
        judgements: N.
    """

    mean: Estimate
    above_half: Estimate
    judgements: int


@dataclass(frozen=True, slots=True)
class OrderSwap:
    """How far scores depend on the order in which the labels were offered.

    Attributes:
        flipped: share of judgements on the other side of 0.5 in the other order; 0 is none, 1 all.
        difference: mean absolute difference of the two scores; 0 to 1, lower is better.
        shift: mean of first - second: which order says yes more.
        judgements: N.
    """

    flipped: Estimate
    difference: Estimate
    shift: Estimate
    judgements: int


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Scores against the share that is relevant.

    Attributes:
        score_B, relevant_B, count_B: mean score, share of relevant ones, and judgements of each bin,
            ascending by score.
        low_B, high_B: Wilson interval of `relevant_B`.
        ece: expected calibration error: sum over bins of count / N |relevant - score|; 0 to 1, lower is
            better. Drawing judgements anew adds to it what chance adds, so that for a judge that is nearly
            calibrated the interval may lie above the value: compare it with `ece_floor` then.
        ece_floor: the error to expect of these very scores if each were the chance that its candidate is
            relevant (Broecker and Smith 2007): what is left of it for the best of judges.
        brier: mean of (score - relevant)^2; 0 to 1, lower is better.
        base_rate: share of all judgements that are relevant; a judge that says this number every time has
            ece 0 and Brier score base_rate (1 - base_rate).
        judgements: N.
    """

    score_B: Floats
    relevant_B: Floats
    count_B: Ints
    low_B: Floats
    high_B: Floats
    ece: Estimate
    ece_floor: float
    brier: Estimate
    base_rate: float
    judgements: int


def position_bias(
    chosen_A: ArrayLike, options_A: ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> PositionBias:
    """Chosen positions against uniform choice: Pearson's chi-square test of goodness of fit (1900).

    It speaks of bias only where options were offered in random order: with the right answer first more often
    than not, a good judge chooses the first more often than not.

    Args:
        chosen_A: the position chosen by each answer, from 0.
        options_A: how many options it had; one number for all, or one for each.
        resamples, seed: of the simulation that replaces the chi-square law where a position is expected fewer
            than five times; p is then (1 + as large ones) / (1 + resamples).

    Raises:
        DataError: no answers, or a position outside its options.
    """
    chosen = np.asarray(chosen_A, dtype=np.int64).reshape(-1)
    options = np.broadcast_to(np.asarray(options_A, dtype=np.int64), chosen.shape)
    if len(chosen) == 0 or (chosen < 0).any() or (chosen >= options).any():
        raise DataError(
            "There is no answer, or a position that is not among its options.",
            where="chosen positions",
            do="Give the positions of parsed answers, counted from 0.",
        )
    positions = int(options.max())
    size_U, count_U = np.unique(options, return_counts=True)
    has_UP = np.arange(positions) < size_U[:, None]
    share_UP = has_UP / size_U[:, None]
    expected_P: Floats = count_U @ share_UP
    chosen_P = np.bincount(chosen, minlength=positions)
    statistic = float(_chi_square(chosen_P, expected_P))
    # Of lists of several sizes the statistic does not follow the chi-square law either.
    simulated = positions > 1 and (bool((expected_P < FEW).any()) or len(size_U) > 1)
    if simulated:
        random = np.random.default_rng(seed)
        drawn_SP = sum(
            random.multinomial(count, share_P, size=resamples)
            for count, share_P in zip(count_U, share_UP, strict=True)
        )
        as_large = int((_chi_square(drawn_SP, expected_P) >= statistic * (1 - 1e-12)).sum())
        p_value = (1 + as_large) / (1 + resamples)
    else:
        p_value = float(scipy.stats.chi2.sf(statistic, positions - 1)) if positions > 1 else 1.0
    return PositionBias(
        chosen_P, expected_P, count_U @ has_UP, statistic, p_value, simulated, answers=len(chosen)
    )


def _chi_square(counts_SP: Any, expected_P: Floats) -> Any:
    return ((counts_SP - expected_P) ** 2 / expected_P).sum(axis=-1)


def yes_bias(
    score_N: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> YesBias:
    """Mean score of candidates judged against an empty query, and the share above 0.5.

    Raises:
        DataError: no scores, or one outside 0 to 1.
    """
    scores = _shares(score_N, "scores")
    return YesBias(
        mean=_estimate(scores, confidence, resamples, seed),
        above_half=_estimate((scores > 0.5).astype(np.float64), confidence, resamples, seed),
        judgements=len(scores),
    )


def order_swap(
    first_N: ArrayLike,
    second_N: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> OrderSwap:
    """The same judgements with the labels in one order and in the other. A score of 0.5 counts as no.

    Raises:
        DataError: no scores, one outside 0 to 1, or lengths that differ.
    """
    first, second = _shares(first_N, "first scores"), _shares(second_N, "second scores")
    _same_length(first, second)
    flipped = ((first > 0.5) != (second > 0.5)).astype(np.float64)
    return OrderSwap(
        flipped=_estimate(flipped, confidence, resamples, seed),
        difference=_estimate(np.abs(first - second), confidence, resamples, seed),
        shift=_estimate(first - second, confidence, resamples, seed),
        judgements=len(first),
    )


def reliability(
    score_N: ArrayLike,
    relevant_N: ArrayLike,
    *,
    bins: int = 10,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Reliability:
    """The reliability curve, the expected calibration error and the Brier score of scores read as shares.

    Bins hold equal counts (Nguyen and O'Connor 2015; the error as Naeini et al. 2015, who took equal widths):
    their edges are the quantiles of the scores, as scikit-learn's `calibration_curve(strategy="quantile")`
    has them. Equal scores share a bin, so that there may be fewer bins than asked for. The intervals of the
    error and of the Brier score (Brier 1950) come from drawing judgements anew, bins included.

    Args:
        score_N: 0 to 1.
        relevant_N: 0 or 1 (or booleans).

    Raises:
        DataError: no scores, one outside 0 to 1, a label that is neither 0 nor 1, or lengths that differ.
        UsageError: fewer than one bin.
    """
    if bins < 1:
        raise UsageError(f"{bins} bins were asked for.", where="bins", do="Give at least 1.")
    scores, relevant = _shares(score_N, "scores"), _shares(relevant_N, "labels")
    _same_length(scores, relevant)
    if not np.isin(relevant, (0.0, 1.0)).all():
        raise DataError("Labels are 0 or 1.", where="labels", do="Count grades above 0 as 1.")
    order = np.argsort(scores, kind="stable")
    scores, relevant = scores[order], relevant[order]
    count_B, score_B, relevant_B = _binned(scores, relevant, bins)
    random = np.random.default_rng(seed)
    errors_S = _errors_drawn_anew(scores, relevant, bins, resamples, random)
    low_B, high_B = _wilson(relevant_B, count_B, confidence)
    return Reliability(
        score_B=score_B,
        relevant_B=relevant_B,
        count_B=count_B,
        low_B=low_B,
        high_B=high_B,
        ece=Estimate(_error(count_B, score_B, relevant_B), *tails(errors_S, confidence)),
        ece_floor=_error_if_true(scores, count_B, score_B, resamples, random),
        brier=_estimate((scores - relevant) ** 2, confidence, resamples, seed),
        base_rate=float(relevant.mean()),
        judgements=len(scores),
    )


def _binned(scores_N: Floats, relevant_N: Floats, bins: int) -> tuple[Ints, Floats, Floats]:
    """(count, mean score, share of relevant) of the bins that hold something; scores ascend."""
    # In per cent, as scikit-learn rounds them: an edge may be a score. A bin ends with its upper edge.
    edges = np.percentile(scores_N, np.linspace(0, 1, bins + 1)[1:-1] * 100)
    ends = np.append(np.searchsorted(scores_N, edges, side="right"), len(scores_N))
    starts = np.append(0, ends[:-1])
    some = ends > starts
    starts, count_B = starts[some], (ends - starts)[some]
    return count_B, np.add.reduceat(scores_N, starts) / count_B, np.add.reduceat(relevant_N, starts) / count_B


def _errors_drawn_anew(
    scores_N: Floats, relevant_N: Floats, bins: int, resamples: int, random: np.random.Generator
) -> Floats:
    """The error (S,) of judgements drawn with replacement, binned anew."""
    errors_S = np.empty(resamples)
    for s in range(resamples):
        drawn_N = np.sort(random.integers(len(scores_N), size=len(scores_N)))
        errors_S[s] = _error(*_binned(scores_N[drawn_N], relevant_N[drawn_N], bins))
    return errors_S


def _error_if_true(
    scores_N: Floats, count_B: Ints, score_B: Floats, resamples: int, random: np.random.Generator
) -> float:
    """The mean error of the same bins where each candidate is relevant with its score as the chance."""
    starts = np.append(0, np.cumsum(count_B)[:-1])
    errors_S = np.empty(resamples)
    for s in range(resamples):
        true_N = (random.random(len(scores_N)) < scores_N).astype(np.float64)
        errors_S[s] = _error(count_B, score_B, np.add.reduceat(true_N, starts) / count_B)
    return float(errors_S.mean())


def _error(count_B: Ints, score_B: Floats, relevant_B: Floats) -> float:
    return float((count_B * np.abs(relevant_B - score_B)).sum() / count_B.sum())


def _wilson(share_B: Floats, count_B: Ints, confidence: float) -> tuple[Floats, Floats]:
    """The interval of a share (Wilson 1927): never outside 0 to 1, sound for shares of 0 and 1."""
    z = float(scipy.stats.norm.isf((1 - confidence) / 2))
    middle = (share_B + z**2 / (2 * count_B)) / (1 + z**2 / count_B)
    half = z / (1 + z**2 / count_B) * np.sqrt(share_B * (1 - share_B) / count_B + (z / (2 * count_B)) ** 2)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _estimate(values_N: Floats, confidence: float, resamples: int, seed: int) -> Estimate:
    interval = bootstrap_interval(values_N, confidence=confidence, resamples=resamples, seed=seed)
    return Estimate(float(values_N.mean()), *interval)


def _shares(values_N: ArrayLike, what: str) -> Floats:
    values = np.asarray(values_N, dtype=np.float64).reshape(-1)
    outside = ~((values >= 0) & (values <= 1))
    if len(values) == 0 or outside.any():
        raise DataError(
            f"There are none, or {int(outside.sum())} of {len(values)} lie outside 0 to 1 (or are NaN).",
            where=what,
            do="Give the scores of parsed answers, as probabilities.",
        )
    return values


def _same_length(first: NDArray[Any], second: NDArray[Any]) -> None:
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} and {len(second)} values are no pairs.", do="Give one of each for a judgement."
        )
