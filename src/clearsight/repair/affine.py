"""What every repair becomes once it is fitted: take the norm, subtract a mean, multiply by a matrix.

Legend of shapes: N rows, D width in, E width out, R directions that are treated apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.moments import row_blocks

Rows = NDArray[Any]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


def unit_rows(rows_ND: Rows, out: Rows | None = None) -> Rows:
    """Rows of length 1, in their own dtype; a row of zeros stays zero (it has no direction).

    Args:
        out: where to put them; may be `rows_ND` itself.
    """
    limits = np.finfo(rows_ND.dtype)
    with np.errstate(over="ignore", under="ignore"):
        square_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    if not (np.isfinite(square_N) & (square_N > limits.tiny / limits.eps)).all():
        # The square of a float32 beyond 1e19 overflows: the largest entry is divided out first.
        largest_N1 = np.abs(rows_ND).max(axis=1, keepdims=True, initial=0)
        rows_ND = rows_ND / np.where(largest_N1 > 0, largest_N1, 1)
        square_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    length_N = np.sqrt(square_N)
    unit_ND: Rows = np.divide(rows_ND, np.where(length_N > 0, length_N, 1)[:, None], out=out)
    return unit_ND


def float64_blocks(rows_ND: Rows, *, normalize: bool) -> Iterator[Rows]:
    """Copies of the rows in float64, a block at a time, normalised where asked."""
    for block in row_blocks(*rows_ND.shape):
        part_BD = rows_ND[block].astype(np.float64)
        yield unit_rows(part_BD, out=part_BD) if normalize else part_BD


class Linear(Protocol):
    """A linear map of rows, D to E wide."""

    @property
    def width(self) -> int:
        """E."""
        ...

    def __call__(self, rows_ND: Rows, out: Rows | None = None) -> Rows: ...

    @property
    def dense_DE(self) -> Matrix: ...


@dataclass(frozen=True, eq=False)
class Dense:
    """rows @ matrix, computed in the dtype of the rows."""

    matrix_DE: Matrix
    _single: dict[str, Rows] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        return int(self.matrix_DE.shape[1])

    def __call__(self, rows_ND: Rows, out: Rows | None = None) -> Rows:
        matrix_DE = self.matrix_DE
        if rows_ND.dtype == np.float32:
            if "float32" not in self._single:  # a single query must not pay for the conversion of the matrix
                self._single["float32"] = matrix_DE.astype(np.float32)
            matrix_DE = self._single["float32"]
        return np.matmul(rows_ND, matrix_DE, out=out)

    @property
    def dense_DE(self) -> Matrix:
        return self.matrix_DE


@dataclass(frozen=True, eq=False)
class Directional:
    """Scale R orthonormal directions each by its gain and everything orthogonal to them by `rest`.

    rest * x + ((x Q) * (gain - rest)) Q^T: the identity (R = 0), a projection (gain 0), or a whitening matrix
    that was never written out because there were fewer rows than dimensions.
    """

    basis_DR: Matrix
    gain_R: Vector
    rest: float

    @classmethod
    def identity(cls, width: int) -> Directional:
        return cls(np.zeros((width, 0)), np.zeros(0), 1.0)

    @classmethod
    def removal(cls, basis_DR: Matrix) -> Directional:
        """The projection onto what is orthogonal to the columns of an orthonormal basis."""
        return cls(basis_DR, np.zeros(basis_DR.shape[1]), 1.0)

    @property
    def width(self) -> int:
        return len(self.basis_DR)

    def __call__(self, rows_ND: Rows, out: Rows | None = None) -> Rows:
        if not len(self.gain_R):
            return np.multiply(rows_ND, self.rest, dtype=rows_ND.dtype, out=out)
        basis_DR = self.basis_DR.astype(rows_ND.dtype, copy=False)
        along_NR = rows_ND @ basis_DR
        along_NR *= (self.gain_R - self.rest).astype(rows_ND.dtype, copy=False)
        out_ND: Rows = np.matmul(along_NR, basis_DR.T, out=out)
        out_ND += np.multiply(rows_ND, self.rest, dtype=rows_ND.dtype)
        return out_ND

    @cached_property
    def dense_DE(self) -> Matrix:
        change_R = self.gain_R - self.rest
        if (change_R <= 0).all() or (change_R >= 0).all():  # a product with its own transpose: half the work
            root_DR = self.basis_DR * np.sqrt(np.abs(change_R))
            dense_DD: Matrix = np.sign(change_R.sum()) * (root_DR @ root_DR.T)
        else:
            dense_DD = (self.basis_DR * change_R) @ self.basis_DR.T
        dense_DD[np.diag_indices_from(dense_DD)] += self.rest
        return dense_DD


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x @ matrix_DE + offset_E, float64; between two L2 norms every repair is one of these."""

    matrix_DE: Matrix
    offset_E: Vector

    def __post_init__(self) -> None:
        if self.matrix_DE.ndim != 2 or self.offset_E.shape != self.matrix_DE.shape[1:]:
            raise UsageError(
                f"Matrix {self.matrix_DE.shape} and offset {self.offset_E.shape} do not make an affine map.",
                do="Give a matrix (D, E) and an offset (E,).",
            )

    def apply(self, rows_ND: Rows) -> Rows:
        """Rows (N, D) to rows (N, E), in the dtype of the rows."""
        out_NE: Rows = rows_ND @ self.matrix_DE.astype(rows_ND.dtype)
        out_NE += self.offset_E.astype(rows_ND.dtype)
        return out_NE

    def compose(self, after: Affine) -> Affine:
        """The one map that does this, then `after`."""
        return Affine(self.matrix_DE @ after.matrix_DE, self.offset_E @ after.matrix_DE + after.offset_E)


@dataclass(frozen=True, eq=False)
class RowMap:
    """A fitted repair: rows, normalised first if asked, minus the mean, through the linear map."""

    normalize: bool
    mean_D: Vector
    linear: Linear

    def apply(self, rows_ND: Rows) -> Rows:
        """Rows (N, D) to rows (N, E), in blocks, in the dtype of the rows.

        The mean is subtracted before the product, not folded into an offset: rows that share a large common
        component would lose their digits in float32.
        """
        mean_D = self.mean_D.astype(rows_ND.dtype)
        out_NE: Rows = np.empty((len(rows_ND), self.linear.width), dtype=rows_ND.dtype)
        for block in row_blocks(*rows_ND.shape):
            part_BD = unit_rows(rows_ND[block]) if self.normalize else rows_ND[block].copy()
            part_BD -= mean_D
            self.linear(part_BD, out=out_NE[block])
        return out_NE

    @property
    def affine(self) -> Affine:
        dense_DE = self.linear.dense_DE
        return Affine(dense_DE, -(self.mean_D @ dense_DE))
