"""Exact top-k from scores in bfloat16: bounds, candidates and their exact scores, compiled.

Legend of shapes: B rows of a batch, D width, C concepts, G groups, S slots for entries.

With x^, w^ the rounded vectors, |x.w - x^.w^| <= |x - x^| |w^| + |x| |w - w^| (Cauchy-Schwarz), where the
lengths of what was rounded away are measured, not assumed. The rounding of the product's sums and of its
result is added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clearsight.sae.steps.compiled import compiled
from clearsight.sae.steps.select_kernels import (
    Floats,
    Longs,
    Shorts,
    bound_bits,
    group_maxima,
    keep_largest,
)

Halves = npt.NDArray[np.int16]
"""The bits of bfloat16 numbers."""

RESULT = np.float32(2.0**-8 * 1.01)
"""A score in bfloat16 is off by at most this share of itself."""
SUM = 2.0**-22
"""What the float32 sums of D products are off at most, as a share of D |x| |w|: one in the screen, one in the
exact score; twice over, for hardware that cuts off instead of rounding."""
ROOM = np.float32(1.001)
"""For the rounding of the bounds themselves."""


@compiled
def round_rows(
    rows_ND: Floats, first: int, last: int, bits_ND: Halves, length_N: Floats, lost_N: Floats
) -> None:
    """To bfloat16 (nearest, ties to even), with the rounded rows' lengths and the lengths of what is lost."""
    width = rows_ND.shape[1]
    kept_D = np.empty(width, np.int32)
    rounded_D = kept_D.view(np.float32)
    for n in range(first, last):
        bits_D = rows_ND[n].view(np.int32)
        for d in range(width):
            kept_D[d] = (bits_D[d] + 0x7FFF + ((bits_D[d] >> 16) & 1)) & -0x10000
            bits_ND[n, d] = kept_D[d] >> 16
        length, lost = np.float32(0), np.float32(0)
        for d in range(width):
            length += rounded_D[d] * rounded_D[d]
            gone = rows_ND[n, d] - rounded_D[d]
            lost += gone * gone
        length_N[n] = np.sqrt(length)
        lost_N[n] = np.sqrt(lost)


@compiled
def bound_scores(
    score_C: Halves,
    bias_C: Floats,
    near: np.float32,
    far: np.float32,
    length_C: Floats,
    lost_C: Floats,
    wide_C: Shorts,
    lower_C: Floats,
    upper_C: Floats,
) -> None:
    """Bounds of one row's exact scores: within near |w^| + far |w - w^| + RESULT |score| of the screen's.
    `wide_C` is working memory."""
    value_C = wide_C.view(np.float32)
    for c in range(len(score_C)):
        wide_C[c] = np.int32(score_C[c]) << 16
    for c in range(len(score_C)):
        value = value_C[c]
        margin = (near * length_C[c] + far * lost_C[c] + RESULT * abs(value)) * ROOM
        lower_C[c] = value + bias_C[c] - margin
        upper_C[c] = value + bias_C[c] + margin


@compiled
def collect(upper_C: Floats, bound: np.float32, most: int, index_C: Shorts) -> int:
    """Concepts whose upper bound reaches the bound, in order; counts on, but writes no more than `most`."""
    found, concepts = 0, len(upper_C)
    for first in range(0, concepts, 64):
        part = upper_C[first : first + 64]
        hits = 0
        for j in range(len(part)):
            hits += part[j] >= bound
        if hits:
            for j in range(len(part)):
                if part[j] >= bound:
                    if found < most:
                        index_C[found] = first + j
                    found += 1
    return found


@compiled
def exact_scores(
    row_D: Floats, encoder_CD: Floats, bias_C: Floats, found: int, index_C: Shorts, value_C: Floats
) -> int:
    """Score the candidates in float32 and keep the positive ones, in place; returns how many."""
    kept = 0
    for i in range(found):
        concept_D = encoder_CD[index_C[i]]
        value = np.float32(0)
        for d in range(len(row_D)):
            value += row_D[d] * concept_D[d]
        value += bias_C[index_C[i]]
        if value > 0:
            index_C[kept] = index_C[i]
            value_C[kept] = value
            kept += 1
    return kept


@compiled
def select_screened(
    score_BC: Halves,
    row_BD: Floats,
    encoder_CD: Floats,
    bias_C: Floats,
    near_B: Floats,
    far_B: Floats,
    length_C: Floats,
    lost_C: Floats,
    k: int,
    groups: int,
    most: int,
    first: int,
    last: int,
    start_B: Longs,
    index_S: Shorts,
    value_S: Floats,
    count_B: Shorts,
) -> None:
    """The k largest positive scores of rows first..last, as `select_rows` writes them; count -1 where more
    than `most` concepts may be among them: that row must be scored in float32 throughout."""
    concepts = score_BC.shape[1]
    zero_C = np.zeros(concepts, np.float32)
    lower_C, upper_C = np.empty(concepts, np.float32), np.empty(concepts, np.float32)
    wide_C, index_C = np.empty(concepts, np.int32), np.empty(concepts, np.int32)
    value_C, work_C = np.empty(concepts, np.float32), np.empty(concepts, np.float32)
    maximum_G = np.empty(groups, np.float32)
    bits_G = maximum_G.view(np.int32)
    bound_bits_1 = np.empty(1, np.int32)
    bound_1 = bound_bits_1.view(np.float32)
    for b in range(first, last):
        bound_scores(score_BC[b], bias_C, near_B[b], far_B[b], length_C, lost_C, wide_C, lower_C, upper_C)
        group_maxima(lower_C, zero_C, maximum_G)
        bound_bits_1[0] = bound_bits(bits_G, k)
        found = collect(upper_C, bound_1[0], most, index_C)
        if not found <= most:
            count_B[b] = -1
            continue
        found = exact_scores(row_BD[b], encoder_CD, bias_C, found, index_C, value_C)
        kept = keep_largest(index_C, value_C, found, k, work_C)
        begin = start_B[b]
        index_S[begin : begin + kept] = index_C[:kept]
        value_S[begin : begin + kept] = value_C[:kept]
        count_B[b] = kept
