"""The one sequential part of SaHa, compiled: anchors take their negatives one after the other.

Legend of shapes: Q queries, B anchors of a block, S slots (retrieved candidates of an anchor), E entries
(owners of a slot), K negatives.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearsight.compiled import compiled

Rows = NDArray[np.int64]


class Slots(NamedTuple):
    """What a block of anchors retrieved, best candidate first, and who owns it.

    Anchor b has the slots slot_B1[b] to slot_B1[b + 1], slot s the entries entry_S1[s] to entry_S1[s + 1];
    the owners of a slot ascend.
    """

    slot_B1: Rows
    candidate_S: Rows
    entry_S1: Rows
    owner_E: Rows
    cosine_E: NDArray[np.float32]


class Taken(NamedTuple):
    """The negatives of a block of anchors, by ascending cosine.

    Attributes:
        count_B: how many; -1: the anchor was in a cluster already; 0: too few owners are left for it.
        owner_BK, candidate_BK, cosine_BK: query, candidate it is retrieved by, cosine of query and anchor.
    """

    count_B: Rows
    owner_BK: Rows
    candidate_BK: Rows
    cosine_BK: NDArray[np.float32]


def open_slots(
    anchor_B: Rows,
    pool_BK: NDArray[np.integer],
    forbidden: Any,
    owners: Any,
    used_Q: NDArray[np.bool_],
    blocked_Q: NDArray[np.bool_],
) -> Slots:
    """Retrieved candidates that may be negatives, with their owners; cosines are yet to be filled in.

    Args:
        pool_BK: retrieved candidates, best first; -1: none.
        forbidden, owners: tables of candidates by query, and of queries by candidate.
        used_Q: anchors already in a cluster have no slots.
        blocked_Q: queries that cannot be taken: a candidate whose owners are all blocked has no slot.
    """
    size_B, size_S, candidate_S, owner_E = _kernels()[0](
        anchor_B,
        pool_BK,
        *(forbidden.start_N1, forbidden.row_P),
        *(owners.start_N1, owners.row_P),
        used_Q,
        blocked_Q,
    )
    return Slots(
        _starts(size_B), candidate_S, _starts(size_S), owner_E, np.zeros(len(owner_E), dtype=np.float32)
    )


def walk(
    anchor_B: Rows,
    slots: Slots,
    used_Q: NDArray[np.bool_],
    blocked_Q: NDArray[np.bool_],
    negatives: int,
    *,
    most: int,
    least: int = 1,
    free_first: bool,
    ascending: bool,
) -> Taken:
    """Give each anchor that is in no cluster yet its negatives; marks anchors and negatives in `used_Q`.

    Args:
        blocked_Q: queries that cannot be taken; negatives taken are marked here too (the same array as
            `used_Q` where what is used is blocked).
        most: an anchor looks at so many owners.
        least: an anchor that finds fewer takes none.
        free_first: of several owners of a candidate the most similar one that is not blocked is looked at;
            otherwise the most similar one, and if it is blocked none.
        ascending: the least similar owners are taken; otherwise those retrieved first.
    """
    shape = (len(anchor_B), negatives)
    taken = Taken(
        np.zeros(len(anchor_B), dtype=np.int64),
        np.full(shape, -1, dtype=np.int64),
        np.full(shape, -1, dtype=np.int64),
        np.zeros(shape, dtype=np.float32),
    )
    seen_Q = np.full(len(used_Q), -1, dtype=np.int64)
    _kernels()[1](anchor_B, *slots, used_Q, blocked_Q, seen_Q, most, least, free_first, ascending, *taken)
    return taken


@cache
def _kernels() -> tuple[Any, Any]:
    return compiled(_open), compiled(_walk)


def _starts(size_N: Rows) -> Rows:
    starts_N1 = np.zeros(len(size_N) + 1, dtype=np.int64)
    np.cumsum(size_N, out=starts_N1[1:])
    return starts_N1


def _open(
    anchor_B: Any,
    pool_BK: Any,
    banned_start: Any,
    banned_row: Any,
    own_start: Any,
    own_row: Any,
    used_Q: Any,
    blocked_Q: Any,
) -> tuple[Any, Any, Any, Any]:
    blocks, depth = pool_BK.shape
    size_B = np.zeros(blocks, dtype=np.int64)
    size_S = np.empty(blocks * depth, dtype=np.int64)
    candidate_S = np.empty(blocks * depth, dtype=np.int64)
    slots = entries = 0
    for b in range(blocks):
        query = anchor_B[b]
        if used_Q[query]:
            continue
        banned = banned_row[banned_start[query] : banned_start[query + 1]]
        for j in range(depth):
            candidate = pool_BK[b, j]
            if candidate < 0:
                continue
            place = np.searchsorted(banned, candidate)
            if place < len(banned) and banned[place] == candidate:
                continue
            free = 0
            for i in range(own_start[candidate], own_start[candidate + 1]):
                free += not blocked_Q[own_row[i]]
            if free == 0:
                continue
            owners = own_start[candidate + 1] - own_start[candidate]
            candidate_S[slots], size_S[slots] = candidate, owners
            slots += 1
            entries += owners
            size_B[b] += 1
    owner_E = np.empty(entries, dtype=np.int64)
    filled = 0
    for s in range(slots):
        start = own_start[candidate_S[s]]
        for i in range(size_S[s]):
            owner_E[filled + i] = own_row[start + i]
        filled += size_S[s]
    return size_B, size_S[:slots], candidate_S[:slots], owner_E


def _walk(
    anchor_B: Any,
    slot_B1: Any,
    candidate_S: Any,
    entry_S1: Any,
    owner_E: Any,
    cosine_E: Any,
    used_Q: Any,
    blocked_Q: Any,
    seen_Q: Any,
    most: int,
    least: int,
    free_first: bool,
    ascending: bool,
    count_B: Any,
    owner_BK: Any,
    candidate_BK: Any,
    cosine_BK: Any,
) -> None:
    kept = owner_BK.shape[1]
    for b in range(len(anchor_B)):
        query = anchor_B[b]
        if used_Q[query]:
            count_B[b] = -1
            continue
        width = slot_B1[b + 1] - slot_B1[b]
        owner_F = np.empty(width, dtype=np.int64)
        slot_F = np.empty(width, dtype=np.int64)
        cosine_F = np.empty(width, dtype=np.float32)
        found = 0
        for s in range(slot_B1[b], slot_B1[b + 1]):
            if found == most:
                break
            best = -1
            for e in range(entry_S1[s], entry_S1[s + 1]):
                if free_first and blocked_Q[owner_E[e]]:
                    continue
                if best < 0 or cosine_E[e] > cosine_E[best]:  # of equals the first, whose row is smaller
                    best = e
            if best < 0 or blocked_Q[owner_E[best]] or seen_Q[owner_E[best]] == b:
                continue
            seen_Q[owner_E[best]] = b
            owner_F[found], slot_F[found], cosine_F[found] = owner_E[best], s, cosine_E[best]
            found += 1
        if found == 0 or found < least:
            continue
        # By cosine, of equals by row: a stable sort by row, then by cosine.
        by_row = np.argsort(owner_F[:found], kind="mergesort")
        order_F = by_row[np.argsort(cosine_F[by_row], kind="mergesort")]
        if not ascending:  # the first ones retrieved, then in the order that clusters have
            order_F = order_F[order_F < kept]
        taken = min(kept, len(order_F))
        count_B[b] = taken
        used_Q[query] = True
        for i in range(taken):
            f = order_F[i]
            owner_BK[b, i], candidate_BK[b, i] = owner_F[f], candidate_S[slot_F[f]]
            cosine_BK[b, i] = cosine_F[f]
            used_Q[owner_F[f]] = True
            blocked_Q[owner_F[f]] = True
