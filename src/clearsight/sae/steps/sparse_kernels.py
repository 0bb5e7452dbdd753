"""Sparse decode, gradients of active concepts and Adam, compiled.

Legend of shapes: B rows of a batch, D width, C concepts, S slots for entries (row, concept, code), R rows of
entries: the batch's B, and after them the same B again for the auxiliary loss.

A gradient is never stored for all concepts: the entries are sorted by concept, a concept's two gradient rows
are summed up in the first-level cache, and Adam takes them from there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clearsight.sae.steps.compiled import compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Shorts = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


class Entries(NamedTuple):
    """Codes sorted by concept, ready for the gradient: concept c has offset[c] .. offset[c + 1]."""

    offset_C1: Longs
    row_S: Shorts
    weight_S: (
        Floats  # code times what the squared error of its row counts: d loss / d decoder = sum weight error
    )
    slope_S: Floats  # d loss / d code


class Moments(NamedTuple):
    """A matrix that is trained, with Adam's two moments."""

    weight_CD: Floats
    first_CD: Floats
    second_CD: Floats


class Adam(NamedTuple):
    """The numbers of one Adam step, corrections included: w -= rate m / (root sqrt(v) + eps), float32."""

    rate: np.float32
    root: np.float32
    eps: np.float32
    keep1: np.float32  # 1 - beta1
    beta2: np.float32
    keep2: np.float32  # 1 - beta2


@compiled
def decode_rows(
    base_BD: Floats,
    decoder_CD: Floats,
    scale_B: Floats,
    penalty: np.float32,
    first: int,
    last: int,
    start_B: Longs,
    count_B: Shorts,
    index_S: Shorts,
    value_S: Floats,
    error_BD: Floats,
    square_B: Floats,
    weight_S: Floats,
    slope_S: Floats,
) -> None:
    """error = base + codes @ decoder for rows first..last, its squared length, and the gradient's factors:
    weight = scale code, slope = scale <error, concept> + penalty."""
    width = base_BD.shape[1]
    for b in range(first, last):
        error_D = error_BD[b]
        error_D[:] = base_BD[b]
        begin, end = start_B[b], start_B[b] + count_B[b]
        s = begin
        while s + 4 <= end:  # four at a time: the sum is loaded and stored a quarter as often
            row0, row1 = decoder_CD[index_S[s]], decoder_CD[index_S[s + 1]]
            row2, row3 = decoder_CD[index_S[s + 2]], decoder_CD[index_S[s + 3]]
            z0, z1, z2, z3 = value_S[s], value_S[s + 1], value_S[s + 2], value_S[s + 3]
            for d in range(width):
                error_D[d] += z0 * row0[d] + z1 * row1[d] + z2 * row2[d] + z3 * row3[d]
            s += 4
        while s < end:
            row0, z0 = decoder_CD[index_S[s]], value_S[s]
            for d in range(width):
                error_D[d] += z0 * row0[d]
            s += 1
        square = np.float32(0)
        for d in range(width):
            square += error_D[d] * error_D[d]
        square_B[b] = square
        scale = scale_B[b]
        for s in range(begin, end):
            row0 = decoder_CD[index_S[s]]
            along = np.float32(0)
            for d in range(width):
                along += error_D[d] * row0[d]
            weight_S[s] = scale * value_S[s]
            slope_S[s] = scale * along + penalty


@compiled
def sort_by_concept(
    start_R: Longs,
    count_R: Shorts,
    index_S: Shorts,
    weight_S: Floats,
    slope_S: Floats,
    sorted_: Entries,
) -> None:
    """Entries in the order of their concepts, and within a concept of their rows (counting sort)."""
    offset = sorted_.offset_C1
    concepts = len(offset) - 1
    offset[:] = 0
    for r in range(len(start_R)):
        for s in range(start_R[r], start_R[r] + count_R[r]):
            offset[index_S[s] + 1] += 1
    for c in range(concepts):
        offset[c + 1] += offset[c]
    for r in range(len(start_R)):
        for s in range(start_R[r], start_R[r] + count_R[r]):
            c = index_S[s]
            place = offset[c]
            sorted_.row_S[place] = r
            sorted_.weight_S[place] = weight_S[s]
            sorted_.slope_S[place] = slope_S[s]
            offset[c] = place + 1
    for c in range(concepts, 0, -1):
        offset[c] = offset[c - 1]
    offset[0] = 0


@compiled
def rename(start_B: Longs, count_B: Shorts, index_S: Shorts, name_M: Longs) -> None:
    """Turn places among M chosen concepts into the concepts' numbers, in place."""
    for b in range(len(start_B)):
        for s in range(start_B[b], start_B[b] + count_B[b]):
            index_S[s] = name_M[index_S[s]]


@compiled
def total(start_B: Longs, count_B: Shorts, value_S: Floats) -> float:
    """Sum of all codes."""
    result = 0.0
    for b in range(len(start_B)):
        for s in range(start_B[b], start_B[b] + count_B[b]):
            result += value_S[s]
    return result


@compiled
def note_fired(start_B: Longs, count_B: Shorts, index_S: Shorts, vectors_since_fired_C: Longs) -> None:
    """0 where a concept has a code, else B more."""
    rows = len(start_B)
    for c in range(len(vectors_since_fired_C)):
        vectors_since_fired_C[c] += rows
    for b in range(rows):
        for s in range(start_B[b], start_B[b] + count_B[b]):
            vectors_since_fired_C[index_S[s]] = 0


@compiled
def bias_gradient(entries: Entries, gradient_C: Floats) -> None:
    """Sum of the slopes of each concept: the encoder bias's gradient."""
    for c in range(len(gradient_C)):
        total = np.float32(0)
        for s in range(entries.offset_C1[c], entries.offset_C1[c + 1]):
            total += entries.slope_S[s]
        gradient_C[c] = total


@compiled
def gradient_bound(entries: Entries, centred_B: Floats, square_R: Floats) -> float:
    """At least the squared L2 norm of both matrices' gradients, from the lengths of the centred rows and the
    squared lengths of the errors alone: |sum of w e| <= sum of |w| |e| (triangle inequality)."""
    total, rows = 0.0, len(centred_B)
    for c in range(len(entries.offset_C1) - 1):
        encoder, decoder = 0.0, 0.0
        for s in range(entries.offset_C1[c], entries.offset_C1[c + 1]):
            r = entries.row_S[s]
            encoder += abs(entries.slope_S[s]) * centred_B[r % rows]
            decoder += abs(entries.weight_S[s]) * np.sqrt(square_R[r])
        total += encoder * encoder + decoder * decoder
    return total


@compiled
def sum_up(
    c: int, entries: Entries, centred_BD: Floats, error_RD: Floats, encoder_D: Floats, decoder_D: Floats
) -> None:
    """The gradients of concept c's encoder and decoder row."""
    rows, width = centred_BD.shape
    encoder_D[:] = 0
    decoder_D[:] = 0
    s, end = entries.offset_C1[c], entries.offset_C1[c + 1]
    while s + 2 <= end:
        r0, r1 = entries.row_S[s], entries.row_S[s + 1]
        weight0, weight1 = entries.weight_S[s], entries.weight_S[s + 1]
        slope0, slope1 = entries.slope_S[s], entries.slope_S[s + 1]
        error0, error1 = error_RD[r0], error_RD[r1]
        centred0, centred1 = centred_BD[r0 % rows], centred_BD[r1 % rows]
        for d in range(width):
            decoder_D[d] += weight0 * error0[d] + weight1 * error1[d]
        for d in range(width):
            encoder_D[d] += slope0 * centred0[d] + slope1 * centred1[d]
        s += 2
    if s < end:
        r0, weight0, slope0 = entries.row_S[s], entries.weight_S[s], entries.slope_S[s]
        error0, centred0 = error_RD[r0], centred_BD[r0 % rows]
        for d in range(width):
            decoder_D[d] += weight0 * error0[d]
        for d in range(width):
            encoder_D[d] += slope0 * centred0[d]


@compiled
def to_tangent(gradient_D: Floats, row_D: Floats) -> None:
    """Take from the gradient what lies along the row: g - (g . d) d."""
    along = np.float32(0)
    for d in range(len(row_D)):
        along += gradient_D[d] * row_D[d]
    for d in range(len(row_D)):
        gradient_D[d] -= along * row_D[d]


@compiled
def squares(values_D: Floats) -> np.float32:
    """Squared L2 norm."""
    total = np.float32(0)
    for d in range(len(values_D)):
        total += values_D[d] * values_D[d]
    return total


@compiled
def gradient_squares(
    entries: Entries,
    centred_BD: Floats,
    error_RD: Floats,
    decoder_CD: Floats,
    tangent: bool,
    first: int,
    last: int,
    square_C: Doubles,
) -> None:
    """Squared L2 norm of the gradients of concepts first..last; 0 where a concept has no entry."""
    width = centred_BD.shape[1]
    encoder_D, decoder_D = np.empty(width, np.float32), np.empty(width, np.float32)
    for c in range(first, last):
        square_C[c] = 0
        if entries.offset_C1[c + 1] > entries.offset_C1[c]:
            sum_up(c, entries, centred_BD, error_RD, encoder_D, decoder_D)
            if tangent:
                to_tangent(decoder_D, decoder_CD[c])
            square_C[c] = np.float64(squares(encoder_D)) + np.float64(squares(decoder_D))


@compiled
def adam_row(
    weight_D: Floats, first_D: Floats, second_D: Floats, gradient_D: Floats, factor: np.float32, adam: Adam
) -> None:
    """One Adam step of a row with the gradient times the clipping factor."""
    for d in range(len(weight_D)):
        gradient = gradient_D[d] * factor
        first = first_D[d] + adam.keep1 * (gradient - first_D[d])
        second = second_D[d] * adam.beta2 + adam.keep2 * gradient * gradient
        first_D[d] = first
        second_D[d] = second
        weight_D[d] -= adam.rate * first / (np.sqrt(second) * adam.root + adam.eps)


@compiled
def update_concepts(
    entries: Entries,
    centred_BD: Floats,
    error_RD: Floats,
    encoder: Moments,
    decoder: Moments,
    adam: Adam,
    factor: np.float32,
    tangent: bool,
    normalise: bool,
    first: int,
    last: int,
    square_C: Doubles,
) -> None:
    """Gradient, Adam and the decoder row's length, concept by concept; writes the gradient's squared norm.

    Concepts without an entry are updated too: their moments decay and still move the weights.
    """
    width = centred_BD.shape[1]
    encoder_D, decoder_D = np.empty(width, np.float32), np.empty(width, np.float32)
    for c in range(first, last):
        sum_up(c, entries, centred_BD, error_RD, encoder_D, decoder_D)
        row_D = decoder.weight_CD[c]
        if tangent:
            to_tangent(decoder_D, row_D)
        square_C[c] = np.float64(squares(encoder_D)) + np.float64(squares(decoder_D))
        adam_row(encoder.weight_CD[c], encoder.first_CD[c], encoder.second_CD[c], encoder_D, factor, adam)
        adam_row(row_D, decoder.first_CD[c], decoder.second_CD[c], decoder_D, factor, adam)
        if normalise:
            length = np.sqrt(squares(row_D))
            if length > 0:
                for d in range(width):
                    row_D[d] /= length
