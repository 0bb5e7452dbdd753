"""From prepared items to pooled rows: batches, the shared prefix, one forward pass for all poolings.

Legend of shapes: B items of a batch, L tokens, P tokens of the shared prefix, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clearsight.errors import ItemError
from clearsight.models.batching import CALLS_IN_BUDGET, fill_batches, shared_prefix
from clearsight.models.feed import Fed
from clearsight.models.forward import Forward, Prefix, Stream
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import Prepared, collate, encode_contrastive
from clearsight.pooling import Pooling, PrefixSum, last_states, pool

Rows = dict[str, Tensor]
"""Pooling -> rows_BD, float32, on the model's device."""

REST_PER_PREFIX = 8
"""A cached prefix costs about an eighth of the pass over the rest (keys are copied, attention needs a
mask): it pays where the rest is at most eight times as long (measured)."""


class Readout(Protocol):
    """Windows of prepared items in; out, batch by batch, the items' keys and a row each for every pooling, or
    why the model refuses them."""

    def __call__(self, window: Sequence[Fed]) -> Iterator[tuple[list[int], Rows | ItemError]]: ...


def readout_of(
    loaded: LoadedModel,
    poolings: Sequence[Pooling],
    *,
    layer: int,
    token_budget: int,
    share_prefix: bool,
) -> Readout:
    """The readout for a model of this kind.

    Raises:
        UsageError: no such layer, or a pooling that this model cannot give.
    """
    if loaded.kind == "contrastive":
        return ContrastiveReadout(loaded, token_budget=token_budget)
    return GenerativeReadout(
        loaded, poolings, layer=layer, token_budget=token_budget, share_prefix=share_prefix
    )


class GenerativeReadout:
    """Pools hidden states. The prefix that a window shares (system prompt, template) passes the model once.

    With keys and values of the prefix P cached, the pass over the rest gives the states that the whole
    sequence would have given (attention is causal), and a mean is (sum over P + sum over the rest) / (their
    counts).

    Args:
        token_budget: padded tokens of one forward pass.
        share_prefix: False computes every sequence whole.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        poolings: Sequence[Pooling],
        *,
        layer: int = -1,
        token_budget: int,
        share_prefix: bool = True,
    ) -> None:
        streams: frozenset[Stream] = frozenset(p.stream for p in poolings if p.stream != "features")
        self.loaded, self.poolings, self.token_budget = loaded, tuple(poolings), token_budget
        last_only = all(pooling.positions == "last" for pooling in poolings)
        self.forward = Forward(loaded, layer=layer, streams=streams, last_only=last_only)
        self.share_prefix = share_prefix and self.forward.can_share_prefix
        self._last_prefix: Prefix | None = None

    def __call__(self, window: Sequence[Fed]) -> Iterator[tuple[list[int], Rows]]:
        for chosen, prefix in self.passes(window):
            yield [fed.index for fed in chosen], self.rows([fed.prepared for fed in chosen], prefix)

    def passes(self, window: Sequence[Fed]) -> Iterator[tuple[list[Fed], Prefix | None]]:
        """The forward passes that a window takes: items that go together, and the cached prefix before
        them."""
        prefix = self._prefix([fed.prepared for fed in window])
        skip = 0 if prefix is None else len(prefix)
        lengths = [len(fed.prepared.ids_L) - skip for fed in window]
        for batch in fill_batches(lengths, self.token_budget):
            pays = max(lengths[i] for i in batch) <= REST_PER_PREFIX * skip
            yield [window[i] for i in batch], prefix if pays else None

    @torch.inference_mode()
    def rows(self, prepared: Sequence[Prepared], prefix: Prefix | None = None) -> Rows:
        """One forward pass over `prepared`, all of which begin with `prefix`."""
        return self.traced(prepared, prefix)

    def traced(self, prepared: Sequence[Prepared], prefix: Prefix | None = None) -> Rows:
        """As `rows`, with gradients where they are on: what training calls."""
        batch = collate(prepared, self.loaded, skip=0 if prefix is None else len(prefix))
        streams = self.forward(batch.inputs, batch.mask_BL, prefix)
        rows: Rows = {}
        for pooling in self.poolings:
            if pooling.stream == "attention":
                states_BD = last_states(streams["attention"], batch.mask_BL)
                rows[pooling.name] = (
                    self.forward.final_norm(states_BD) if pooling.final_norm else states_BD
                ).float()
            else:
                rows[pooling.name] = pool(
                    streams["layer"],
                    batch.mask_BL,
                    pooling,
                    kinds_BL=batch.kinds_BL,
                    prefix=None if prefix is None else _prefix_sum(prefix, pooling),
                )
        return rows

    @torch.inference_mode()
    def _prefix(self, prepared: Sequence[Prepared]) -> Prefix | None:
        if not self.share_prefix:
            return None
        length = shared_prefix([one.ids_L for one in prepared], [one.kinds_L for one in prepared])
        # Its own pass costs a call and its tokens; what it saves has to be more than that.
        if length * (len(prepared) - 2) <= self.token_budget // CALLS_IN_BUDGET:
            return None
        ids_P, kinds_P = prepared[0].ids_L[:length], prepared[0].kinds_L[:length]
        last = self._last_prefix
        if last is None or not (np.array_equal(last.ids_P, ids_P) and np.array_equal(last.kinds_P, kinds_P)):
            alone = collate([Prepared(ids_P, kinds_P, {})], self.loaded)
            self._last_prefix = last = self.forward.prefix(ids_P, kinds_P, alone.inputs)
        return last


class ContrastiveReadout:
    """The model's own projected features; text and image of one item are summed after normalisation."""

    def __init__(self, loaded: LoadedModel, *, token_budget: int) -> None:
        self.loaded, self.token_budget = loaded, token_budget

    def __call__(self, window: Sequence[Fed]) -> Iterator[tuple[list[int], Rows]]:
        for batch in fill_batches([_contrastive_cost(fed.prepared) for fed in window], self.token_budget):
            chosen = [window[i] for i in batch]
            yield [fed.index for fed in chosen], self.rows([fed.prepared for fed in chosen])

    @torch.inference_mode()
    def rows(self, prepared: Sequence[Prepared]) -> Rows:
        """One forward pass over `prepared`."""
        batch = collate(prepared, self.loaded)
        return {"features": encode_contrastive(self.loaded, batch).float()}


def _prefix_sum(prefix: Prefix, pooling: Pooling) -> PrefixSum:
    keep_P = torch.from_numpy(pooling.keeps(prefix.kinds_P)).to(prefix.hidden_PD.device)
    return PrefixSum(prefix.hidden_PD[keep_P].sum(dim=0, dtype=torch.float32), int(keep_P.sum()))


def _contrastive_cost(prepared: Prepared) -> int:
    """Tokens that both towers see, about: patches of 16 x 16 x 3 values for the image."""
    values = sum(one.numel() for one in prepared.pixels.values())
    return max(1, len(prepared.ids_L) + values // 768)
