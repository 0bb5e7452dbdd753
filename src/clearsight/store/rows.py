"""The vectors of a pool where they lie in a store, in the pool's own order, read as they are asked for.

Legend of shapes: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.store.keys import Digests
from clearsight.store.vectors import VectorTable
from clearsight.types import MODALITIES, Embeddings, Role


class StoredRows:
    """A `RowSource` over a `VectorTable`: row i is the vector under the i-th key. 30 bytes a row in memory.

    Args:
        digests_N: of the keys (`store.digests`).
        modality_N: each row's modality, as a place in `types.MODALITIES` (uint8).
        skipped: ids of items without a row -> why.

    Raises:
        DataError: a key is not in the store, or an id appears twice.
    """

    def __init__(
        self,
        store: VectorTable,
        digests_N: Digests,
        ids: Sequence[str],
        *,
        side: Role,
        modality_N: NDArray[np.uint8],
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        self.ids = Names.of(ids)
        twice = self.ids.repeated()
        if twice is not None:
            raise DataError(f"The row id '{twice}' appears twice.", do="Ids must be unique.")
        self.store, self.side, self.skipped = store, side, skipped or {}
        self._digests_N, self._modality_N = digests_N, modality_N
        absent_N = np.flatnonzero(~store.has(digests_N))
        if len(absent_N):
            raise DataError(
                f"{len(absent_N)} of {len(self.ids)} vectors are not in the store.",
                where=", ".join(self.ids.take(absent_N[:5])),
                do="Embed the pool; what is there is not computed again.",
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        return self.store.width or 0

    @property
    def origin(self) -> Mapping[str, Any]:
        return self.store.origin

    def take(self, index: NDArray[Any]) -> Embeddings:
        """The rows at `index` (positions), in that order."""
        at = np.asarray(index, dtype=np.int64)
        names = np.array(MODALITIES)
        return Embeddings(
            self.ids.take(at),
            self.store.read(self._digests_N[at]),
            np.full(len(at), self.side),
            names[self._modality_N[at]],
            self.origin,
        )
