"""Which questions share the pass over their common beginning: token codes in, groups out. No model.

Legend of shapes: N questions, L tokens of one of them, P tokens of a shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALL_TOKENS = 32
"""What a prefix costs beside its tokens (its part of a forward pass, its keys and values), in tokens."""
COPY = 16
"""A cached token is copied for every question that follows it, and attended to through a mask: a 16th of the
cost of computing it (measured on two cores)."""
MOST_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that begin alike.

    Attributes:
        length: P, tokens whose keys and values are shared; 0: nothing is.
        members: positions of the questions.
    """

    length: int
    members: tuple[int, ...]


def group(
    codes: Sequence[NDArray[np.int64]],
    limits: Sequence[int],
    images: Sequence[Sequence[tuple[int, int]]],
) -> list[Group]:
    """Questions in groups, each exactly once, such that the least work is left.

    Among all ways to cut the questions, in lexicographic order, into runs: a run of n that shares P tokens
    costs P + `CALL_TOKENS` + n P / `COPY` + what stands behind the prefix; one alone costs its tokens. Exact,
    by dynamic programming over the cuts, for runs of at most `MOST_TOGETHER`.

    Args:
        codes: token ids; the tokens of an image by a number that names the image (below zero).
        limits: the longest prefix that leaves each question what is measured.
        images: (first token, first token after) of each image; a prefix never ends inside one.
    """
    order = sorted(range(len(codes)), key=lambda i: codes[i].astype(">i8").__add__(1 << 40).tobytes())
    lengths = np.array([len(codes[i]) for i in order], np.int64)
    # shared_N[j]: tokens that j and the one before it may share.
    shared = np.zeros(len(order), np.int64)
    for j in range(1, len(order)):
        shared[j] = _common(codes[order[j - 1]], codes[order[j]])
    limit = np.array([limits[i] for i in order], np.int64)
    best = np.zeros(len(order) + 1)
    cut = np.zeros(len(order) + 1, np.int64)
    taken = np.zeros(len(order) + 1, np.int64)
    total = np.concatenate([[0], lengths.cumsum()])
    for j in range(1, len(order) + 1):
        first = max(0, j - MOST_TOGETHER)
        count = np.arange(j - first, 0, -1)
        prefix = np.minimum.accumulate(limit[first:j][::-1])[::-1]
        if j - first > 1:
            alike = np.minimum.accumulate(shared[first + 1 : j][::-1])[::-1]
            prefix[:-1] = np.minimum(prefix[:-1], alike)
        prefix[-1] = 0
        work = total[j] - total[first:j]
        saved = prefix * (count - 1) - prefix * count / COPY - CALL_TOKENS
        prefix = np.where(saved > 0, prefix, 0)
        cost = best[first:j] + work - np.maximum(saved, 0)
        at = len(cost) - 1 - int(cost[::-1].argmin())  # of equal cuts the one with the smallest run
        best[j], cut[j], taken[j] = cost[at], first + at, prefix[at]
    groups, end = [], len(order)
    while end > 0:
        start = int(cut[end])
        members = tuple(order[start:end])
        groups.append(Group(_outside(int(taken[end]), images[members[0]]), members))
        end = start
    return groups[::-1]


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _outside(length: int, images: Sequence[tuple[int, int]]) -> int:
    """The longest prefix of at most `length` tokens that ends in no image."""
    return min((first for first, end in images if first < length < end), default=length)
