"""What training lowers. Means are over rows and entries, so that no term depends on the size of a batch.

Legend of shapes: B rows of a batch, D width, C concepts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clearsight.sae.activations import active_count
from clearsight.sae.config import TrainConfig
from clearsight.sae.forward import Pass
from clearsight.sae.scores import Weights


class Loss(NamedTuple):
    """`total` and the reconstruction `error` in it, 0-dimensional."""

    total: Tensor
    error: Tensor


def mean_square(residual_BD: Tensor) -> Tensor:
    """mean over B and D of (x^ - x)^2; on scaled, centred rows about the share of unexplained variance."""
    return residual_BD.square().mean()


def relative_square(residual_BD: Tensor, length_B1: Tensor) -> Tensor:
    """10 mean over B and D of (x^ - x)^2 / |x|: the release of the sparsemax attention SAE. A row of length 0
    counts as of length 1."""
    return 10 * (residual_BD.square() / torch.where(length_B1 > 0, length_B1, 1)).mean()


def mean_absolute(codes_BC: Tensor, length_C: Tensor | None = None) -> Tensor:
    """mean over B and C of |z|; of |z| |d|, where decoder rows d of any length would let codes shrink for
    nothing (Conerly et al. 2024)."""
    size_BC = codes_BC.abs()
    return (size_BC if length_C is None else size_BC * length_C).mean()


def target_count(active_B: Tensor, k: int) -> Tensor:
    """(mean over B of L0 / k - 1)^2: JumpReLU's distance from the aimed number of concepts."""
    return (active_B.mean() / k - 1).square()


def auxiliary(pre_BC: Tensor, decoder_CD: Tensor, residual_BD: Tensor, dead_C: Tensor, k: int) -> Tensor:
    """AuxK (Gao et al. 2024, appendix A.2): the k dead concepts with the largest positive scores of each row
    reconstruct what the living ones missed: mean over B and D of (e - e^)^2.

    e = x - x^ is a constant; the scores and the decoder are not, so that the gradient reaches the encoder of
    the dead. 0 where no concept is dead.
    """
    kept = torch.where(dead_C, pre_BC.relu(), 0).topk(k, dim=1, sorted=False)
    codes_BC = torch.zeros_like(pre_BC).scatter(1, kept.indices, kept.values)
    return (residual_BD.detach() - codes_BC @ decoder_CD).square().mean() * dead_C.any()


def loss_of(weights: Weights, config: TrainConfig, done: Pass, rows_BD: Tensor, dead_C: Tensor) -> Loss:
    """error + sparsity * penalty + aux_weight * auxiliary, by `config.resolved_loss`."""
    settings, kind = config.resolved_loss, config.sae.kind
    residual_BD = rows_BD - done.reconstruction_BD
    if settings.error == "relative":
        error = relative_square(residual_BD, done.length_B1.detach())
    else:
        error = mean_square(residual_BD)
    total = error
    if settings.sparsity:
        if kind.penalty == "l0":
            penalty = target_count(active_count(done.pre_BC, weights["threshold_C"]), config.sae.k)
        else:
            free = config.row_norm == "free"
            length_C = torch.linalg.vector_norm(done.decoder_CD, dim=1) if free else None
            penalty = mean_absolute(done.codes_BC, length_C)
        total = total + settings.sparsity * penalty
    if settings.aux_k and settings.aux_weight:
        total = total + settings.aux_weight * auxiliary(
            done.pre_BC, done.decoder_CD, residual_BD, dead_C, settings.aux_k
        )
    return Loss(total, error)
