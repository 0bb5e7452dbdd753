"""Which row holds which key, for millions of keys: 24 bytes each, where a dictionary of strings takes 250.

Legend of shapes: N keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.void]
"""(N,) of 16 bytes: two different keys of one table share theirs with probability 1e-25 at five million."""

_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])


def digests(keys: Sequence[str]) -> Digests:
    """16 bytes for each key."""
    joined = b"".join([blake2b(key.encode(), digest_size=16).digest() for key in keys])
    return np.frombuffer(joined, dtype=_DIGEST)


Run = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]
"""Both halves of the digests, sorted by the first and then the second, and the rows."""


class KeyIndex:
    """The first row of every key, in sorted runs that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __len__(self) -> int:
        """Number of different keys."""
        return sum(len(rows) for _, _, rows in self._runs)

    def add(self, digests_N: Digests, start: int) -> None:
        """Rows `start` onwards; a key that is there, or repeats an earlier one here, keeps its row."""
        new = np.flatnonzero(self.find(digests_N) < 0)
        _, first = np.unique(digests_N[new], return_index=True)
        if not len(first):
            return
        added = digests_N[new[first]]
        self._runs.append(_sorted(added["high"], added["low"], new[first] + start))
        while len(self._runs) > 1 and len(self._runs[-2][2]) < 2 * len(self._runs[-1][2]):
            left, right = self._runs[-2:]
            self._runs[-2:] = [_sorted(*(np.concatenate(both) for both in zip(left, right, strict=True)))]

    def find(self, digests_N: Digests) -> NDArray[np.int64]:
        """The row of each key, -1 where there is none."""
        high_N, low_N = digests_N["high"], digests_N["low"]
        row_N = np.full(len(digests_N), -1, dtype=np.int64)
        for high, low, rows in self._runs:
            place_N = np.searchsorted(high, high_N)
            open_N = np.arange(len(digests_N))
            while len(open_N):  # digests that share their first half are neighbours: more than one is rare
                open_N = open_N[place_N[open_N] < len(high)]
                open_N = open_N[high[place_N[open_N]] == high_N[open_N]]
                hit = low[place_N[open_N]] == low_N[open_N]
                row_N[open_N[hit]] = rows[place_N[open_N[hit]]]
                open_N = open_N[~hit]
                place_N[open_N] += 1
        return row_N


def _sorted(high: NDArray[np.uint64], low: NDArray[np.uint64], rows: NDArray[np.int64]) -> Run:
    order = np.lexsort((low, high))
    return high[order], low[order], rows[order]
