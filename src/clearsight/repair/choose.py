"""Choosing the settings of a repair without labels; every sweep is returned as data.

Legend of shapes: N rows or pairs, D width, S rows scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.repair.affine import RowMap, Rows, unit_rows
from clearsight.repair.canonical import canonical
from clearsight.repair.spectrum import Spectrum
from clearsight.repair.whitening import presets

Rule: TypeAlias = Literal["auto", "self_retrieval", "hubness", "ledoit_wolf", "oas", "fixed"]

RULES: tuple[Rule, ...] = ("auto", "self_retrieval", "hubness", "ledoit_wolf", "oas", "fixed")
GRID = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
FIXED = 0.5
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Trial:
    """One value of the shrinkage.

    Attributes:
        hubness: skewness of the 10-occurrence of the whitened rows; lower is better.
        self_retrieval: how often a row of one view finds its own row of the other at rank 1, mean of both
            directions, 0..1, higher is better; None without a second view.
    """

    shrinkage: float
    hubness: float
    self_retrieval: float | None


@dataclass(frozen=True, slots=True)
class ShrinkageChoice:
    """The value chosen, by which rule, and what was seen on the way."""

    value: float
    rule: str
    trials: tuple[Trial, ...]
    ledoit_wolf: float
    oas: float


@dataclass(frozen=True, slots=True)
class AlignmentTrial:
    """One pair of settings of `SelfAlign` and the hit rate@1 on held-out pairs, mean of both directions."""

    shrinkage: float
    components: int
    hit_rate: float


@dataclass(frozen=True, slots=True)
class AlignmentChoice:
    """The settings with the best hit rate on held-out pairs, and the sweep."""

    shrinkage: float
    components: int
    trials: tuple[AlignmentTrial, ...]


def choose_shrinkage(
    rows_ND: Rows,
    second_view_ND: Rows | None = None,
    *,
    rule: Rule = "auto",
    grid: Sequence[float] = GRID,
    most_rows: int = 2000,
    seed: int = 0,
) -> ShrinkageChoice:
    """Choose the shrinkage of `ShrinkageZCA` without labels.

    Rules: "self_retrieval": the value under which two views of the same items, each whitened by its own
    statistics, find each other best (ties: the larger value); "hubness": the value with the least skewed
    10-occurrence; "ledoit_wolf" and "oas": the intensities of those names; "fixed": 0.5, fixed before any
    measurement; "auto": self_retrieval with a second view, else fixed.

    Args:
        rows_ND: one side, unnormalised.
        second_view_ND: the same items in the same order, embedded otherwise (another prompt, layer or crop).
        grid: values tried, each above 0 and at most 1.
        most_rows: rows scored (all are fitted on); drawn with `seed` where there are more.

    Raises:
        UsageError: an unknown rule, a rule that needs a second view, an empty grid or one beyond (0, 1].
        DataError: fewer than two rows, or views of different lengths.
    """
    if rule not in RULES:
        raise UsageError(f"rule is {rule!r}.", do=f"Choose from {', '.join(RULES)}.")
    if not grid or min(grid) <= 0 or max(grid) > 1:
        raise UsageError(f"The grid is {tuple(grid)}.", do="Give values above 0 and at most 1.")
    views = [rows_ND] if second_view_ND is None else [rows_ND, second_view_ND]
    if len(rows_ND) < 2 or len({len(view) for view in views}) > 1:
        raise DataError(
            f"Views of {', '.join(str(len(view)) for view in views)} rows.",
            do="Give at least two rows, and the same items in every view.",
        )
    if rule == "auto":
        rule = "fixed" if second_view_ND is None else "self_retrieval"
    if rule == "self_retrieval" and second_view_ND is None:
        raise UsageError("self_retrieval needs a second view of the items.", do="Give one, or another rule.")
    spectra = [Spectrum.of(view, normalize=True) for view in views]
    index_S = _sample(len(rows_ND), most_rows, seed)
    trials = tuple(_trial(spectra, [view[index_S] for view in views], value) for value in sorted(grid))
    found = {"ledoit_wolf": spectra[0].intensity("ledoit_wolf"), "oas": spectra[0].intensity("oas")}
    if rule == "self_retrieval":
        value = max(trials, key=lambda trial: (trial.self_retrieval, trial.shrinkage)).shrinkage
    elif rule == "hubness":
        value = min(trials, key=lambda trial: (trial.hubness, -trial.shrinkage)).shrinkage
    else:
        value = found.get(rule, FIXED)
    return ShrinkageChoice(value, rule, trials, **found)


def choose_alignment(
    image_NI: Rows,
    text_NT: Rows,
    *,
    shrinkages: Sequence[float] = (0.03, 0.1, 0.3),
    components: Sequence[int] = (25, 50, 100, 200),
    folds: int = 5,
    seed: int = 0,
) -> AlignmentChoice:
    """Choose the settings of `SelfAlign` by cross-validation on the generated pairs: no label is used.

    A map fitted on the other folds is asked to find each held-out image's own caption, and each caption's
    image, in its fold. Ties go to the larger shrinkage, then to fewer components.

    Args:
        image_NI, text_NT: N pairs, unnormalised, N >= 4 * folds.

    Raises:
        DataError: too few pairs, or sides of different lengths.
    """
    if len(image_NI) != len(text_NT) or len(image_NI) < 4 * folds or folds < 2:
        raise DataError(
            f"{len(image_NI)} images and {len(text_NT)} captions in {folds} folds.",
            do="Give one caption an image, at least two folds and four pairs for each.",
        )
    image_NI, text_NT = (unit_rows(np.asarray(rows, dtype=np.float64)) for rows in (image_NI, text_NT))
    fold_N = np.random.default_rng(seed).permutation(len(image_NI)) % folds
    widest = max(components)
    total: dict[tuple[float, int], float] = {}
    for fold in range(folds):
        out = fold_N == fold
        for shrinkage in shrinkages:
            found = canonical(image_NI[~out], text_NT[~out], None, shrinkage, widest)
            image_SK = (image_NI[out] - found.image_mean_I) @ found.image_IK
            text_SK = (text_NT[out] - found.text_mean_T) @ found.text_TK
            for count in components:
                rate = _both_ways(image_SK[:, :count], text_SK[:, :count])
                total[shrinkage, count] = total.get((shrinkage, count), 0.0) + rate * out.sum()
    trials = tuple(
        AlignmentTrial(shrinkage, count, float(rate / len(image_NI)))
        for (shrinkage, count), rate in total.items()
    )
    best = max(trials, key=lambda trial: (trial.hit_rate, trial.shrinkage, -trial.components))
    return AlignmentChoice(best.shrinkage, best.components, trials)


def k_occurrence_skewness(rows_ND: Rows, neighbours: int = 10) -> float:
    """Skewness of how often a row is among the `neighbours` nearest (cosine) of the others (hubness;
    Radovanovic et al. 2010); 0 where every row is as often.

    Raises:
        DataError: fewer than two rows.
    """
    if len(rows_ND) < 2:
        raise DataError(f"Hubness of {len(rows_ND)} row.", do="Give at least two rows.")
    unit_ND = unit_rows(rows_ND)
    kept = min(neighbours, len(rows_ND) - 1)
    count_N = np.zeros(len(rows_ND))
    for start in range(0, len(rows_ND), BLOCK):
        score_BN = unit_ND[start : start + BLOCK] @ unit_ND.T
        np.fill_diagonal(score_BN[:, start:], -np.inf)
        nearest_BK = np.argpartition(score_BN, -kept, axis=1)[:, -kept:]
        count_N += np.bincount(nearest_BK.ravel(), minlength=len(rows_ND))
    deviation_N = count_N - count_N.mean()
    spread = float(np.sqrt(np.mean(deviation_N**2)))
    return float(np.mean(deviation_N**3)) / spread**3 if spread > 0 else 0.0


def _trial(spectra: Sequence[Spectrum], samples: Sequence[Rows], shrinkage: float) -> Trial:
    eps, relative = presets.get("default").eps, presets.get("default").eps_relative
    white = [
        RowMap(True, spectrum.mean_D, spectrum.zca(shrinkage, eps, relative=relative)).apply(sample)
        for spectrum, sample in zip(spectra, samples, strict=True)
    ]
    found = _both_ways(white[0], white[1]) if len(white) > 1 else None
    return Trial(float(shrinkage), k_occurrence_skewness(white[0]), found)


def _both_ways(left_SE: Rows, right_SE: Rows) -> float:
    """How often row n of one side finds row n of the other first; ties count as chance among them."""
    left, right = unit_rows(left_SE), unit_rows(right_SE)
    own_S = np.einsum("se,se->s", left, right)[:, None]
    return float((_hit_rate(left, right, own_S) + _hit_rate(right, left, own_S)) / 2)


def _hit_rate(rows_SE: Rows, others_SE: Rows, own_S1: NDArray[Any]) -> float:
    hits = 0.0
    for start in range(0, len(rows_SE), BLOCK):
        block = slice(start, start + BLOCK)
        score_BS = rows_SE[block] @ others_SE.T
        np.fill_diagonal(score_BS[:, start:], -np.inf)
        best_B, own_B = score_BS.max(axis=1), own_S1[block, 0]
        tied_B = (score_BS == own_B[:, None]).sum(axis=1)
        hits += float(np.where(best_B > own_B, 0.0, 1 / (1 + tied_B)).sum())
    return hits / len(rows_SE)


def _sample(count: int, most: int, seed: int) -> NDArray[np.int64]:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
