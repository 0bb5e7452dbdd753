"""What every figure here starts from: sparse codes that are checked once, at the door.

Legend of shapes: N rows, C concepts, D width of activations, P pairs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from clearsight.errors import DataError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[Any]


class Coder(Protocol):
    """What the profile needs of an SAE (`clearsight.sae.SparseAutoencoder` is one)."""

    @property
    def dictionary_CD(self) -> Rows:
        """One direction (D,) for each concept."""

    def encode(self, rows_ND: Any) -> csr_array:
        """Rows to codes (N, C)."""

    def decode(self, codes: csr_array) -> Rows:
        """Codes (N, C) to rows (N, D); of an empty code, the bias of the reconstruction."""


def checked_codes(codes: Any, what: str, concepts: int | None = None) -> csr_array:
    """Codes (N, C) in canonical form: sorted, no duplicates, no stored zeros; the caller's are not touched.

    Raises:
        UsageError: not sparse, or another number of concepts than `concepts`.
        DataError: no row, NaN or infinity.
    """
    if not issparse(codes) or codes.ndim != 2:
        raise UsageError(
            f"{what} are {type(codes).__name__}, not a sparse matrix.", do="Give a scipy csr_array (N, C)."
        )
    if concepts is not None and codes.shape[1] != concepts:
        raise UsageError(
            f"{what} have {codes.shape[1]} concepts, the dictionary {concepts}.",
            do="Give codes and dictionary of one SAE.",
        )
    if not codes.shape[0]:
        raise DataError(f"{what} hold no row.", do="Give at least one row of each modality.")
    csr = csr_array(codes)
    if not np.isfinite(csr.data).all():
        raise DataError(f"{what} hold NaN or infinity.", do="Check the SAE and the rows it encoded.")
    if not csr.has_canonical_format or not csr.data.all():
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def checked_dictionary(dictionary_CD: Any) -> Rows:
    """A float32 or float64 array (C, D), row-contiguous.

    Raises:
        UsageError: not two-dimensional, or without a concept.
        DataError: NaN or infinity.
    """
    array_CD = np.asarray(dictionary_CD)
    if array_CD.dtype != np.float64:
        array_CD = array_CD.astype(np.float32, copy=False)
    if array_CD.ndim != 2 or not array_CD.size:
        raise UsageError(f"A dictionary of shape {array_CD.shape}.", do="Give one direction a row, (C, D).")
    if not np.isfinite(array_CD.sum(axis=1)).all() and not np.isfinite(array_CD).all():
        raise DataError("The dictionary holds NaN or infinity.", do="Check the SAE's file or its training.")
    return np.ascontiguousarray(array_CD)


def checked_pairs(pairs: Any, images: int, texts: int) -> Ints:
    """Matched rows (P, 2), int64: column 0 into the images, column 1 into the texts.

    Raises:
        UsageError: another shape, or not whole numbers.
        DataError: a row that is not there.
    """
    array = np.asarray(pairs)
    if array.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise UsageError(
            f"Pairs of shape {array.shape} and type {array.dtype}.",
            do="Give whole numbers (P, 2): a row of the images and a row of the texts.",
        )
    bad_P = (array < 0).any(axis=1) | (array >= [images, texts]).any(axis=1)
    if bad_P.any():
        place = int(np.flatnonzero(bad_P)[0])
        raise DataError(
            f"{int(bad_P.sum())} of {len(array)} pairs name a row that is not there: "
            f"{array[place].tolist()}, with {images} images and {texts} texts.",
            where=f"pair {place}",
            do="Count rows from 0.",
        )
    return array.astype(np.int64, copy=False)


def matched(codes: csr_array, row_P: Ints) -> csr_array:
    """The rows of one side in the order of the pairs; no copy where they are all rows in order."""
    if len(row_P) == codes.shape[0] and np.array_equal(row_P, np.arange(len(row_P))):
        return codes
    return csr_array(codes[row_P])
