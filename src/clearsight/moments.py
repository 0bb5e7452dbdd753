"""Mean, covariance and shrinkage of rows that need not fit in memory.

Legend of shapes: N rows, D width.

Everything here is exact whatever the blocks: a block is centred on its own mean, its scatter is added by one
symmetric rank-N update (half the work of a general product), and the two means are reconciled by the pairwise
formula of Chan, Golub and LeVeque (1983, eq. 2.1). Ledoit and Wolf's intensity needs sum |x - mean|^4, which
changes when the mean moves; sum |x - mean|^2 (x - mean), D numbers, is what makes that change exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv, dsyr, dsyrk

from clearsight.errors import DataError

BLOCK_VALUES = 2**21
"""Numbers worked on at a time: 16 MB in float64; allocators map larger blocks anew each time."""

Vector = NDArray[np.float64]


def row_blocks(count: int, width: int) -> Iterator[slice]:
    """Slices that cut rows of `width` into blocks of at most `BLOCK_VALUES` numbers, or of 64 rows."""
    step = max(BLOCK_VALUES // max(width, 1), 64)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class Moments:
    """Streaming moments of rows: count, mean and scatter, and what Ledoit-Wolf needs beyond them.

    Memory is one D x D float64 matrix and one block of rows, whatever N is. Two ways of cutting the same rows
    into blocks agree to 1e-10 of the largest variance, also where the mean dwarfs the spread.

    Args:
        width: D; None: taken from the first rows.

    Attributes:
        count: number of rows seen, or the sum of their weights.
        mean_D: float64.
        third_D, fourth: sum |x - mean|^2 (x - mean) and sum |x - mean|^4.
    """

    def __init__(self, width: int | None = None) -> None:
        self.count = 0.0
        self.mean_D: Vector = np.zeros(0)
        self.third_D: Vector = np.zeros(0)
        self.fourth = 0.0
        if width is not None:
            self._allocate(width)

    @classmethod
    def of(
        cls, count: float, mean_D: Vector, scatter_DD: NDArray[np.float64], third_D: Vector, fourth: float
    ) -> Moments:
        """Moments from sums over centred rows: x x^T, |x|^2 x and |x|^4."""
        moments = cls()
        moments.count, moments.mean_D = count, mean_D.copy()
        moments._scatter_DD = np.asfortranarray(np.tril(scatter_DD))
        moments.third_D, moments.fourth = third_D.copy(), fourth
        return moments

    def _allocate(self, width: int) -> None:
        self.mean_D = np.zeros(width)
        # Fortran order, so that BLAS updates the lower triangle in place; the upper one stays zero.
        self._scatter_DD = np.zeros((width, width), order="F")
        self.third_D = np.zeros(width)

    @property
    def width(self) -> int:
        return len(self.mean_D)

    @property
    def trace(self) -> float:
        """Trace of the scatter: sum of squared distances to the mean."""
        return float(np.trace(self._scatter_DD)) if self.width else 0.0

    @property
    def covariance_DD(self) -> NDArray[np.float64]:
        """Covariance over count - 1, symmetric, a fresh array.

        Raises:
            DataError: fewer than two rows.
        """
        self._require_two_rows()
        covariance_DD: NDArray[np.float64] = self._scatter_DD / (self.count - 1)
        covariance_DD += np.tril(covariance_DD, -1).T
        return covariance_DD

    def update(
        self, rows_ND: NDArray[Any], weights_N: NDArray[Any] | None = None, *, overwrite: bool = False
    ) -> Moments:
        """Add rows, any number of them; returns itself.

        Args:
            rows_ND: float32 or float64, finite.
            weights_N: non-negative; a row of weight 2 counts as two equal rows.
            overwrite: float64 rows may be used as working memory; they are worthless afterwards.

        Raises:
            DataError: the width differs from that of the rows seen before, or a row holds NaN or infinity.
        """
        if rows_ND.ndim != 2 or (self.width and rows_ND.shape[1] != self.width):
            raise DataError(
                f"Rows of shape {rows_ND.shape} do not fit moments of width {self.width}.",
                do="Give rows of one width in a two-dimensional array.",
            )
        if not self.width:
            self._allocate(rows_ND.shape[1])
        for block in row_blocks(*rows_ND.shape):
            self._add(rows_ND[block], None if weights_N is None else weights_N[block], overwrite)
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the rows that another stream has seen; returns itself, leaves `other` as it is.

        Raises:
            DataError: the widths differ.
        """
        if not other.count:
            return self
        if not self.width:
            self._allocate(other.width)
        if other.width != self.width:
            raise DataError(f"Moments of widths {self.width} and {other.width} cannot be merged.")

        def scatter_times(shift_D: Vector) -> Vector:
            return _symmetric_times(other._scatter_DD, shift_D)

        self._absorb(other.count, other.mean_D, other.trace, other.third_D, other.fourth, scatter_times)
        self._scatter_DD += other._scatter_DD
        return self

    def copy(self) -> Moments:
        """The same moments, untouched by what is added to this object later."""
        return Moments(self.width or None).merge(self)

    def part(self, columns: slice) -> Moments:
        """Mean and scatter of some columns alone (third and fourth moments do not come apart: NaN)."""
        scatter_DD = self._scatter_DD[columns, columns]
        mean_D = self.mean_D[columns]
        return Moments.of(self.count, mean_D, scatter_DD, np.full(len(mean_D), np.nan), np.nan)

    def _add(self, rows_ND: NDArray[Any], weights_N: NDArray[Any] | None, overwrite: bool) -> None:
        """Add one block, converted to float64."""
        root_N: NDArray[np.float64] | None = None
        if weights_N is not None:
            seen_N = np.asarray(weights_N) > 0
            rows_ND, root_N = rows_ND[seen_N], np.sqrt(np.asarray(weights_N, dtype=np.float64)[seen_N])
        if not len(rows_ND):
            return
        share_N = np.full(len(rows_ND), 1 / len(rows_ND)) if root_N is None else root_N**2 / (root_N @ root_N)
        own = overwrite and rows_ND.dtype == np.float64 and rows_ND.flags.c_contiguous
        centred_ND = rows_ND if own else np.array(rows_ND, dtype=np.float64, order="C")
        mean_D = _weighted_sum(share_N, centred_ND)
        if not np.isfinite(mean_D).all():
            raise DataError("A row holds NaN or infinity.", do="Drop such rows before taking moments.")
        centred_ND -= mean_D
        rounding_D = _weighted_sum(
            share_N, centred_ND
        )  # what the first mean lost, felt where it dwarfs the spread
        centred_ND -= rounding_D
        square_N = np.einsum("nd,nd->n", centred_ND, centred_ND)
        if root_N is not None:
            centred_ND *= root_N[:, None]
            square_N *= root_N
        count = float(len(rows_ND)) if root_N is None else float(root_N @ root_N)
        trace = float(square_N.sum()) if root_N is None else float(square_N @ root_N)
        self._absorb(
            count,
            mean_D + rounding_D,
            trace,
            _weighted_sum(square_N, centred_ND),
            float(square_N @ square_N),
            lambda shift_D: _weighted_sum(np.einsum("nd,d->n", centred_ND, shift_D), centred_ND),
        )
        self._scatter_DD = dsyrk(1.0, centred_ND.T, beta=1.0, c=self._scatter_DD, lower=1, overwrite_c=1)

    def _absorb(
        self,
        count: float,
        mean_D: Vector,
        trace: float,
        third_D: Vector,
        fourth: float,
        scatter_times: Callable[[Vector], Vector],
    ) -> None:
        """Reconcile everything but the other part's scatter, which the caller adds."""
        total = self.count + count
        delta_D = mean_D - self.mean_D
        ours_D, theirs_D = delta_D * (count / total), delta_D * (-self.count / total)
        self.third_D, self.fourth = _about(
            ours_D,
            self.count,
            self.trace,
            self.third_D,
            self.fourth,
            _symmetric_times(self._scatter_DD, ours_D),
        )
        third_D, fourth = _about(theirs_D, count, trace, third_D, fourth, scatter_times(theirs_D))
        self.third_D += third_D
        self.fourth += fourth
        between = self.count * count / total
        self._scatter_DD = dsyr(between, delta_D, lower=1, a=self._scatter_DD, overwrite_a=1)
        self.mean_D = self.mean_D + ours_D
        self.count = total

    def _require_two_rows(self) -> None:
        if self.count < 2:
            raise DataError(
                f"A covariance needs at least two rows; {self.count:g} seen.",
                do="Fit on more rows; a single row can be transformed by a repair that is already fitted.",
            )


def ledoit_wolf(moments: Moments) -> float:
    """Shrinkage intensity of Ledoit and Wolf (2004), 0..1; equal to scikit-learn's `ledoit_wolf_shrinkage`.

    beta / delta, with delta = |S|^2 / D - m^2, beta = (sum |x - mean|^4 / N - |S|^2) / (D N), S the
    covariance over N and m = tr(S) / D; 0 where delta is 0 or the width is 1.

    Raises:
        DataError: fewer than two rows.
    """
    moments._require_two_rows()
    return ledoit_wolf_from_sums(
        moments.count, moments.width, moments.trace, _square_sum(moments._scatter_DD), moments.fourth
    )


def oas(moments: Moments) -> float:
    """Shrinkage intensity of Chen et al. (2010), "oracle approximating", 0..1; equal to scikit-learn's `oas`.

    Raises:
        DataError: fewer than two rows.
    """
    moments._require_two_rows()
    return oas_from_sums(moments.count, moments.width, moments.trace, _square_sum(moments._scatter_DD))


def ledoit_wolf_from_sums(count: float, width: int, trace: float, square_sum: float, fourth: float) -> float:
    """`ledoit_wolf` from sums over centred rows.

    Args:
        trace: sum |x|^2.
        square_sum: squared Frobenius norm of the scatter, sum over pairs of rows of (x . y)^2.
        fourth: sum |x|^4.
    """
    if width == 1:
        return 0.0
    covariance_square = square_sum / count**2
    delta = covariance_square / width - (trace / count / width) ** 2
    beta = min((fourth / count - covariance_square) / (width * count), delta)
    return float(max(beta, 0.0) / delta) if delta > 0 else 0.0


def oas_from_sums(count: float, width: int, trace: float, square_sum: float) -> float:
    """`oas` from sums over centred rows; arguments as `ledoit_wolf_from_sums`."""
    if width == 1:
        return 0.0
    alpha = square_sum / count**2 / width**2
    mean_square = (trace / count / width) ** 2
    denominator = (count + 1) * (alpha - mean_square / width)
    return float(min((alpha + mean_square) / denominator, 1.0)) if denominator > 0 else 1.0


def _about(
    shift_D: Vector, count: float, trace: float, third_D: Vector, fourth: float, scatter_shift_D: Vector
) -> tuple[Vector, float]:
    """Third and fourth moments about mean + shift, from those about the mean (sum of deviations is zero)."""
    square = float(shift_D @ shift_D)
    moved_D = third_D - 2 * scatter_shift_D - (trace + count * square) * shift_D
    moved = 4 * shift_D @ scatter_shift_D + count * square**2 - 4 * shift_D @ third_D + 2 * square * trace
    return moved_D, fourth + float(moved)


def _weighted_sum(weights_N: Vector, rows_ND: NDArray[np.float64]) -> Vector:
    """sum_n w_n x_n, without numpy's BLAS: the products here are scipy's, which brings a BLAS and threads of
    its own; the threads of one wait busily while the other works (measured: a third of the time of a fit).
    """
    total_D: Vector = np.einsum("n,nd->d", weights_N, rows_ND)
    return total_D


def _symmetric_times(lower_DD: NDArray[np.float64], vector_D: Vector) -> Vector:
    product_D: Vector = dsymv(1.0, lower_DD, vector_D, lower=1)
    return product_D


def _square_sum(lower_DD: NDArray[np.float64]) -> float:
    """Squared Frobenius norm of the symmetric matrix whose lower triangle is given (upper: zeros)."""
    flat = lower_DD.ravel(order="K")
    diagonal = lower_DD.diagonal()
    return float(2 * (flat @ flat) - diagonal @ diagonal)
