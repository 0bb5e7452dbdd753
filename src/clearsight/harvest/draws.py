"""The shuffled buffer, on row numbers alone: which row leaves which slot, and which takes its place.

Every row that comes in takes a slot drawn at random, and the row that was there leaves. When an epoch's rows
are all in, those still held leave in random order while the next epoch's take their slots. So each epoch
gives each of its rows exactly once, a batch costs what its rows cost, however large the buffer, and the
order depends on the seed alone: not on the size of batches, nor on when shards arrive.

Legend of shapes: S slots, E rows that leave in one step, F shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Kept = Callable[[int], "NDArray[np.int64] | None"]
"""Shard number -> the numbers of its rows that are wanted, in order; None beyond the last shard."""

_SLOTS, _DRAIN, _ORDER = 0, 1, 2  # what a generator of an epoch draws


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """One step of the buffer.

    Attributes:
        slot_E: the slot that each row leaves, in the order of leaving.
        entering_E: number of the row that takes its place; None when nothing follows.
        again_X, from_X: the same slot may be drawn twice in a step: row `again_X` of those that leave then is
            the one that entered as number `from_X` of the step.
        stays_Y: which of those that enter still hold their slot after the step.
    """

    slot_E: NDArray[np.int64]
    entering_E: NDArray[np.int64] | None
    again_X: NDArray[np.int64]
    from_X: NDArray[np.int64]
    stays_Y: NDArray[np.int64]

    @classmethod
    def of(cls, slot_E: NDArray[np.int64], entering_E: NDArray[np.int64] | None) -> Exchange:
        """The step in which row after row leaves `slot_E` for `entering_E`."""
        order_E = np.argsort(slot_E, kind="stable")
        sorted_E = slot_E[order_E]
        repeats = np.flatnonzero(sorted_E[1:] == sorted_E[:-1])
        stays = np.ones(len(slot_E), bool)
        stays[order_E[repeats]] = False
        return cls(slot_E, entering_E, order_E[repeats + 1], order_E[repeats], np.flatnonzero(stays))

    def __len__(self) -> int:
        return len(self.slot_E)

    def numbers(self, held_S: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the rows that leave; `held_S` is brought up to date."""
        leaving_E = held_S[self.slot_E]
        if self.entering_E is not None:
            leaving_E[self.again_X] = self.entering_E[self.from_X]
            held_S[self.slot_E[self.stays_Y]] = self.entering_E[self.stays_Y]
        return leaving_E


class Draws:
    """The order in which rows leave a shuffled buffer of `buffer` slots.

    The first epoch reads shards in their order, as they come to be; each later one in an order of its own.

    Args:
        kept: asked for shards 0, 1, ... in the first epoch; may wait for them.
        buffer: S, at least 1; fewer where an epoch has fewer rows.
        epochs: at least 1.
    """

    def __init__(self, kept: Kept, *, buffer: int, seed: int, epochs: int) -> None:
        self._kept, self._seed, self._epochs = kept, seed, epochs
        self._shards = 0
        """F, known when the first epoch has been read."""
        self._epoch = 0
        self._incoming = _Incoming(kept, None)
        first = []
        while buffer and len(rows := self._incoming.take(buffer)):
            first.append(rows)
            buffer -= len(rows)
        self.held_S: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *first])
        """Number of the row in each slot."""
        self._slots = self._generator(_SLOTS)
        self._draining: NDArray[np.int64] | None = None
        self._drained = 0

    def step(self, limit: int) -> Exchange | None:
        """The next rows that leave, at least one and at most `limit`; None when all epochs are over.

        The caller applies it to what its slots hold; `held_S` is brought up to date here.
        """
        if not len(self.held_S) or self._epoch == self._epochs:
            return None
        exchange = self._enter(limit) if self._draining is None else None
        if exchange is None:
            exchange = self._drain(limit)
        exchange.numbers(self.held_S)
        return exchange

    def skip(self, count: int) -> int:
        """Pass over `count` rows; returns how many there were."""
        passed = 0
        while passed < count and (exchange := self.step(min(1 << 16, count - passed))) is not None:
            passed += len(exchange)
        return passed

    def _enter(self, limit: int) -> Exchange | None:
        entering_E = self._incoming.take(limit)
        if len(entering_E):
            return Exchange.of(self._slots.integers(len(self.held_S), size=len(entering_E)), entering_E)
        self._shards = self._incoming.shards
        self._draining = self._generator(_DRAIN).permutation(len(self.held_S))
        self._drained = 0
        if self._epoch + 1 < self._epochs:
            order_F = np.random.default_rng([self._seed, self._epoch + 1, _ORDER]).permutation(self._shards)
            self._incoming = _Incoming(self._kept, order_F)
        return None

    def _drain(self, limit: int) -> Exchange:
        assert self._draining is not None
        slot_E = self._draining[self._drained : self._drained + limit]
        entering_E = None
        if self._epoch + 1 < self._epochs:
            entering_E = self._incoming.take(len(slot_E))
            slot_E = slot_E[: len(entering_E)]
        self._drained += len(slot_E)
        if self._drained == len(self.held_S):
            self._epoch += 1
            self._draining = None
            self._slots = self._generator(_SLOTS)
        return Exchange.of(slot_E, entering_E)

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch, purpose])


class _Incoming:
    """The wanted rows of one epoch, shard after shard."""

    def __init__(self, kept: Kept, order_F: NDArray[np.int64] | None) -> None:
        self._kept, self._order_F = kept, order_F
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        self.shards = 0

    def take(self, limit: int) -> NDArray[np.int64]:
        """At most `limit` of them, of one shard; none at the end."""
        while not len(self._rows):
            if self._order_F is not None and self.shards == len(self._order_F):
                return self._rows
            number = self.shards if self._order_F is None else int(self._order_F[self.shards])
            rows = self._kept(number)
            if rows is None:
                return self._rows
            self.shards += 1
            self._rows = rows
        taken, self._rows = self._rows[:limit], self._rows[limit:]
        return taken
