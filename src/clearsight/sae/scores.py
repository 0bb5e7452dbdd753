"""How a row is scored against the concepts: a plain encoder, or attention over a learnt concept base.

Legend of shapes: D width, C concepts.

A score owns the weights that end in an encoder and a decoder. Attention (sparsemax SAE, CVPR 2026):
Q = x W_q, K = C W_k, V = C W_v, scores Q K^T / sqrt(D), reconstruction codes V. For inference K, W_q and the
root fold into one encoder, and V is the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clearsight.registry import Registry

if TYPE_CHECKING:
    from clearsight.sae.config import SaeConfig

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Score:
    """One way to score.

    Attributes:
        shapes: config -> name and shape of each weight it owns.
        fold: (weights, config) -> (encoder_CD, decoder_CD), differentiable.
        unfold: (directions_CD of length 1, encoder length, decoder length, config) -> weights whose fold has
            rows of these lengths along these directions: what training starts from.
        rescale: (weights, encoder factor, decoder factor, config) -> weights whose fold is multiplied by
            these.
        own_decoder: the decoder is a weight itself, so its rows can be kept at length 1.
        encoder_bias: scores get a trained bias.
    """

    shapes: Callable[[SaeConfig], dict[str, tuple[int, int]]]
    fold: Callable[[Weights, SaeConfig], tuple[Tensor, Tensor]]
    unfold: Callable[[Tensor, float, float, SaeConfig], dict[str, Tensor]]
    rescale: Callable[[Weights, Tensor, Tensor, SaeConfig], dict[str, Tensor]]
    own_decoder: bool
    encoder_bias: bool


def linear_shapes(config: SaeConfig) -> dict[str, tuple[int, int]]:
    return {"encoder_CD": (config.concepts, config.width), "decoder_CD": (config.concepts, config.width)}


def linear_fold(weights: Weights, config: SaeConfig) -> tuple[Tensor, Tensor]:
    return weights["encoder_CD"], weights["decoder_CD"]


def linear_unfold(
    directions_CD: Tensor, encoder: float, decoder: float, config: SaeConfig
) -> dict[str, Tensor]:
    return {"encoder_CD": directions_CD * encoder, "decoder_CD": directions_CD * decoder}


def linear_rescale(
    weights: Weights, encoder: Tensor, decoder: Tensor, config: SaeConfig
) -> dict[str, Tensor]:
    return {"encoder_CD": weights["encoder_CD"] * encoder, "decoder_CD": weights["decoder_CD"] * decoder}


def has_query(config: SaeConfig) -> bool:
    """Whether attention has W_q and the root of the width: the paper's has, its release's (`mask`) has
    not."""
    return not config.kind.unit_input


def attention_shapes(config: SaeConfig) -> dict[str, tuple[int, int]]:
    square = (config.width, config.width)
    query = {"query_DD": square} if has_query(config) else {}
    return {"concepts_CD": (config.concepts, config.width), **query, "key_DD": square, "value_DD": square}


def attention_fold(weights: Weights, config: SaeConfig) -> tuple[Tensor, Tensor]:
    """(K W_q^T / sqrt(D), V); without W_q and root: (K, V)."""
    key_CD = weights["concepts_CD"] @ weights["key_DD"]
    value_CD = weights["concepts_CD"] @ weights["value_DD"]
    if not has_query(config):
        return key_CD, value_CD
    return key_CD @ weights["query_DD"].T / math.sqrt(config.width), value_CD


def attention_unfold(
    directions_CD: Tensor, encoder: float, decoder: float, config: SaeConfig
) -> dict[str, Tensor]:
    """Concepts of length sqrt(D), and multiples of the identity: key and value start along one direction."""
    root = math.sqrt(config.width)
    eye_DD = torch.eye(config.width, device=directions_CD.device, dtype=directions_CD.dtype)
    query = {"query_DD": eye_DD.clone()} if has_query(config) else {}
    key = encoder if has_query(config) else encoder / root
    return {
        "concepts_CD": directions_CD * root,
        **query,
        "key_DD": eye_DD * key,
        "value_DD": eye_DD * (decoder / root),
    }


def attention_rescale(
    weights: Weights, encoder: Tensor, decoder: Tensor, config: SaeConfig
) -> dict[str, Tensor]:
    factor = {"key_DD": encoder, "value_DD": decoder}
    names = attention_shapes(config)
    return {name: weights[name] * factor[name] if name in factor else weights[name] for name in names}


scores: Registry[Score] = Registry("score")
scores.add("linear", Score(linear_shapes, linear_fold, linear_unfold, linear_rescale, True, True))
scores.add(
    "attention",
    Score(attention_shapes, attention_fold, attention_unfold, attention_rescale, False, False),
)
