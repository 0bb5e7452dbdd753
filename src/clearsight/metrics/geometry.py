"""The shape of a cloud of vectors: how common, how spread, how crowded, how far apart two sides are.

All figures are float64. Lengths are divided out where a figure says "directions"; a zero row keeps length 0.

Legend: N rows, M rows of the other side, D width, P positive pairs, S sampled rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.moments import Moments
from clearsight.types import Embeddings

Floats = NDArray[np.float64]
BLOCK_ROWS = 1024
_EPSILON = float(np.finfo(np.float64).eps)
PER_CLASS = 1000
"""Rows of each side that the linear separability is measured on."""


def geometry(
    rows: Embeddings | NDArray[Any],
    other: Embeddings | NDArray[Any] | None = None,
    *,
    pairs: NDArray[np.int64] | None = None,
    k: int = 10,
    sample: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Figures of one set of rows, or of both sides together and between them.

    Of all rows given (both sides, if there are two):
        anisotropy: `mean_cosine`. effective_rank, isoscore: `effective_rank`, `isoscore` of the covariance.
        common_share: share of the squared length of the directions along their one top component (of the
            second moments, uncentred); 1 / min(N, D)..1, lower is better spread.
    Of the candidates (`other`, or `rows` among themselves):
        hubness: `hubness` with lists of `k`.
    Of each side (the mean of both, if there are two):
        uniformity: `uniformity`.
    Between two sides:
        modality_gap: `modality_gap`. separability: `separability`.
    Of pairs:
        alignment: `alignment`.

    Args:
        rows: N x D, finite, N >= 2; queries, where there are two sides.
        other: M x D; candidates.
        pairs: (P, 2) positions in `rows` and in `other` (in `rows` twice, if there is no other).
        k: length of the neighbour lists of the hubness.
        sample: at most so many rows of a side enter hubness, uniformity and separability, drawn with `seed`;
            the other figures use every row.

    Raises:
        DataError: fewer than two rows, widths that differ, NaN or infinity, or pairs out of range.
        UsageError: `k` below 1 or `sample` below 2.
    """
    if k < 1 or sample < 2:
        raise UsageError(
            f"k is {k} and sample {sample}.", do="Give k of at least 1 and sample of at least 2."
        )
    left_ND, right_MD = _rows(rows), None if other is None else _rows(other)
    if right_MD is not None and left_ND.shape[1] != right_MD.shape[1]:
        raise DataError(
            f"One side is {left_ND.shape[1]} wide, the other {right_MD.shape[1]}.",
            do="Embed both sides with one model.",
        )
    random = np.random.default_rng(seed)
    sides = [left_ND] if right_MD is None else [left_ND, right_MD]
    drawn = [directions(_draw(side, sample, random)) for side in sides]
    cloud, pointing = Moments(), Moments()
    for side in sides:
        for start in range(0, len(side), BLOCK_ROWS):
            block = np.asarray(side[start : start + BLOCK_ROWS], dtype=np.float64)
            cloud.update(block)
            pointing.update(directions(block))
    variance_D = np.asarray(np.linalg.eigvalsh(cloud.covariance_DD), dtype=np.float64)
    # Subtracting a mean leaves its rounding behind: rows that are all alike do not vary.
    variance_D[variance_D <= 4 * len(variance_D) * (_EPSILON * np.linalg.norm(cloud.mean_D)) ** 2] = 0.0
    second_D = np.asarray(np.linalg.eigvalsh(_second_moments(pointing)), dtype=np.float64)
    figures = {
        "anisotropy": _mean_cosine(pointing),
        "effective_rank": effective_rank(variance_D),
        "isoscore": isoscore(variance_D),
        "common_share": _share(second_D),
        "hubness": hubness(drawn[0], None if right_MD is None else drawn[1], k=k),
        "uniformity": float(np.mean([uniformity(side) for side in drawn])),
    }
    if right_MD is not None:
        figures["modality_gap"] = modality_gap(left_ND, right_MD)
        figures["separability"] = separability(drawn[0], drawn[1], seed=seed)
    if pairs is not None:
        figures["alignment"] = alignment(left_ND, left_ND if right_MD is None else right_MD, pairs)
    return figures


def directions(rows_ND: NDArray[Any]) -> Floats:
    """Rows of length 1, float64; zero rows stay zero."""
    rows = np.asarray(rows_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length_N1, out=np.zeros_like(rows), where=length_N1 > 0))


def mean_cosine(rows_ND: NDArray[Any]) -> float:
    """Mean cosine of two different rows (Ethayarajh 2019), over all pairs, in closed form.

    (|sum x|^2 - sum |x|^2) / (N (N - 1)) of the directions x. Range -1 / (N - 1)..1; 0 is isotropic, near 1
    means that every row points the same way.
    """
    return _mean_cosine(Moments().update(directions(rows_ND)))


def _mean_cosine(pointing: Moments) -> float:
    count = pointing.count
    mean_squared = float(pointing.mean_D @ pointing.mean_D)
    # sum |x|^2 = scatter's trace + N |mean|^2
    return float((count * (count - 1) * mean_squared - pointing.trace) / (count * (count - 1)))


def _second_moments(pointing: Moments) -> Floats:
    scatter_DD = pointing.covariance_DD * (pointing.count - 1)
    return np.asarray(scatter_DD / pointing.count + np.outer(pointing.mean_D, pointing.mean_D))


def effective_rank(variance_D: Floats) -> float:
    """exp of the entropy of the singular values of the centred rows over their sum (Roy & Vetterli 2007).

    Args:
        variance_D: eigenvalues of the covariance; the singular values are their roots up to a factor.

    Range 1..min(N - 1, D), higher uses more dimensions; NaN where nothing varies.
    """
    singular_D = np.sqrt(_clean(variance_D))
    if singular_D.sum() == 0:
        return float("nan")
    share_D = singular_D[singular_D > 0] / singular_D.sum()
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


def isoscore(variance_D: Floats) -> float:
    """IsoScore (Rudman, Gillman, Rayne & Eickhoff 2022, Algorithm 1).

    With v the eigenvalues of the covariance scaled to length sqrt(D), delta = |v - 1| / sqrt(2 (D - sqrt(D)))
    and phi = (D - delta^2 (D - sqrt(D)))^2 / D^2: (D phi - 1) / (D - 1). Range 0 (one dimension used)..1 (all
    alike); NaN where nothing varies or D is 1.
    """
    width = len(variance_D)
    variance = _clean(variance_D)
    length = np.linalg.norm(variance)
    if width < 2 or length == 0:
        return float("nan")
    scaled_D = np.sqrt(width) * variance / length
    defect = np.linalg.norm(scaled_D - 1) / np.sqrt(2 * (width - np.sqrt(width)))
    phi = (width - defect**2 * (width - np.sqrt(width))) ** 2 / width**2
    return float((width * phi - 1) / (width - 1))


def hubness(left_ND: NDArray[Any], right_MD: NDArray[Any] | None = None, *, k: int = 10) -> float:
    """Skewness of the k-occurrence (Radovanovic, Nanopoulos & Ivanovic 2010): how often a row is among the k
    rows of highest cosine.

    Lists are those of `left` over `right`; with one set, those of each row over the others. Equal cosines (to
    1e-12) share the places they compete for, so a collapsed set has no hubs. Range: 0 is even, above 1 is
    hubby; lower is better. 0 where every row occurs equally often.
    """
    left = directions(left_ND)
    right = left if right_MD is None else directions(right_MD)
    listed = min(k, len(right) - (right_MD is None))
    occurrence_M = np.zeros(len(right))
    for start in range(0, len(left), BLOCK_ROWS):
        cosine_NM = (left[start : start + BLOCK_ROWS] @ right.T).round(12)
        if right_MD is None:
            own = np.arange(len(cosine_NM))
            cosine_NM[own, start + own] = -np.inf
        last_N1 = np.partition(cosine_NM, -listed, axis=1)[:, [-listed]]
        above_NM, equal_NM = cosine_NM > last_N1, cosine_NM == last_N1
        places_N1 = (listed - above_NM.sum(1, keepdims=True)) / equal_NM.sum(1, keepdims=True)
        occurrence_M += above_NM.sum(0) + (equal_NM * places_N1).sum(0)
    centred_M = occurrence_M - occurrence_M.mean()
    spread = np.sqrt((centred_M**2).mean())
    return 0.0 if spread < 1e-9 * listed else float((centred_M**3).mean() / spread**3)


def uniformity(rows_ND: NDArray[Any], t: float = 2.0) -> float:
    """Wang & Isola 2020: log of the mean of exp(-t |x - y|^2) over all pairs of different rows' directions.

    Range -4 t..0 (here -8..0), lower is more uniform.
    """
    rows = directions(rows_ND)
    total, squared_N = 0.0, (rows**2).sum(1)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        distance_NM = squared_N[block, None] + squared_N - 2 * rows[block] @ rows.T
        own = np.arange(len(distance_NM))
        distance_NM[own, start + own] = np.inf
        total += float(np.exp(-t * np.maximum(distance_NM, 0)).sum())
    return float(np.log(total / (len(rows) * (len(rows) - 1))))


def alignment(left_ND: NDArray[Any], right_MD: NDArray[Any], pairs: NDArray[np.int64]) -> float:
    """Wang & Isola 2020: mean |x - y|^2 of the directions of positive pairs (alpha = 2). Range 0..4, lower is
    better aligned.

    Raises:
        DataError: no pairs, or positions that are not there.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise DataError(f"Pairs have shape {pairs.shape}.", do="Give at least one (row, row) position pair.")
    if pairs.min() < 0 or (pairs.max(axis=0) >= (len(left_ND), len(right_MD))).any():
        raise DataError("A pair names a row that is not there.", do="Give positions within both sides.")
    total = 0.0
    for start in range(0, len(pairs), BLOCK_ROWS):
        left_P, right_P = pairs[start : start + BLOCK_ROWS].T
        total += float(((directions(left_ND[left_P]) - directions(right_MD[right_P])) ** 2).sum())
    return total / len(pairs)


def modality_gap(left_ND: NDArray[Any], right_MD: NDArray[Any]) -> float:
    """Liang et al. 2022: distance between the means of both sides' directions. Range 0..2, 0 is no gap."""
    means = [Moments() for _ in range(2)]
    for side, moments in zip((left_ND, right_MD), means, strict=True):
        for start in range(0, len(side), BLOCK_ROWS):
            moments.update(directions(side[start : start + BLOCK_ROWS]))
    return float(np.linalg.norm(means[0].mean_D - means[1].mean_D))


def separability(left_ND: NDArray[Any], right_MD: NDArray[Any], *, seed: int = 0) -> float:
    """How well a hyperplane tells the sides apart: cross-validated balanced accuracy, on directions.

    Linear discriminant with Ledoit-Wolf shrinkage, five stratified folds (fewer for small sides), at most
    1000 rows of each side. Range 0..1; 0.5 is indistinguishable, 1 separable. NaN for a side of one row.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    random = np.random.default_rng(seed)
    drawn = [directions(_draw(side, PER_CLASS, random)) for side in (left_ND, right_MD)]
    folds = min(5, *map(len, drawn))
    if folds < 2:
        return float("nan")
    side_N = np.repeat([0, 1], [len(side) for side in drawn])
    accuracies = cross_val_score(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        np.concatenate(drawn),
        side_N,
        scoring="balanced_accuracy",
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    )
    return float(accuracies.mean())


def _rows(given: Embeddings | NDArray[Any]) -> NDArray[Any]:
    rows_ND = given.rows_ND if isinstance(given, Embeddings) else np.asarray(given)
    if rows_ND.ndim != 2 or len(rows_ND) < 2 or rows_ND.shape[1] == 0:
        raise DataError(f"Rows of shape {rows_ND.shape} have no geometry.", do="Give at least two rows.")
    return rows_ND


def _draw(rows_ND: NDArray[Any], sample: int, random: np.random.Generator) -> NDArray[Any]:
    if len(rows_ND) <= sample:
        return rows_ND
    return np.asarray(rows_ND[np.sort(random.choice(len(rows_ND), sample, replace=False))])


def _clean(eigenvalues_D: Floats) -> Floats:
    """Eigenvalues without the rounding of those that are 0."""
    floor = len(eigenvalues_D) * _EPSILON * max(float(eigenvalues_D.max(initial=0)), 0.0)
    return np.where(eigenvalues_D > floor, eigenvalues_D, 0.0)


def _share(eigenvalues_D: Floats) -> float:
    clean_D = _clean(eigenvalues_D)
    return float(clean_D.max() / clean_D.sum()) if clean_D.sum() > 0 else float("nan")
