"""Scores that do not depend on how they were summed: rows in fixed point, inner products without rounding.

A float32 matrix product rounds, and how it rounds depends on the block's shape, on the position inside the
block and on the number of threads; two identical candidates may then differ in the last bit, and ties stop
being ties. Here every row is divided by its length (or, for plain inner products, by the power of two above
it) and rounded to a multiple of 2^-26, held as whole numbers of at most 2^26. By Cauchy-Schwarz every partial
sum of products stays below 2^53: all of them are float64 numbers, so the sum is exact in any order, by any
BLAS, on any device. (Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication",
use the same argument.) The rounding moves a cosine by about 6e-9, a tenth of a float32 step at 1.

Legend: N rows, D width, B queries of a block, P candidates listed for a query, or pairs;
L left and R right rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.compiled import compiled
from clearsight.errors import DataError
from clearsight.threads import edges_every, spread

UNIT = 2.0**26
CHUNK_ELEMENTS = 1 << 16
"""Elements turned to float64 at a time: half a megabyte, which stays in the cache."""
SERIAL_ELEMENTS = (1 << 15) - 1
"""Below 2^15 elements torch calls no second thread: on busy cores meeting it costs more than the work."""
PIECE_ELEMENTS = 1 << 21
"""Elements of listed pairs that one thread takes at a time: about a millisecond."""

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
    step = max(1, SERIAL_ELEMENTS // raw_ND.shape[1])
    # Written in place: small results kept between large temporaries would let the heap grow by each of these.
    length_N = torch.empty(len(raw_ND), dtype=torch.float64, device=raw_ND.device)
    for i in range(0, len(raw_ND), step):
        torch.linalg.vector_norm(raw_ND[i : i + step], dim=1, dtype=torch.float64, out=length_N[i : i + step])
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
    if candidates.device.type == "cpu":
        query_P = at_B.repeat_interleave(rows_BP.shape[1])
        exact_BP = pair_products(queries, query_P, candidates, rows_BP.reshape(-1)).view(rows_BP.shape)
    else:
        exact_BP = listed_products(queries, at_B, candidates, rows_BP)
    return to_scores(exact_BP, queries, at_B, candidates.length_N[rows_BP]).cpu()


def listed_products(queries: Rows, at_B: Tensor, candidates: Rows, rows_BP: Tensor) -> Tensor:
    """Exact products (B, P) by matrix products, on any device; B and P at least 1."""
    step = max(1, CHUNK_ELEMENTS // (rows_BP.shape[1] * queries.width))
    parts = []
    for i in range(0, len(at_B), step):
        row_BP = rows_BP[i : i + step]
        right_BPD = candidates.fixed(row_BP.reshape(-1)).view(*row_BP.shape, queries.width)
        left_BD = queries.fixed(at_B[i : i + step])
        if row_BP.shape[1] == 1:
            parts.append(right_BPD[:, 0].mul_(left_BD).sum(1, keepdim=True))
        else:
            parts.append(torch.bmm(right_BPD, left_BD.unsqueeze(2)).squeeze(2))
    return torch.cat(parts)


def pair_products(left: Rows, left_P: Tensor, right: Rows, right_P: Tensor) -> Tensor:
    """Exact products of pairs of rows on the host, compiled: no row is copied.

    A left row is turned to fixed point once for all pairs with it that follow each other.
    """
    raw_LD, length_L, at_left_P = left.raw_ND.numpy(), left.length_N.numpy(), left_P.contiguous().numpy()
    raw_RD, length_R, at_right_P = right.raw_ND.numpy(), right.length_N.numpy(), right_P.contiguous().numpy()
    product_P = np.empty(len(at_left_P))
    kernel = compiled(_products, any_order=True)

    def work(first: int, last: int) -> None:
        at_left, at_right = at_left_P[first:last], at_right_P[first:last]
        # The factors come from outside: where sums may be reordered, so may a division in front of them.
        factor_left, factor_right = UNIT / length_L[at_left], UNIT / length_R[at_right]
        kernel(raw_LD, at_left, factor_left, raw_RD, at_right, factor_right, product_P[first:last])

    spread(work, edges_every(len(product_P), max(1, PIECE_ELEMENTS // left.width)))
    return torch.from_numpy(product_P)


def _products(
    raw_LD: Any,
    left_P: Any,
    left_factor_P: Any,
    raw_RD: Any,
    right_P: Any,
    right_factor_P: Any,
    product_P: Any,
) -> None:
    width = raw_LD.shape[1]
    left_D = np.empty(width, dtype=np.float64)
    before = -1
    for p in range(len(left_P)):
        if left_P[p] != before:
            before = left_P[p]
            raw_D, factor = raw_LD[before], left_factor_P[p]
            for d in range(width):
                left_D[d] = np.rint(np.float64(raw_D[d]) * factor)
        raw_D, factor = raw_RD[right_P[p]], right_factor_P[p]
        total = 0.0
        for d in range(width):
            total += left_D[d] * np.rint(np.float64(raw_D[d]) * factor)
        product_P[p] = total


def to_scores(exact_BN: Tensor, queries: Rows, at_B: Index, length_N: Tensor) -> Tensor:
    """float32 scores of exact products of queries `at_B` with candidates of length `length_N` (or (B, N))."""
    exact_BN *= UNIT**-2
    if not queries.cosine:
        exact_BN *= queries.length_N[at_B].unsqueeze(1).to(exact_BN.device)
        exact_BN *= length_N.to(exact_BN.device)
    return exact_BN.float().add_(0.0)  # -0 becomes 0: they are one score
