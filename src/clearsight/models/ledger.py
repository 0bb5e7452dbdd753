"""Which vectors are done, and nothing said that is not kept: rows go to the store before progress is told.

Legend of shapes: U distinct items of one call, B items of a batch, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import ItemError
from clearsight.progress import Progress
from clearsight.store import VectorCache

COMMIT_SECONDS = 5.0
COMMIT_ROWS = 4096


@dataclass(slots=True, eq=False)
class Sheet:
    """The vectors of one pooling.

    Attributes:
        origin: everything that changes them.
        store: where they are kept beyond this process; None keeps them here alone.
        done_U: which rows are there.
    """

    pooling: str
    origin: Mapping[str, Any]
    store: VectorCache | None
    done_U: NDArray[np.bool_]
    rows_UD: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def put(self, index: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Rows arrive; their width is the sheet's from the first ones on."""
        if not len(index):
            return
        if self.rows_UD.shape != (len(self.done_U), rows.shape[1]):
            self.rows_UD = np.zeros((len(self.done_U), rows.shape[1]), np.float32)
        self.rows_UD[index] = rows
        self.done_U[index] = True

    def recall(self, keys: Sequence[str]) -> None:
        """Take what the store already has."""
        if self.store is not None:
            found_U, rows_FD = self.store.lookup(keys)
            self.put(np.flatnonzero(found_U), rows_FD)


class Ledger:
    """Takes rows as the model gives them and commits them in chunks; leaving it, however, commits the rest.

    Rows stay on the device until a commit, so that a GPU is not waited for at every batch.

    Args:
        sheets: pooling -> sheet.
        keys: U keys for the store.
        ids: U item ids, for messages and the store.
        weights: how many items of the call each distinct item stands for (progress counts those).
        refuse: told of an item whose vector is not finite; may raise.
    """

    def __init__(
        self,
        sheets: Mapping[str, Sheet],
        keys: Sequence[str],
        ids: Sequence[str],
        weights: Sequence[int],
        *,
        progress: Progress,
        refuse: Callable[[int, ItemError], None],
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self._sheets, self._keys, self._ids, self._weights = sheets, keys, ids, weights
        self._progress, self._refuse, self._commit_seconds = progress, refuse, commit_seconds
        self._pending: list[tuple[list[int], Mapping[str, Tensor]]] = []
        self._committed_at = time.monotonic()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.commit()

    def add(self, index: list[int], rows: Mapping[str, Tensor]) -> None:
        """`rows[pooling]` is (B, D) for the B items at `index`."""
        self._pending.append((index, rows))
        waited = time.monotonic() - self._committed_at
        if waited >= self._commit_seconds or sum(len(i) for i, _ in self._pending) >= COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Everything pending reaches sheets and stores; then, and only then, progress is told."""
        pending, self._pending = self._pending, []
        self._committed_at = time.monotonic()
        if not pending:
            return
        index_B = np.array([i for index, _ in pending for i in index], dtype=np.int64)
        rows = {
            name: torch.cat([batch[name] for _, batch in pending]).cpu().numpy() for name in pending[0][1]
        }
        finite_B = np.logical_and.reduce([np.isfinite(rows_BD).all(axis=1) for rows_BD in rows.values()])
        good_B = index_B[finite_B]
        for name, rows_BD in rows.items():
            self._keep(self._sheets[name], good_B, rows_BD[finite_B])
        self._progress.advance(sum(self._weights[i] for i in good_B))
        for i in index_B[~finite_B]:
            self._refuse(
                int(i),
                ItemError(
                    "The model gave NaN or infinity for this item.",
                    where=self._ids[i],
                    do="Embed it in float32 (half precision overflows in some models).",
                ),
            )

    def _keep(self, sheet: Sheet, index: NDArray[np.int64], rows_BD: NDArray[np.float32]) -> None:
        if sheet.store is not None and len(index):
            sheet.store.add([self._keys[i] for i in index], [self._ids[i] for i in index], rows_BD)
        sheet.put(index, rows_BD)
