"""Scores that do not depend on how they were summed: rows in fixed point, inner products without rounding.

A float32 matrix product rounds, and how it rounds depends on the block's shape, on the position inside the
block and on the number of threads; two identical candidates may then differ in the last bit, and ties stop
being ties. Here every row is divided by its length (or, for plain inner products, by the power of two above
it) and rounded to a multiple of 2^-26, held as whole numbers of at most 2^26. By Cauchy-Schwarz every partial
sum of products stays below 2^53: all of them are float64 numbers, so the sum is exact in any order, by any
BLAS, on any device. (Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication",
use the same argument.) The rounding moves a cosine by about 6e-9, a tenth of a float32 step at 1.

Legend: N rows, D width, B queries of a block, P candidates listed for a query.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import DataError

UNIT = 2.0**26
CHUNK_ELEMENTS = 1 << 16
"""Elements turned to float64 at a time: half a megabyte, which stays in the cache."""

Index = slice | Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Vectors in memory as they came (float32, on the host) and their lengths.

    Attributes:
        length_N: float64; for cosines the row's length, for inner products the power of two above it (1 for
            a zero vector).
        cosine: whether scores are cosines; if not, they are multiplied by both `length_N`.
        device: where the arithmetic happens.
    """

    raw_ND: Tensor
    length_N: Tensor
    cosine: bool
    device: torch.device

    @classmethod
    def of(cls, rows_ND: NDArray[np.float32], *, normalize: bool, device: torch.device) -> Rows:
        with (
            warnings.catch_warnings()
        ):  # torch warns of read-only memory (maps of files); nothing writes here
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            raw_ND = torch.from_numpy(np.ascontiguousarray(rows_ND))
        return cls(raw_ND, lengths(raw_ND, normalize=normalize), normalize, device)

    def __len__(self) -> int:
        return len(self.raw_ND)

    @property
    def width(self) -> int:
        return self.raw_ND.shape[1]

    def fixed(self, index: Index) -> Tensor:
        """Rows at `index` in fixed point: whole numbers in float64, of length 2^26 (and a rounding)."""
        return to_fixed(self.raw(index), self.length_N[index])

    def raw(self, index: Index) -> Tensor:
        """Rows at `index` as they came, on the device."""
        rows_ND = self.raw_ND[index] if isinstance(index, slice) else self.raw_ND.index_select(0, index)
        return rows_ND.to(self.device)


def lengths(raw_ND: Tensor, *, normalize: bool) -> Tensor:
    """What rows are divided by (see `Rows.length_N`); the same bits however the rows are cut into blocks."""
    step = max(1, CHUNK_ELEMENTS // raw_ND.shape[1])
    parts = [raw_ND[i : i + step] for i in range(0, len(raw_ND), step)]
    length_N = torch.cat([torch.linalg.vector_norm(p, dim=1, dtype=torch.float64) for p in parts])
    if not normalize:
        length_N = torch.ldexp(torch.ones_like(length_N), torch.frexp(length_N).exponent)
    return torch.where(length_N > 0, length_N, 1.0)


def to_fixed(raw_ND: Tensor, length_N: Tensor) -> Tensor:
    """Rows in fixed point: whole numbers in float64."""
    factor_N1 = (UNIT / length_N).unsqueeze(1).to(raw_ND.device)
    return raw_ND.double().mul_(factor_N1).round_()


def check_range(queries: Rows, longest: float) -> None:
    """Refuse inner products that float32 cannot hold.

    Raises:
        DataError: the longest query times the longest candidate exceeds the float32 range.
    """
    largest = float(queries.length_N.max()) * longest
    if not queries.cosine and largest > float(torch.finfo(torch.float32).max):
        raise DataError(
            "Inner products of these rows exceed the range of float32.",
            do="Divide the rows by a constant, or rank by cosine (normalize=True).",
        )


def listed_scores(queries: Rows, at_B: Tensor, candidates: Rows, rows_BP: Tensor) -> Tensor:
    """float32 scores (B, P), on the host, of each query `at_B` with its own candidates `rows_BP`."""
    if rows_BP.numel() == 0:
        return torch.zeros(rows_BP.shape)
    step = max(1, CHUNK_ELEMENTS // (rows_BP.shape[1] * queries.width))
    parts = []
    for i in range(0, len(at_B), step):
        query_B, row_BP = at_B[i : i + step], rows_BP[i : i + step]
        right_BPD = candidates.fixed(row_BP.reshape(-1)).view(*row_BP.shape, queries.width)
        left_BD = queries.fixed(query_B)
        if row_BP.shape[1] == 1:
            exact_BP = right_BPD[:, 0].mul_(left_BD).sum(1, keepdim=True)
        else:
            exact_BP = torch.bmm(right_BPD, left_BD.unsqueeze(2)).squeeze(2)
        parts.append(to_scores(exact_BP, queries, query_B, candidates.length_N[row_BP]).cpu())
    return torch.cat(parts)


def to_scores(exact_BN: Tensor, queries: Rows, at_B: Index, length_N: Tensor) -> Tensor:
    """float32 scores of exact products of queries `at_B` with candidates of length `length_N` (or (B, N))."""
    exact_BN *= UNIT**-2
    if not queries.cosine:
        exact_BN *= queries.length_N[at_B].unsqueeze(1).to(exact_BN.device)
        exact_BN *= length_N.to(exact_BN.device)
    return exact_BN.float().add_(0.0)  # -0 becomes 0: they are one score
