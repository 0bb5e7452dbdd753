"""From the hidden states of a batch to one vector for each item.

Legend of shapes: B items, L padded tokens, D width, P tokens of a shared prefix.

The published choices: the mean over every position of the last layer (Feng et al. 2026, section 2), the
    state of the
final position (its appendix C), the mean without image or without prompt tokens (its figure 4), and the
residual stream after the last layer's attention, before its MLP, at the final position (FreeRet, ICML
2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.registry import Registry

PROMPT, TEXT, IMAGE = 0, 1, 2
"""Kinds of token: what the template adds (special tokens and system included), the item's own text, its
image."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How one vector is read from a forward pass.

    Attributes:
        positions: "mean" averages positions, "last" takes the final valid one, "all" belongs to models that
            pool by themselves (contrastive ones).
        stream: "layer" reads the chosen layer's hidden states, "attention" the residual stream between
            attention and MLP of the last layer, "features" the projected features of a contrastive model.
        leaves_out: kinds of token that are left out of a mean.
        final_norm: whether the model's final norm is applied to an "attention" state.
    """

    name: str
    positions: Literal["mean", "last", "all"]
    stream: Literal["layer", "attention", "features"] = "layer"
    leaves_out: tuple[int, ...] = ()
    final_norm: bool = False

    def keeps(self, kinds_L: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which positions count, for one item (L,) or a batch (B, L), padding apart."""
        keep_L = np.ones(kinds_L.shape, dtype=bool)
        for kind in self.leaves_out:
            keep_L &= kinds_L != kind
        return keep_L


poolings: Registry[Pooling] = Registry("pooling")
for _row in (
    Pooling("mean", "mean"),
    Pooling("last", "last"),
    Pooling("mean_no_image", "mean", leaves_out=(IMAGE,)),
    Pooling("mean_no_prompt", "mean", leaves_out=(PROMPT,)),
    Pooling("last_attention", "last", stream="attention"),
    Pooling("last_attention_norm", "last", stream="attention", final_norm=True),
    Pooling("features", "all", stream="features"),
):
    poolings.add(_row.name, _row)


@dataclass(frozen=True, slots=True, eq=False)
class PrefixSum:
    """What positions before the batch's own (a shared prefix) add to a mean: their float32 sum and their
    number."""

    sum_D: Tensor
    count: int


def mean_states(hidden_BLD: Tensor, keep_BL: Tensor, prefix: PrefixSum | None = None) -> Tensor:
    """The float32 mean of the kept positions of each item.

    mean_b = (prefix.sum + sum_l keep_bl hidden_bl) / (prefix.count + sum_l keep_bl), summed in float32
    whatever the dtype of the states. States at dropped positions never enter, not even NaN ones.

    Args:
        hidden_BLD: hidden states, any float dtype.
        keep_BL: bool, True where a position counts.
        prefix: positions shared by the whole batch that precede these.

    Returns:
        (B, D) float32; NaN for an item that keeps no position at all.
    """
    kept_BLD = hidden_BLD.masked_fill(~keep_BL.unsqueeze(-1), 0)
    sum_BD = kept_BLD.sum(dim=1, dtype=torch.float32)
    count_B1 = keep_BL.sum(dim=1, dtype=torch.float32).unsqueeze(-1)
    if prefix is not None:
        sum_BD = sum_BD + prefix.sum_D
        count_B1 = count_B1 + prefix.count
    return sum_BD / count_B1


def last_positions(mask_BL: Tensor) -> Tensor:
    """The position of the last valid token of each item, (B,)."""
    positions_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return torch.where(mask_BL.bool(), positions_L, -1).amax(dim=1)


def last_states(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """The state of the last valid position of each item, (B, D) in the dtype of the states.

    Args:
        hidden_BLD: hidden states.
        mask_BL: True where a token is valid; padding may stand on either side, gaps do not matter.
    """
    last_B = last_positions(mask_BL)
    return hidden_BLD[torch.arange(len(last_B), device=last_B.device), last_B]


def pool(
    hidden_BLD: Tensor,
    mask_BL: Tensor,
    kind: str | Pooling,
    *,
    kinds_BL: Tensor | None = None,
    prefix: PrefixSum | None = None,
) -> Tensor:
    """One float32 vector for each item: `kind` names a pooling.

    Args:
        hidden_BLD: hidden states of the stream that the pooling reads.
        mask_BL: True where a token is valid (not padding).
        kind: a name of `poolings`, or a row of it.
        kinds_BL: PROMPT, TEXT or IMAGE for each position; needed by poolings that leave kinds out.
        prefix: the shared prefix's part of a mean (positions already filtered by the pooling).

    Returns:
        (B, D) float32, not normalised.

    Raises:
        UsageError: unknown pooling.
        ValueError: the pooling leaves kinds out and `kinds_BL` is missing.
    """
    pooling = poolings.get(kind) if isinstance(kind, str) else kind
    if pooling.positions == "last":
        return last_states(hidden_BLD, mask_BL).float()
    keep_BL = mask_BL.bool()
    if pooling.leaves_out:
        if kinds_BL is None:
            raise ValueError(f"Pooling '{pooling.name}' needs the kinds of the tokens.")
        for left_out in pooling.leaves_out:
            keep_BL = keep_BL & (kinds_BL != left_out)
    return mean_states(hidden_BLD, keep_BL, prefix)
