"""Batches from shards through a shuffled buffer: what `train_sae` reads (an `ActivationStream`).

Legend of shapes: S slots of the buffer, D width, B rows of a batch, K chosen rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.harvest.config import type_codes
from clearsight.harvest.draws import Draws, Exchange
from clearsight.harvest.shards import Filter, Shard

BUFFER_ROWS = 1 << 16


class ShardSource(Protocol):
    """Where shards come from: a folder, or a harvest that is going on."""

    @property
    def width(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def shard(self, number: int) -> Shard | None:
        """Shard by number, waited for where it is still to come; None beyond the last."""
        ...


class ShuffledStream:
    """Rows of a harvest in random order, each exactly once in an epoch.

    The buffer is one slab in the shards' dtype. Rows that leave are replaced in place: a batch reads and
    writes its own rows only. The order depends on the shards, the filters, `buffer` and `seed`; not on the
    batch size.

    Args:
        source: `Shards`, or any `ShardSource`.
        buffer: slots; the more, the better mixed. It should hold the tokens of many items.
        seed: of the order.
        epochs: how often each row is given.
        token_types: only tokens of these types ("prompt", "text", "image", "special"); None takes all.
        norm_limit: leave out rows whose norm exceeds this multiple of the median norm (attention sinks); the
            median is that of the chosen types in the first part of the harvest.
        device: where the slab lies and the batches come to be; on a GPU, rows travel there once, in the
            shards' dtype.

    Raises:
        UsageError: an unknown token type, a buffer, number of epochs or limit that is not positive.
    """

    def __init__(
        self,
        source: ShardSource,
        *,
        buffer: int = BUFFER_ROWS,
        seed: int = 0,
        epochs: int = 1,
        token_types: Collection[str] | str | None = None,
        norm_limit: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("buffer", buffer), ("epochs", epochs), ("norm_limit", norm_limit)):
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}.", where=name, do="Give a positive number.")
        if token_types is not None:
            type_codes(token_types)
        self._source, self._buffer, self._seed, self._epochs = source, buffer, seed, epochs
        self._token_types, self._norm_limit = token_types, norm_limit
        self._device = torch.device(device)

    @property
    def width(self) -> int:
        """D."""
        return self._source.width

    def steps(self, size: int) -> int:
        """How many batches of `size` there are; waits for the last shard."""
        rows, number, count = _Rows(self._source, self._filter()), 0, 0
        while (kept := rows.kept(number)) is not None:
            number, count = number + 1, count + len(kept)
        return count * self._epochs // size

    def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
        """Batches (size, D) of float32 rows from batch number `first` on, to the end of the last epoch.

        Batches run on over the end of an epoch; the rows after the last full batch are left out. Beginning at
        `first` gives exactly what a stream from 0 would have given: the draws before it are repeated on row
        numbers, and only the rows that the buffer then holds are read.

        Raises:
            DataError: the filters leave no row, or fewer in all epochs than one batch; a shard is broken.
        """
        if size < 1 or first < 0:
            raise UsageError(f"Batches of {size} from number {first} on.", do="Give size >= 1, first >= 0.")
        rows = _Rows(self._source, self._filter())
        draws = Draws(rows.kept, buffer=self._buffer, seed=self._seed, epochs=self._epochs)
        passed = draws.skip(first * size)
        slab_SD = rows.stored(draws.held_S).to(self._device)
        batch_BD, filled, given = self._blank(size), 0, 0
        while (exchange := draws.step(size - filled)) is not None:
            batch_BD[filled : filled + len(exchange)] = _apply(exchange, slab_SD, rows)
            filled += len(exchange)
            if filled == size:
                yield batch_BD
                batch_BD, filled, given = self._blank(size), 0, given + 1
        if not first and not given:
            raise DataError(
                f"All epochs together give {passed + filled} rows, fewer than a batch of {size}.",
                do="Harvest more items, choose more token types, or give a smaller batch or more epochs.",
            )

    def _blank(self, size: int) -> Tensor:
        return torch.empty(size, self.width, device=self._device)

    def _filter(self) -> Filter:
        return Filter.of(self._source, token_types=self._token_types, norm_limit=self._norm_limit)


class _Rows:
    """Rows by number, over shards as they come."""

    def __init__(self, source: ShardSource, chosen: Filter) -> None:
        self._source, self._filter = source, chosen
        self._shards: list[Shard] = []
        self._starts = [0]

    def kept(self, number: int) -> NDArray[np.int64] | None:
        """See `draws.Kept`."""
        while len(self._shards) <= number:
            shard = self._source.shard(len(self._shards))
            if shard is None:
                return None
            self._shards.append(shard)
            self._starts.append(self._starts[-1] + len(shard))
        return np.flatnonzero(self._filter.keeps(self._shards[number])) + self._starts[number]

    def stored(self, number_K: NDArray[np.int64]) -> Tensor:
        """(K, D) in the stored dtype."""
        rows_KD = torch.empty(len(number_K), self._source.width, dtype=self._source.dtype)
        shard_K = np.searchsorted(self._starts, number_K, side="right") - 1
        for shard in np.unique(shard_K):
            at = np.flatnonzero(shard_K == shard)
            local = torch.from_numpy(number_K[at] - self._starts[shard])
            rows_KD[torch.from_numpy(at)] = self._shards[shard].states_ND[local]
        return rows_KD


def _apply(exchange: Exchange, slab_SD: Tensor, rows: _Rows) -> Tensor:
    """The rows that leave, in their order; those that enter take their slots."""

    def at(index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(index).to(slab_SD.device)

    leaving_ED = slab_SD[at(exchange.slot_E)]
    if exchange.entering_E is not None:
        entering_ED = rows.stored(exchange.entering_E).to(slab_SD.device)
        leaving_ED[at(exchange.again_X)] = entering_ED[at(exchange.from_X)]
        slab_SD[at(exchange.slot_E[exchange.stays_Y])] = entering_ED[at(exchange.stays_Y)]
    return leaving_ED
