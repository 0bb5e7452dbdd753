"""Gradients over a batch too large for memory: every chunk passes twice (GradCache, Gao et al. 2021).

A first pass without gradients gives every row; the loss gives the gradient of each row; a second pass, chunk
by chunk, carries it back. The second pass draws the random numbers of the first, so that dropout is the same,
and the gradients are those of the whole batch at once. The last chunk's first pass keeps its graph and needs
no second: a batch of one chunk costs what it costs without all this.

Legend of shapes: U rows of the batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class GradCache(Generic[T]):
    """The rows of a batch, and the way back from their gradients.

    Args:
        embed: rows of a chunk, with gradients where they are on.
        chunks: lists of items, of any kind and any sizes.
        width: D, for a batch without chunks.
        device: whose random numbers `embed` draws, beside the CPU's.

    Attributes:
        rows_UD: detached rows of all chunks in their order.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[T]], Tensor],
        chunks: Sequence[Sequence[T]],
        *,
        width: int,
        device: torch.device,
    ) -> None:
        self._embed, self._chunks, self._device = embed, chunks, device
        self._drawn: list[tuple[Tensor, Tensor | None]] = []
        self._last: Tensor | None = None
        rows = []
        with torch.no_grad():
            for chunk in chunks[:-1]:
                self._drawn.append(self._random())
                rows.append(embed(chunk))
        if chunks:
            self._last = embed(chunks[-1])
            rows.append(self._last.detach())
        self.rows_UD = torch.cat(rows) if rows else torch.zeros(0, width, device=device)

    def backward(self, gradients_UD: Tensor) -> None:
        """Add the gradients of sum(rows * gradients) to the parameters'. Call it once."""
        if self._last is None:
            return
        sizes = [len(chunk) for chunk in self._chunks]
        *earlier, last_BD = torch.split(gradients_UD, sizes)
        torch.autograd.backward(self._last, last_BD)
        self._last = None  # its graph has been used
        now = self._random()
        for chunk, drawn, gradients_BD in zip(self._chunks, self._drawn, earlier, strict=False):
            self._set_random(drawn)
            torch.autograd.backward(self._embed(chunk), gradients_BD)
        self._set_random(now)

    def _random(self) -> tuple[Tensor, Tensor | None]:
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), cuda

    def _set_random(self, drawn: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(drawn[0])
        if drawn[1] is not None:
            torch.cuda.set_rng_state(drawn[1], self._device)
