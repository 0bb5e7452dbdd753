"""How energy is shared out among concepts, and how modality scores are distributed.

Legend of shapes: C concepts, X points of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clearsight.concepts.codes import Floats
from clearsight.concepts.sets import TOP_SHARE, set_size
from clearsight.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class EnergyCurve:
    """Cumulative energy by rank (Feng et al. 2026, figure 3).

    Attributes:
        rank_X: number of concepts, the strongest first, from 0 to C.
        share_X: their share of the total energy, 0..1.
        gini: inequality, 0 (all alike)..1 - 1/C (one holds everything), dead concepts counted.
        top_share: share of the energy that the top 1% of the concepts (`set_size`) hold.
        half_at: how many concepts hold half of the energy.
    """

    rank_X: Floats
    share_X: Floats
    gini: float
    top_share: float
    half_at: int


def energy_curve(energy_C: Any, points: int | None = None) -> EnergyCurve:
    """The cumulative curve with its figures; of long ones `points` ranks are kept, spaced evenly in the log.

    Args:
        energy_C: not negative, dead concepts as 0.
        points: how many ranks, from 0 to C, at most; None keeps all.

    Raises:
        DataError: a negative or non-finite energy, or none above 0.
    """
    energy_C = np.asarray(energy_C, dtype=np.float64)
    if energy_C.ndim != 1 or not (np.isfinite(energy_C) & (energy_C >= 0)).all() or not energy_C.sum():
        raise DataError("The energies are not numbers from 0 with one above it.", do="Check the codes.")
    falling_C = np.sort(energy_C)[::-1]
    share_X = np.concatenate(([0.0], np.cumsum(falling_C) / falling_C.sum()))
    share_X[-1] = 1.0
    rank_X = np.arange(len(share_X))
    top = float(share_X[set_size(len(energy_C), TOP_SHARE)])
    half = int(np.searchsorted(share_X, 0.5))
    if points is not None and points < len(share_X):
        spaced = np.geomspace(1, len(energy_C), max(points - 1, 2)).round().astype(np.int64)
        rank_X = np.unique(np.concatenate(([0], spaced)))
    return EnergyCurve(rank_X.astype(np.float64), share_X[rank_X], gini(energy_C), top, half)


def gini(energy_C: Any) -> float:
    """Gini coefficient: sum_i (2 i - C - 1) e_(i) / (C sum e), e ascending, i from 1. NaN where all are 0."""
    rising_C = np.sort(np.asarray(energy_C, dtype=np.float64))
    count, total = len(rising_C), rising_C.sum()
    if not total:
        return float("nan")
    return float(((2 * np.arange(1, count + 1) - count - 1) * rising_C).sum() / (count * total))


@dataclass(frozen=True, eq=False)
class Density:
    """A density of modality scores over 0 (image)..1 (text).

    Attributes:
        score_X: evenly spaced points from 0 to 1.
        density_X: not negative; its integral over 0..1 is 1.
        bandwidth: standard deviation of the kernel.
        concepts: how many scores it was made from.
        weighted: whether the concepts count by their energy.
    """

    score_X: Floats
    density_X: Floats
    bandwidth: float
    concepts: int
    weighted: bool


def modality_density(
    modality_score_C: Any,
    energy_C: Any = None,
    *,
    bandwidth: float | None = None,
    points: int = 257,
) -> Density:
    """Kernel density estimate of modality scores (figure 2), Gaussian, reflected at 0 and at 1.

    Scores end at 0 and 1 and crowd there. A plain Gaussian estimate would put half of such a crowd outside;
    here what leaves one end is folded back, so that the integral over 0..1 is 1 and a uniform set of scores
    has a flat estimate. Own arithmetic: scipy's gaussian_kde on the scores and their mirror images gives the
    same (its twin in the tests).

    Args:
        modality_score_C: 0..1; NaN (a concept that fires on neither modality) is left out.
        energy_C: weighs every concept by its energy; None counts them alike.
        bandwidth: of the kernel; None takes Scott's rule, sigma n^(-1/5) with the weights' effective number
            n = (sum w)^2 / sum w^2. Never below the distance of two points.
        points: how many, from 0 to 1.

    Raises:
        DataError: no concept has a score (and, weighted, energy).
        UsageError: a score outside 0..1, weights that do not fit, or a bandwidth or number of points that
            makes no curve.
    """
    score = np.asarray(modality_score_C, dtype=np.float64)
    weight = np.ones_like(score) if energy_C is None else np.asarray(energy_C, dtype=np.float64)
    if weight.shape != score.shape or points < 2 or (bandwidth is not None and not bandwidth > 0):
        raise UsageError(
            f"Scores {score.shape}, weights {weight.shape}, {points} points, bandwidth {bandwidth}.",
            do="Give one weight a score, at least two points and a bandwidth above 0.",
        )
    chosen = ~np.isnan(score) & (weight > 0)
    score, weight = score[chosen], weight[chosen]
    if not len(score):
        raise DataError("No concept has a modality score.", do="Check that any concept fires.")
    if score.min() < 0 or score.max() > 1:
        raise UsageError("A modality score lies outside 0..1.", do="Give text / (image + text).")
    weight = weight / weight.sum()
    mean = float(weight @ score)
    effective = 1 / float(weight @ weight)
    spread = np.sqrt(float(weight @ (score - mean) ** 2))
    kernel = spread * effective**-0.2 if bandwidth is None else bandwidth
    kernel = max(kernel, 1 / (points - 1))
    grid_X = np.linspace(0, 1, points)
    density_X = np.zeros(points)
    folds = int(np.ceil((2 + 9 * kernel) / 2))  # beyond nine kernels a Gaussian is 0 in float64's eyes
    step = max(1, (1 << 20) // points)
    for start in range(0, len(score), step):
        part, share = score[start : start + step], weight[start : start + step]
        for image in range(-folds, folds + 1):
            for mirrored in (part + 2 * image, -part + 2 * image):
                near = (mirrored > -9 * kernel) & (mirrored < 1 + 9 * kernel)
                distance = (grid_X[:, None] - mirrored[near]) / kernel
                density_X += np.exp(-0.5 * distance**2) @ share[near]
    density_X /= kernel * np.sqrt(2 * np.pi)
    return Density(grid_X, density_X, float(kernel), len(score), energy_C is not None)
