"""Self-aware hard negatives (SaHa): Algorithm 1 of "From Generator to Embedder" (Ju & Lee, 2025).

For an anchor query the nearest candidates are retrieved, and the queries that own them looked up; the owners
*least* similar to the anchor give its negatives: similar queries have similar answers, so what the most
similar ones own may well be right. Phase 1 puts no query in two clusters; phase 2 gives those left without
any free owner a cluster of pairs used before, each once more.

| | `PAPER` | `RELEASE` |
|---|---|---|
| retrieved | pool x negatives | twice as many |
| of several owners | the most similar one; none if it is in use | the most similar one not in use |
| owners looked at | all | pool x negatives (twice as many in phase 2) |
| taken | the least similar | the same; in ten sets of classification those retrieved first |

The printed algorithm lets an anchor own itself, marks anchors without negatives as used (so that its phase 2
has nothing to do), and leaves ties open. Here a positive of the anchor is never its negative, an anchor
without a free owner waits for phase 2, and ties go by row. Queries are taken in the order of their rows.

`WHOLE` is the printed algorithm with one change: phase 1 makes whole clusters only. Late anchors find few
free owners, and those few are the nearest ones, which nobody took: in the small clusters they give, false
negatives were ten times as many as in whole ones (`benchmarks/mine_quality.py`).

Legend of shapes: Q queries, B anchors of a block, K negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clearsight.mining.cosines import listed, measured
from clearsight.mining.found import Found
from clearsight.mining.pairs import Rows, TrainingPairs
from clearsight.mining.search import Search
from clearsight.mining.walk import Slots, Taken, open_slots, walk
from clearsight.progress import Progress, Silent
from clearsight.types import Embeddings, RowSource

BLOCK = 4096
"""Anchors searched at a time at most."""
LEAST, PER_ROOT, MULTIPLE = 256, 5.0, 1024
"""Anchors that an earlier one of the block takes as a negative are searched in vain: about 3.5 blocks in so
many as are free, with 7 negatives. A matrix product costs about 100 rows more than it has (measured). Both
together are least near 5 sqrt(free) rows; above `MULTIPLE`, whole products."""
ENTRIES = 1 << 20
"""Owners of the retrieved candidates held at a time (one anchor may have more)."""
OWNERS = 4096
"""Owners' rows read at a time where they are not in memory."""
NO_OWNER = "no other query owns a candidate near it that is not its own positive"

CLASSIFICATION = frozenset(
    (
        *("imagenet1k", "imageneta", "imagenetr", "country211", "hatefulmemes"),
        *("n24news", "objectnet", "place365", "sun397", "voc2007"),
    )
)
"""Sets in which the release takes negatives in the order of retrieval; letters and digits of the name."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What the printed algorithm and the released code do differently; see the top of this module."""

    retrieved: int
    looked_at: tuple[int, int] | None
    """Times pool x negatives, in phase 1 and 2; None: all owners."""
    free_first: bool
    ascending: bool = True
    whole: bool = False
    """In phase 1 an anchor with fewer free owners than negatives waits for phase 2."""

    def for_set(self, dataset: str) -> Variant:
        """The variant for a data set, by the last part of its name."""
        name = "".join(letter for letter in dataset.split("/")[-1].lower() if letter.isalnum())
        unsorted = self.free_first and name.removesuffix("diverse") in CLASSIFICATION
        return replace(self, ascending=False) if unsorted else self


PAPER = Variant(1, None, free_first=False)
RELEASE = Variant(2, (1, 2), free_first=True)
WHOLE = Variant(1, None, free_first=False, whole=True)


def saha(
    pairs: TrainingPairs,
    queries: RowSource,
    search: Search,
    negatives: int = 7,
    pool: int = 4,
    *,
    variant: Variant = PAPER,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> Found:
    """Clusters of one data set.

    Args:
        queries: vectors of `pairs.query_ids`, in that order.
        search: over the vectors of the distinct candidates, in the order of `pairs.distinct`.
        negatives: k, in a cluster at most.
        pool: m; m k candidates are retrieved for an anchor (the release: 2 m k).
        block: anchors searched at a time at most; the answer does not depend on it.
    """
    run = _Run(pairs, queries, search, negatives, pool, variant.for_set(pairs.dataset), block)
    told = progress or Silent()
    told.start(len(pairs.active), "clusters, queries done")
    try:
        parts = [*run.first(told), *run.second()]
    finally:
        told.close()
    left = pairs.active[~run.used_Q[pairs.active]]
    return Found.of(parts, dict.fromkeys(left.tolist(), NO_OWNER))


class _Run:
    """One data set on its way through both phases."""

    def __init__(
        self,
        pairs: TrainingPairs,
        queries: RowSource,
        search: Search,
        negatives: int,
        pool: int,
        variant: Variant,
        block: int,
    ) -> None:
        self.pairs, self.queries, self.search = pairs, queries, search
        self.negatives, self.pool, self.variant, self.block = negatives, pool, variant, block
        self.used_Q: NDArray[np.bool_] = np.zeros(len(pairs.query_ids), dtype=bool)
        self._short: list[tuple[Rows, NDArray[np.int32]]] = []
        self._measured = measured(queries.rows_ND) if isinstance(queries, Embeddings) else None

    def first(self, progress: Progress) -> Iterator[Found]:
        """Clusters of phase 1, a block at a time. What anchors without a cluster retrieved is kept."""
        waiting, place = self.pairs.active, 0
        depth = self.variant.retrieved * self.negatives * self.pool
        while place < len(waiting):
            # The next anchors: those that no cluster has taken in the meantime.
            rest = waiting[place:]
            free = np.flatnonzero(~self.used_Q[rest])
            size_B = min(self.block, _block(len(free)))
            done = len(rest) if len(free) <= size_B else int(free[size_B])
            anchor_B = rest[free[:size_B]]
            place += done
            if len(anchor_B):
                pool_BK, _ = self.search.nearest(self.queries.take(anchor_B), depth)
                yield from self._clusters(1, anchor_B, pool_BK, self.used_Q)
                short_B = ~self.used_Q[anchor_B]
                self._short.append((anchor_B[short_B], pool_BK[short_B].astype(np.int32)))
            progress.advance(done)

    def second(self) -> Iterator[Found]:
        """Clusters of phase 2, of what its anchors retrieved in phase 1: nothing is searched twice."""
        if not self._short:
            return
        waiting, pool_WK = (np.concatenate(parts) for parts in zip(*self._short, strict=True))
        blocked_Q = np.zeros_like(self.used_Q)
        for start in range(0, len(waiting), self.block):
            part = slice(start, start + self.block)
            free = ~self.used_Q[waiting[part]]
            yield from self._clusters(2, waiting[part][free], pool_WK[part][free], blocked_Q)

    def _clusters(
        self, phase: int, anchor_B: Rows, pool_BK: NDArray[np.integer], blocked_Q: NDArray[np.bool_]
    ) -> Iterator[Found]:
        variant = self.variant
        size = self.negatives * self.pool
        most = variant.looked_at[phase - 1] * size if variant.looked_at else len(self.used_Q)
        for part_B, slots in self._slots(anchor_B, pool_BK, blocked_Q):
            taken = walk(
                part_B,
                slots,
                self.used_Q,
                blocked_Q,
                self.negatives,
                most=most,
                least=self.negatives if variant.whole and phase == 1 else 1,
                free_first=variant.free_first,
                ascending=variant.ascending,
            )
            yield _found(self.pairs, part_B, taken, phase)

    def _slots(
        self, anchor_B: Rows, pool_BK: NDArray[np.integer], blocked_Q: NDArray[np.bool_]
    ) -> Iterator[tuple[Rows, Slots]]:
        """The block in parts whose owners are few enough to hold, with the owners' cosines."""
        owners = self.pairs.owners_CP
        entries_B = np.where(pool_BK >= 0, owners.size_N[pool_BK], 0).sum(axis=1)
        start = 0
        while start < len(anchor_B):
            total = np.cumsum(entries_B[start:])
            end = start + max(1, int(np.searchsorted(total, ENTRIES, side="right")))
            part_B = anchor_B[start:end]
            slots = open_slots(
                part_B, pool_BK[start:end], self.pairs.forbidden_QF, owners, self.used_Q, blocked_Q
            )
            yield part_B, slots._replace(cosine_E=self._cosines(part_B, slots))
            start = end

    def _cosines(self, anchor_B: Rows, slots: Slots) -> NDArray[np.float32]:
        """Of each anchor and each owner in its slots; owners outside memory are read a part at a time."""
        if not len(slots.owner_E):
            return slots.cosine_E
        anchor_E = np.repeat(
            np.repeat(np.arange(len(anchor_B)), np.diff(slots.slot_B1)), np.diff(slots.entry_S1)
        )
        if self._measured is not None:
            return listed(self._measured, self._measured, anchor_B[anchor_E], slots.owner_E)
        left_BD = measured(self.queries.take(anchor_B).rows_ND)
        owner_O, place_E = np.unique(slots.owner_E, return_inverse=True)
        cosine_E = slots.cosine_E
        for start in range(0, len(owner_O), OWNERS):
            right_OD = measured(self.queries.take(owner_O[start : start + OWNERS]).rows_ND)
            here_E = np.flatnonzero((place_E >= start) & (place_E < start + OWNERS))
            cosine_E[here_E] = listed(left_BD, right_OD, anchor_E[here_E], place_E[here_E] - start)
        return cosine_E


def _block(free: int) -> int:
    """How many of so many free anchors are best searched together."""
    size = max(LEAST, int(PER_ROOT * np.sqrt(free)))
    return size - size % MULTIPLE if size > MULTIPLE else size


def _found(pairs: TrainingPairs, anchor_B: Rows, taken: Taken, phase: int) -> Found:
    """What a block found, in rows: each cluster's anchor, then its negatives."""
    made = np.flatnonzero(taken.count_B > 0)
    count_G = taken.count_B[made]
    inside = np.arange(taken.owner_BK.shape[1]) < count_G[:, None]
    owner_M = taken.owner_BK[made][inside]
    candidate_M = pairs.positive_Q[owner_M]
    several = np.flatnonzero(pairs.own_QP.size_N[owner_M] > 1)
    for m, place in zip(several.tolist(), taken.candidate_BK[made][inside][several].tolist(), strict=True):
        candidate_M[m] = pairs.owned(int(owner_M[m]), place)
    anchor_G = anchor_B[made]
    return Found.joined(
        anchor_G,
        pairs.positive_Q[anchor_G],
        count_G,
        owner_M,
        candidate_M,
        taken.cosine_BK[made][inside],
        phase,
    )
