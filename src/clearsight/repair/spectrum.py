"""The spectrum of a covariance, and the inverse root of its shrunk form.

Legend of shapes: N rows, D width, R directions with variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.linalg import eigh

from clearsight.errors import UsageError
from clearsight.moments import Moments, ledoit_wolf_from_sums, oas_from_sums
from clearsight.repair.affine import Dense, Directional, Linear, Matrix, Rows, Vector, float64_blocks

Shrinkage: TypeAlias = float | Literal["ledoit_wolf", "oas"]

NO_VARIANCE = 1e-28
"""Share of the mean square below which the variance of unit rows is float64 rounding: 1e-14 squared."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvectors and eigenvalues of a covariance (over N - 1), largest first.

    From fewer rows than dimensions only the R <= N - 1 directions that have variance are found, by the N x N
    Gram matrix: no D x D matrix exists then.

    Attributes:
        count: N, or the sum of weights.
        third_D, fourth: sum |x - mean|^2 (x - mean) and sum |x - mean|^4, for Ledoit and Wolf.
        negligible: the variance is the rounding of equal rows.
    """

    count: float
    mean_D: Vector
    basis_DR: Matrix
    variance_R: Vector
    third_D: Vector
    fourth: float
    negligible: bool

    @classmethod
    def of(cls, rows_ND: Rows, *, normalize: bool) -> Spectrum:
        """Of rows (N, D), normalised first where asked: by the cheaper form, one block of rows at a time."""
        if len(rows_ND) < rows_ND.shape[1]:
            return cls.of_rows(np.concatenate(list(float64_blocks(rows_ND, normalize=normalize))))
        moments = Moments()
        for block_BD in float64_blocks(rows_ND, normalize=normalize):
            moments.update(block_BD, overwrite=True)
        return cls.of_moments(moments)

    @classmethod
    def of_moments(cls, moments: Moments) -> Spectrum:
        """By one D x D eigendecomposition.

        Raises:
            DataError: fewer than two rows.
        """
        variance_D, basis_DD = eigh(moments.covariance_DD, overwrite_a=True, check_finite=False, driver="evd")
        return cls(
            moments.count,
            moments.mean_D.copy(),
            basis_DD[:, ::-1],
            np.maximum(variance_D[::-1], 0.0),
            moments.third_D.copy(),
            moments.fourth,
            _negligible(moments.trace / moments.count, moments.mean_D),
        )

    @classmethod
    def of_rows(cls, rows_ND: Rows, weights_N: Vector | None = None) -> Spectrum:
        """By one N x N eigendecomposition, for fewer rows than dimensions."""
        weights = np.ones(len(rows_ND)) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
        count = float(weights.sum())
        centred_ND = np.array(rows_ND, dtype=np.float64)
        mean_D = weights @ centred_ND / count
        centred_ND -= mean_D
        square_N = np.einsum("nd,nd->n", centred_ND, centred_ND)
        third_D, fourth = (weights * square_N) @ centred_ND, float(weights @ square_N**2)
        centred_ND *= np.sqrt(weights)[:, None]
        scatter_N, left_NN = eigh(
            centred_ND @ centred_ND.T, overwrite_a=True, check_finite=False, driver="evd"
        )
        scatter_N, left_NN = scatter_N[::-1], left_NN[:, ::-1]
        # Below this the Gram matrix holds rounding, and the direction would not be orthogonal to the others.
        kept = scatter_N > max(scatter_N[0], 0.0) * len(rows_ND) * np.finfo(np.float64).eps
        basis_DR = (centred_ND.T @ left_NN[:, kept]) / np.sqrt(scatter_N[kept])
        return cls(
            count,
            mean_D,
            basis_DR,
            scatter_N[kept] / (count - 1),
            third_D,
            fourth,
            _negligible(float(weights @ square_N) / count, mean_D),
        )

    @property
    def width(self) -> int:
        return len(self.mean_D)

    def moments(self) -> Moments:
        """The same statistics, ready for more rows."""
        scatter_DD = (self.basis_DR * (self.variance_R * (self.count - 1))) @ self.basis_DR.T
        return Moments.of(self.count, self.mean_D, scatter_DD, self.third_D, self.fourth)

    @property
    def trace(self) -> float:
        return float(self.variance_R.sum())

    def intensity(self, shrinkage: Shrinkage) -> float:
        """The number behind a rule's name; a number is returned as it is.

        Raises:
            UsageError: neither a known rule nor a number from 0 to 1.
        """
        scatter_R = self.variance_R * (self.count - 1)
        trace, square_sum = float(scatter_R.sum()), float(scatter_R @ scatter_R)
        if isinstance(shrinkage, str):
            if shrinkage == "ledoit_wolf":
                return ledoit_wolf_from_sums(self.count, self.width, trace, square_sum, self.fourth)
            if shrinkage == "oas":
                return oas_from_sums(self.count, self.width, trace, square_sum)
        elif 0 <= shrinkage <= 1:
            return float(shrinkage)
        raise UsageError(
            f"shrinkage is {shrinkage!r}.", do="Give a number from 0 to 1, 'ledoit_wolf' or 'oas'."
        )

    def gains(self, intensity: float, eps: float, *, relative: bool) -> tuple[Vector, float]:
        """Inverse roots of the shrunk eigenvalues, and that of the directions without variance.

        ((1 - a) s + a t + e)^(-1/2) with t = tr(C) / D and e = eps, times t where `relative`; 1 everywhere
        where the rows have no variance. A direction without any variance and without a floor gets gain 0.
        """
        if self.negligible:
            return np.ones_like(self.variance_R), 1.0
        mean_variance = self.trace / self.width
        floor = intensity * mean_variance + eps * (mean_variance if relative else 1.0)
        # Without a floor this is the pseudo-inverse: what is only rounding is dropped, not blown up.
        least = 0.0 if floor > 0 else self.trace * self.width * np.finfo(np.float64).eps
        shrunk_R = (1 - intensity) * self.variance_R + floor
        gain_R = np.where(shrunk_R > least, 1 / np.sqrt(np.maximum(shrunk_R, least or floor)), 0.0)
        return gain_R, float(1 / np.sqrt(floor)) if floor > 0 else 0.0

    def zca(self, intensity: float, eps: float, *, relative: bool) -> Linear:
        """The symmetric whitening matrix U diag(gain) U^T, written out only where that is cheaper."""
        gain_R, rest = self.gains(intensity, eps, relative=relative)
        if self.negligible:
            return Directional.identity(self.width)
        directional = Directional(self.basis_DR, gain_R, rest)
        return directional if 2 * len(gain_R) < self.width else Dense(directional.dense_DE)


def _negligible(mean_square: float, mean_D: Vector) -> bool:
    return mean_square <= NO_VARIANCE * float(mean_D @ mean_D)
