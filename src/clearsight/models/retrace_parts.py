"""What visual enhancement reads of a layer's feed-forward part, whatever its kind.

Legend of shapes: D width, M width of the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

from torch import Tensor, nn
from transformers.activations import ACT2FN

from clearsight.errors import UsageError

Activation: TypeAlias = Callable[[Tensor], Tensor]

_FIRST: Final[Mapping[str, int]] = {
    "gate_proj": 1,
    "gate_up_proj": 2,
    "w1": 1,
    "fc1": 1,
    "c_fc": 1,
    "dense_h_to_4h": 1,
    "up_proj": 1,
}
"""Names of the projection that the activation reads, best known first -> of how many parts, the gate first,
its output is made."""
_ACTIVATIONS = ("act_fn", "activation_fn", "activation", "act")
_ACTIVATION_FIELDS = ("hidden_activation", "hidden_act", "activation_function")


def first_weight(layer: nn.Module) -> Tensor:
    """The weight of the projection that the activation reads: a gate where there is one.

    Raises:
        UsageError: the layer's feed-forward part has none that is known, such as a mixture of experts.
    """
    parts = dict(_feed_forward(layer).named_children())
    for name, pieces in _FIRST.items():
        weight = dict(parts[name].named_parameters()).get("weight") if name in parts else None
        if weight is not None:
            return weight[: weight.shape[0] // pieces]
    raise _unknown(layer)


def activation(layer: nn.Module, config: Any) -> Activation:
    """The activation of the layer's feed-forward part; the decoder's config names it where no part is it.

    Raises:
        UsageError: neither tells.
    """
    parts = dict(_feed_forward(layer).named_children())
    own = next((parts[name] for name in _ACTIVATIONS if name in parts), None)
    if own is not None:
        return cast(Activation, own)
    known = config.to_dict()
    named = next((known[name] for name in _ACTIVATION_FIELDS if known.get(name)), None)
    if named not in ACT2FN:
        raise _unknown(layer)
    return cast(Activation, ACT2FN[named])


def _feed_forward(layer: nn.Module) -> nn.Module:
    part = dict(layer.named_children()).get("mlp")
    if part is None:
        raise _unknown(layer)
    return part


def _unknown(layer: nn.Module) -> UsageError:
    kind = type(dict(layer.named_children()).get("mlp", layer)).__name__
    return UsageError(
        f"Visual enhancement cannot read the feed-forward part of this model's layers ({kind}).",
        where="visual enhancement",
        do="Leave it off, or choose a model whose layers have one dense feed-forward part each.",
    )
