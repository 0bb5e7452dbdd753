"""Exact top-k of rows in two stages, compiled.

Legend of shapes: B rows of a batch, C concepts, G groups, S slots for entries, R rows of entries.

Stage one: concepts c, c + G, c + 2G, ... form a group. The k groups with the largest maxima are at least k
scores, so the k-th largest maximum bounds the k-th largest score from below. Stage two: only scores that
reach the bound are looked at again, typically a few more than k. With groups of about sqrt(C / k) both stages
do little beside reading the scores once.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clearsight.sae.steps.compiled import compiled

Floats = npt.NDArray[np.float32]
Shorts = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

SCAN = 64
"""Scores tested together when looking for those that reach the bound."""
SLACK = 8
"""The bound may let through k / SLACK groups more than k: fewer halvings, a few more candidates."""


@compiled
def kth_largest(values: Floats, count: int, k: int) -> float:
    """The k-th largest of values[:count], which are reordered (Hoare's selection)."""
    low, high, want = 0, count - 1, k - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break
    return values[want]  # type: ignore[no-any-return]


@compiled
def group_maxima(row_C: Floats, bias_C: Floats, maximum_G: Floats) -> None:
    """maximum_G[j] = max over i of (row + bias)[i G + j]."""
    groups, concepts = len(maximum_G), len(row_C)
    for j in range(groups):
        maximum_G[j] = row_C[j] + bias_C[j]
    for first in range(groups, concepts, groups):
        size = min(groups, concepts - first)
        part = row_C[first : first + size]
        bias = bias_C[first : first + size]
        for j in range(size):
            value = part[j] + bias[j]
            maximum_G[j] = value if value > maximum_G[j] else maximum_G[j]


@compiled
def bound_bits(bits_G: Shorts, k: int) -> int:
    """Bits of a positive float that at least k of the maxima reach (and few more than k); 1, the bits of the
    least positive float, where fewer than k are positive. Positive floats are ordered as their bits are."""
    low, high = np.int64(1), np.int64(1)
    for bits in bits_G:
        high = max(high, np.int64(bits) + 1)
    enough = k + k // SLACK
    while high - low > 1:
        middle = (low + high) >> 1
        reached = 0
        for j in range(len(bits_G)):
            reached += bits_G[j] >= middle
        if reached < k:
            high = middle
        else:
            low = middle
            if reached <= enough:
                break
    return low  # type: ignore[return-value]


@compiled
def candidates(row_C: Floats, bias_C: Floats, bound: np.float32, index_C: Shorts, value_C: Floats) -> int:
    """Scores that reach the bound, in the order of their concepts; returns how many."""
    found, concepts = 0, len(row_C)
    for first in range(0, concepts, SCAN):
        size = min(SCAN, concepts - first)
        part = row_C[first : first + size]
        bias = bias_C[first : first + size]
        hits = 0
        for j in range(size):
            hits += part[j] + bias[j] >= bound
        if hits:
            for j in range(size):
                value = part[j] + bias[j]
                if value >= bound:
                    index_C[found] = first + j
                    value_C[found] = value
                    found += 1
    return found


@compiled
def keep_largest(index_C: Shorts, value_C: Floats, found: int, k: int, work_C: Floats) -> int:
    """Keep the k largest of the first `found` entries, in place and in order; of equals the first ones."""
    if found <= k:
        return found
    work_C[:found] = value_C[:found]
    border = kth_largest(work_C, found, k)
    room = k
    for i in range(found):
        room -= value_C[i] > border
    kept = 0
    for i in range(found):
        value = value_C[i]
        if value > border or (value == border and room > 0):
            room -= value == border
            index_C[kept] = index_C[i]
            value_C[kept] = value
            kept += 1
    return kept


@compiled
def select_rows(
    pre_BC: Floats,
    bias_C: Floats,
    k: int,
    groups: int,
    first: int,
    last: int,
    start_B: Longs,
    index_S: Shorts,
    value_S: Floats,
    count_B: Shorts,
) -> None:
    """The k largest positive entries of pre + bias in rows first..last, in the order of their concepts.

    Row b writes index_S and value_S from start_B[b] on, and count_B[b]. Of equal scores at the border the
    first concepts are kept.
    """
    concepts = pre_BC.shape[1]
    maximum_G = np.empty(groups, np.float32)
    bits_G = maximum_G.view(np.int32)
    bound_bits_1 = np.empty(1, np.int32)
    bound_1 = bound_bits_1.view(np.float32)
    index_C, value_C = np.empty(concepts, np.int32), np.empty(concepts, np.float32)
    work_C = np.empty(concepts, np.float32)
    for b in range(first, last):
        group_maxima(pre_BC[b], bias_C, maximum_G)
        bound_bits_1[0] = bound_bits(bits_G, k)
        found = candidates(pre_BC[b], bias_C, bound_1[0], index_C, value_C)
        kept = keep_largest(index_C, value_C, found, k, work_C)
        begin = start_B[b]
        index_S[begin : begin + kept] = index_C[:kept]
        value_S[begin : begin + kept] = value_C[:kept]
        count_B[b] = kept


def group_count(concepts: int, k: int) -> int:
    """Groups of about sqrt(C / k) concepts: at least k groups, at most C."""
    return min(concepts, max(k, round(math.sqrt(concepts * k))))
