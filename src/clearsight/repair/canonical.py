"""Canonical correlations with a ridge: the closed form behind self-alignment.

Legend of shapes: N pairs, I width of the image rows, T width of the text rows, R directions, K components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from clearsight.errors import DataError
from clearsight.moments import Moments, row_blocks
from clearsight.repair.affine import Matrix, Rows, Vector
from clearsight.repair.spectrum import Spectrum

LEAST_CORRELATION = 1e-6
"""Components below this share of the first one are rounding and are left out."""


@dataclass(frozen=True, eq=False)
class Canonical:
    """Regularised canonical correlations of paired rows.

    Attributes:
        image_mean_I, text_mean_T: the means of the two sides.
        image_IK, text_TK: W_i U sqrt(S) and W_t V sqrt(S).
        correlation_K: S, largest first.
    """

    image_mean_I: Vector
    text_mean_T: Vector
    image_IK: Matrix
    text_TK: Matrix
    correlation_K: Vector


def canonical(
    image_NI: Rows, text_NT: Rows, weight_N: Vector | None, shrinkage: float, components: int
) -> Canonical:
    """Canonical correlations of rows as they are (already normalised).

    From fewer pairs than dimensions no D x D matrix is made; otherwise the rows are read in blocks.

    Raises:
        DataError: the weights of fewer than two pairs are above zero.
    """
    width_I = image_NI.shape[1]
    if len(image_NI) < max(width_I, text_NT.shape[1]):
        if weight_N is not None:
            image_NI, text_NT, weight_N = (part[weight_N > 0] for part in (image_NI, text_NT, weight_N))
        if len(image_NI) < 2:
            raise DataError("Fewer than two pairs have weight.", do="Give at least two pairs.")
        image, text = Spectrum.of_rows(image_NI, weight_N), Spectrum.of_rows(text_NT, weight_N)
        image_NR = (image_NI - image.mean_D) @ image.basis_DR
        text_NR = (text_NT - text.mean_D) @ text.basis_DR
        if weight_N is not None:
            image_NR *= weight_N[:, None]
        cross_RR = image_NR.T @ text_NR / (image.count - 1)
    else:
        both = Moments()
        for block in row_blocks(len(image_NI), width_I + text_NT.shape[1]):
            pair_BD = np.concatenate([image_NI[block], text_NT[block]], axis=1)
            both.update(pair_BD, None if weight_N is None else weight_N[block], overwrite=True)
        image, text = (
            Spectrum.of_moments(both.part(slice(None, width_I))),
            Spectrum.of_moments(both.part(slice(width_I, None))),
        )
        cross_RR = image.basis_DR.T @ (both.covariance_DD[:width_I, width_I:] @ text.basis_DR)
    image_gain_R, _ = image.gains(shrinkage, 0.0, relative=True)
    text_gain_R, _ = text.gains(shrinkage, 0.0, relative=True)
    left_RK, correlation_K, right_RK = leading_singular(
        image_gain_R[:, None] * cross_RR * text_gain_R, components
    )
    root_K = np.sqrt(correlation_K)
    image_IK = image.basis_DR @ (image_gain_R[:, None] * left_RK * root_K)
    text_TK = text.basis_DR @ (text_gain_R[:, None] * right_RK * root_K)
    # A component and its negative are the same: the largest entry of the image map is made positive.
    sign_K = np.where(image_IK[np.abs(image_IK).argmax(axis=0), np.arange(len(root_K))] < 0, -1.0, 1.0)
    return Canonical(image.mean_D, text.mean_D, image_IK * sign_K, text_TK * sign_K, correlation_K)


def leading_singular(matrix_RS: Matrix, count: int) -> tuple[Matrix, Vector, Matrix]:
    """The largest singular values, with their vectors on both sides (columns).

    By the eigenvectors of the smaller Gram matrix: several times faster than a full decomposition where few
    of thousands are wanted, and exact enough because what lies below 1e-6 of the largest is left out.
    """
    if matrix_RS.shape[0] > matrix_RS.shape[1]:
        right_SK, value_K, left_RK = leading_singular(matrix_RS.T, count)
    else:
        size = matrix_RS.shape[0]
        first = max(size - count, 0)
        square_K, left_RK = eigh(
            matrix_RS @ matrix_RS.T, subset_by_index=(first, size - 1), check_finite=False
        )
        value_K, left_RK = np.sqrt(np.maximum(square_K[::-1], 0.0)), left_RK[:, ::-1]
        kept = max(int((value_K > LEAST_CORRELATION * value_K[0]).sum()), 1)
        value_K, left_RK = value_K[:kept], left_RK[:, :kept]
        right_SK = (matrix_RS.T @ left_RK) / np.where(value_K > 0, value_K, 1)
    return left_RK, value_K, right_SK
