"""The door of the store: what the encoder asks of a place that keeps vectors.

Legend of shapes: N keys, F keys found, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class VectorCache(Protocol):
    """Where vectors wait under the key of their content. A key says everything that changes its vector."""

    def lookup(self, keys: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """`found_N`, and `rows_FD`: the vectors of `keys[found_N]`, in that order."""
        ...

    def add(self, keys: Sequence[str], ids: Sequence[str], rows_ND: NDArray[Any]) -> None:
        """Keep the rows. When this returns they outlive the process; a key already there keeps its row."""
        ...
