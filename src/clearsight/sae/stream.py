"""Where training gets its vectors: batches in an order that a seed decides and a number can enter.

Legend of shapes: N rows, B rows of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import DataError, UsageError


class ActivationStream(Protocol):
    """Batches of activation vectors."""

    @property
    def width(self) -> int:
        """Entries of a vector (D)."""

    def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
        """Batches (size, D) float32, from number `first` on; a rest smaller than `size` is left out.

        Batch number b is the same whatever `first` is: that is what an exact resume rests on.
        """


class ArrayStream:
    """Rows of an array, shuffled anew every epoch; batches run on over the border of two epochs.

    Args:
        rows_ND: (N, D), any float dtype, numpy (memory-mapped too) or torch (bfloat16 too). Rows are
            converted a batch at a time.
        epochs: passes over the rows.
        seed: of the orders.

    Raises:
        DataError: not a table of floats.
        UsageError: fewer than 1 epoch.
    """

    def __init__(self, rows_ND: NDArray[Any] | Tensor, *, epochs: int = 1, seed: int = 0) -> None:
        rows = rows_ND if isinstance(rows_ND, Tensor | np.ndarray) else np.asarray(rows_ND)
        floating = rows.is_floating_point() if isinstance(rows, Tensor) else rows.dtype.kind == "f"
        if rows.ndim != 2 or not floating:
            raise DataError(
                f"Activations must be a table of floats (N, D), not {rows.dtype} {tuple(rows.shape)}.",
                do="Give one row a vector.",
            )
        if epochs < 1:
            raise UsageError(f"epochs is {epochs}.", do="Give at least 1.")
        self._rows, self.epochs, self.seed = rows, epochs, seed

    def __len__(self) -> int:
        """Distinct rows (N)."""
        return len(self._rows)

    @property
    def width(self) -> int:
        return int(self._rows.shape[1])

    def steps(self, size: int) -> int:
        """How many batches of `size` there are."""
        return len(self) * self.epochs // size

    def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
        """See `ActivationStream.batches`."""
        if size < 1 or first < 0:
            raise UsageError(
                f"Batch size {size}, first batch {first}.", do="Give a size from 1, a first from 0."
            )
        count = len(self)
        order_N, epoch = np.zeros(0, dtype=np.int64), -1
        for number in range(first, self.steps(size)):
            parts, start, end = [], number * size, (number + 1) * size
            while start < end:
                if start // count != epoch:
                    epoch = start // count
                    order_N = np.random.default_rng([self.seed, epoch]).permutation(count)
                stop = min(end, (epoch + 1) * count)
                parts.append(order_N[start - epoch * count : stop - epoch * count])
                start = stop
            yield self._take(np.concatenate(parts))

    def _take(self, index_B: NDArray[np.int64]) -> Tensor:
        if isinstance(self._rows, Tensor):
            return self._rows[torch.from_numpy(index_B).to(self._rows.device)].detach().to(torch.float32)
        with np.errstate(over="ignore"):  # what overflows becomes infinite, which training reports
            return torch.from_numpy(np.asarray(self._rows[index_B], dtype=np.float32))
