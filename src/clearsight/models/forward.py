"""One forward pass, read where a pooling reads: any layer, the attention residual, after a cached prefix.

Legend of shapes: B items, L tokens of this pass, P tokens of a shared prefix, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from clearsight.errors import UsageError
from clearsight.models.load import LoadedModel
from clearsight.pooling import last_positions

Stream = Literal["layer", "attention"]

# The module whose input is the residual stream between attention and MLP. Sandwich norms (Gemma 2 and 3)
# put a norm of its own before the MLP; the swin layer of Chameleon 34B norms after the sums, so its MLP
# reads the stream itself.
_RESIDUAL_READERS = ("pre_feedforward_layernorm", "post_attention_layernorm")
_RESIDUAL_READER_BY_LAYER = {"ChameleonSwinDecoderLayer": "mlp"}


class _Enough(Exception):  # noqa: N818 - a signal, not an error
    """Everything asked for has been read: later layers need not be computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prefix that items share, after one pass through the model.

    Attributes:
        ids_P, kinds_P: its tokens.
        cache: their keys and values for one item; never handed to the model itself, which would append to it.
        hidden_PD: the chosen layer's states, for means.
    """

    ids_P: NDArray[np.int64]
    kinds_P: NDArray[np.uint8]
    cache: DynamicCache
    hidden_PD: Tensor

    def __len__(self) -> int:
        return len(self.ids_P)

    def expanded(self, batch_size: int) -> DynamicCache:
        """A fresh cache for `batch_size` items over the same memory: models append to a cache by
        concatenation, which leaves the shared keys and values as they are."""
        cache = copy.copy(self.cache)
        cache.layers = [_expanded_layer(layer, batch_size) for layer in self.cache.layers]
        return cache


def _expanded_layer(layer: Any, batch_size: int) -> Any:
    fresh = copy.copy(layer)
    if layer.is_initialized:
        fresh.keys = layer.keys.expand(batch_size, -1, -1, -1)
        fresh.values = layer.values.expand(batch_size, -1, -1, -1)
    return fresh


class Forward:
    """Passes of one model that keep nothing but the streams asked for.

    Hooks are set for the time of a pass only, on the model itself: one pass at a time for each loaded model.

    Args:
        loaded: a generative model.
        layer: as transformers counts `hidden_states`: 0 is the embeddings, k the output of layer k, and the
            last (-1) is after the final norm. Layers beyond the chosen one are not computed.
        streams: "layer" and, or, "attention".
        last_only: only states of final positions will be read. The last MLP is then computed for those alone,
            in families whose layers are known to add its output to the residual stream.

    Raises:
        UsageError: the model has no such layer, or its layers have no place between attention and MLP.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        layer: int = -1,
        streams: frozenset[Stream] = frozenset({"layer"}),
        last_only: bool = False,
    ) -> None:
        self.loaded = loaded
        self.streams = streams
        self._decoder = cast(Any, loaded.base.get_decoder())
        self._layers = cast(nn.ModuleList, self._decoder.layers)
        self.index = layer_index(layer, len(self._layers))
        self._reader = residual_reader(self._layers[-1]) if "attention" in streams else None
        self.last_only = last_only and loaded.family.prefix_reuse

    def __call__(
        self, inputs: Mapping[str, Tensor], mask_BL: Tensor, prefix: Prefix | None = None
    ) -> dict[Stream, Tensor]:
        """The streams asked for, each (B, L, D), of the positions in `inputs` (those after the prefix).

        `mask_BL` says which of them are valid; what stands at the others means nothing.
        """
        cache = prefix.expanded(len(inputs["input_ids"])) if prefix is not None else None
        if self.loaded.family.prefix_reuse:
            # Attention is causal and padding stands right: no valid token sees any; without a mask the
            # model takes its faster kernels.
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        return self._run(inputs, cache, last_positions(mask_BL) if self.last_only else None)

    @property
    def can_share_prefix(self) -> bool:
        """Whether keys and values of a prefix stand for it exactly, and can be shared without a copy."""
        return self.loaded.family.prefix_reuse and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in self._empty_cache().layers
        )

    def prefix(
        self, ids_P: NDArray[np.int64], kinds_P: NDArray[np.uint8], inputs: Mapping[str, Tensor]
    ) -> Prefix:
        """Runs the prefix once. `inputs` is the batch that holds it alone."""
        cache = self._empty_cache()
        streams = self._run(inputs, cache)
        hidden_PD = streams["layer"][0] if "layer" in streams else torch.empty(0)
        return Prefix(ids_P, kinds_P, cache, hidden_PD)

    def final_norm(self, states_BD: Tensor) -> Tensor:
        """The model's final norm."""
        return cast(Tensor, self._decoder.norm(states_BD))

    def _empty_cache(self) -> DynamicCache:
        return DynamicCache(config=self._decoder.config)

    def _run(
        self, inputs: Mapping[str, Tensor], cache: DynamicCache | None, last_B: Tensor | None = None
    ) -> dict[Stream, Tensor]:
        found: dict[Stream, Tensor] = {}
        with self._taps(found, last_B):
            try:
                output = self.loaded.base(**inputs, past_key_values=cache, use_cache=cache is not None)
            except _Enough:
                return found
        if "layer" in self.streams:
            found["layer"] = output.last_hidden_state
        return found

    @contextmanager
    def _taps(self, found: dict[Stream, Tensor], last_B: Tensor | None) -> Iterator[None]:
        def keep(stream: Stream) -> Callable[[Any], None]:
            def tap(states: Any) -> None:
                found[stream] = states[0] if isinstance(states, tuple) else states
                if len(found) == len(self.streams):
                    raise _Enough

            return tap

        handles = []
        if "layer" in self.streams and self.index < len(self._layers):
            keep_layer = keep("layer")
            if self.index == 0:
                handles.append(self._layers[0].register_forward_pre_hook(lambda _, args: keep_layer(args)))
            else:
                before = self._layers[self.index - 1]
                handles.append(before.register_forward_hook(lambda _, args, output: keep_layer(output)))
        if self._reader is not None:
            keep_attention = keep("attention")
            handles.append(self._reader.register_forward_pre_hook(lambda _, args: keep_attention(args)))
        if last_B is not None:
            # (B, 1, D) out of the MLP is broadcast over the residual stream: right at the final positions.
            at = (torch.arange(len(last_B), device=last_B.device), last_B)
            mlp = cast(nn.Module, self._layers[-1].mlp)
            handles.append(mlp.register_forward_pre_hook(lambda _, args: (args[0][at].unsqueeze(1),)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def layer_index(layer: int, count: int) -> int:
    """`layer` counted from 0 (embeddings) to `count` (after the last layer and the final norm).

    Raises:
        UsageError: outside -(count + 1) .. count.
    """
    if not -(count + 1) <= layer <= count:
        raise UsageError(
            f"The model has no layer {layer}.",
            where="layer",
            do=f"It has {count} layers: give 0 (embeddings) to {count}, or -1 (last) to {-(count + 1)}.",
        )
    return layer % (count + 1)


def residual_reader(layer: nn.Module) -> nn.Module:
    """The part of a layer whose input is the residual stream between attention and MLP.

    Raises:
        UsageError: layers of this kind have no known place for it.
    """
    children = dict(layer.named_children())
    kind = type(layer).__name__
    wanted = (_RESIDUAL_READER_BY_LAYER[kind],) if kind in _RESIDUAL_READER_BY_LAYER else _RESIDUAL_READERS
    for name in wanted:
        if name in children:
            return children[name]
    raise UsageError(
        f"The layers of this model ({kind}) have no known place between attention and MLP.",
        where="pooling",
        do="Choose another pooling, such as 'last'.",
    )
