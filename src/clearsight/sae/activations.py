"""What turns scores into codes: one function a kind, with the gradient that training uses.

Legend of shapes: B rows of a batch, C concepts, M candidates of a row that survive a filter.

Every function takes (pre_BC, config, threshold_C, training) and returns dense codes_BC in the dtype of its
input, zero where a concept is silent. A stranger adds a kind with `activations.add(name, Activation(...))` or
through the entry-point group `clearsight.activation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from clearsight.registry import Registry

if TYPE_CHECKING:
    from clearsight.sae.config import SaeConfig

BANDWIDTH = 0.05
"""Width of the straight-through window of a JumpReLU threshold, in standard deviations of the scores as they
are at the start of training on scaled rows (Rajamanoharan et al. 2024 use 0.001 on rows of length 1: the same
fraction at a width of 2500)."""

Activate = Callable[[Tensor, "SaeConfig", Tensor, bool], Tensor]


@dataclass(frozen=True)
class Activation:
    """One kind of code and what the rest of the autoencoder needs to know about it.

    Attributes:
        activate: (pre_BC, config, threshold_C, training) -> codes_BC.
        uses_k: `k` means something here, and may not exceed the number of concepts.
        trains_threshold: `threshold_C` is a trained weight.
        observe: (pre_BC, codes_BC, config) -> what this batch says, (C,), of a statistic that inference
            needs; training keeps its running mean. An entry that is not finite says nothing.
        threshold: (running mean, config) -> `threshold_C` for inference.
        homogeneous: scaling rows, biases and thresholds by s > 0 scales the codes by s. Otherwise the scale
            of the rows is carried by the decoder.
        unit_input: scores are taken of rows of length 1, and codes are multiplied by the length afterwards.
        free_decoder: decoder rows keep their lengths (they carry the scale).
        penalty: what `sparsity` multiplies: the mean absolute code ("l1"), or the squared relative distance
            of the mean L0 from k ("l0").
        sparsity: its default, given (width, concepts).
        revives: the auxiliary loss for dead concepts is on unless switched off.
        error: the reconstruction error: mean square ("mse"), or relative to each row's length ("relative").
        modes: other rows of the same kind, chosen by `SaeConfig.sparsemax_mode`.
    """

    activate: Activate
    uses_k: bool = False
    trains_threshold: bool = False
    observe: Callable[[Tensor, Tensor, SaeConfig], Tensor] | None = None
    threshold: Callable[[Tensor, SaeConfig], Tensor] = lambda mean_C, config: mean_C
    homogeneous: bool = False
    unit_input: bool = False
    free_decoder: bool = False
    penalty: Literal["l1", "l0"] = "l1"
    sparsity: Callable[[int, int], float] = lambda width, concepts: 0.0
    revives: bool = False
    error: Literal["mse", "relative"] = "mse"
    modes: Mapping[str, Activation] = field(default_factory=dict)


def relu(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """max(0, z)."""
    return pre_BC.relu()


def topk(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """The k largest positive scores of each row (Gao et al. 2024); fewer where fewer are positive.

    Which of several equal scores at the border is kept is up to torch.
    """
    kept = pre_BC.relu().topk(config.k, dim=1, sorted=False)
    return torch.zeros_like(pre_BC).scatter(1, kept.indices, kept.values)


def batchtopk(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """Training: the B k largest positive scores of the whole batch (Bussmann et al. 2024), so that rows share
    k codes a row on average. Inference: scores above the learnt threshold, row by row."""
    if not training:
        return pre_BC * ((pre_BC > threshold_C) & (pre_BC > 0))
    flat = pre_BC.relu().flatten()
    kept = flat.topk(config.k * len(pre_BC), sorted=False)
    return torch.zeros_like(flat).scatter(0, kept.indices, kept.values).view_as(pre_BC)


def jumprelu(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """z where z > threshold (at least 0), else 0; straight-through gradient for the threshold.

    d/dtheta = -(theta / w) K((z - theta) / w) with the rectangle K = 1 on (-1/2, 1/2) and w = `BANDWIDTH`
    (Rajamanoharan et al. 2024, eq. 11).
    """
    codes_BC: Tensor = _JumpReLU.apply(pre_BC, threshold_C)  # type: ignore[no-untyped-call]
    return codes_BC


def active_count(pre_BC: Tensor, threshold_C: Tensor) -> Tensor:
    """How many scores of each row exceed their threshold, (B,), with the straight-through gradient for the
    threshold: d/dtheta = -(1 / w) K((z - theta) / w) (Rajamanoharan et al. 2024, eq. 12)."""
    step_BC: Tensor = _Heaviside.apply(pre_BC, threshold_C)  # type: ignore[no-untyped-call]
    return step_BC.sum(dim=1)


def simplex(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """sparsemax(z): the codes of a row are at least 0 and sum to 1."""
    return sparsemax(pre_BC)


def support_mask(pre_BC: Tensor, config: SaeConfig, threshold_C: Tensor, training: bool) -> Tensor:
    """z itself on the support of sparsemax(z), which is a constant for the gradient; codes may be negative.

    Concepts that fire too often are left out: in training those on more than `config.dense_limit` of the
    batch's rows, in inference those whose threshold is infinite because they did so while training.
    """
    support_BC = sparsemax(pre_BC.detach()) > 0
    if not training:
        return pre_BC * (support_BC & (threshold_C < torch.inf))
    share_C = support_BC.to(pre_BC.dtype).mean(dim=0)
    return pre_BC * (support_BC & (share_C <= config.dense_limit))


def smallest_code(pre_BC: Tensor, codes_BC: Tensor, config: SaeConfig) -> Tensor:
    """The smallest positive code of the batch, for every concept: what a batch says of BatchTopK's
    threshold."""
    smallest = torch.where(codes_BC > 0, codes_BC, torch.inf).amin()
    return smallest.expand(config.concepts)


def support_share(pre_BC: Tensor, codes_BC: Tensor, config: SaeConfig) -> Tensor:
    """On which share of the batch's rows each concept is in the support of sparsemax."""
    return (sparsemax(pre_BC) > 0).to(pre_BC.dtype).mean(dim=0)


def shut_dense(share_C: Tensor, config: SaeConfig) -> Tensor:
    """Infinite for concepts that fire on more than `config.dense_limit` of the rows, else 0."""
    return torch.where(share_C > config.dense_limit, torch.inf, 0.0)


def sparsemax(scores_BC: Tensor) -> Tensor:
    """The point of the probability simplex that is nearest to each row (Martins and Astudillo 2016).

    p = max(0, z - t), with t so that p sums to 1. Only scores above max(z) - 1 can be in the support, so
    those few are gathered and sorted, and nothing else is; the gradient, g - mean of g over the support,
    touches only them as well. How many there are is read from the data: the one place where a step waits for
    a device.
    """
    probabilities_BC: Tensor = _Sparsemax.apply(scores_BC)  # type: ignore[no-untyped-call]
    return probabilities_BC


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores_BC: Tensor) -> Tensor:
        shifted_BC = scores_BC - scores_BC.amax(dim=1, keepdim=True)  # the largest is 0: no digits are lost
        candidate_BC = shifted_BC > -1
        width = int(candidate_BC.sum(dim=1).max()) if len(scores_BC) else 0
        rows, columns = candidate_BC.nonzero(as_tuple=True)
        slots = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
        few_BM = shifted_BC.new_full((len(scores_BC), width), -1.0)
        few_BM[rows, slots] = shifted_BC[rows, columns]
        index_BM = torch.zeros_like(few_BM, dtype=torch.int64)
        index_BM[rows, slots] = columns
        sorted_BM = few_BM.sort(dim=1, descending=True).values
        count_M = torch.arange(1, width + 1, device=rows.device, dtype=scores_BC.dtype)
        size_B1 = (1 + count_M * sorted_BM > sorted_BM.cumsum(dim=1)).sum(dim=1, keepdim=True)
        inside_BM = torch.arange(width, device=rows.device) < size_B1
        threshold_B1 = (torch.where(inside_BM, sorted_BM, 0).sum(dim=1, keepdim=True) - 1) / size_B1
        value_BM = (few_BM - threshold_B1).relu()
        ctx.save_for_backward(index_BM, value_BM > 0)
        # Padding holds 0 at column 0; adding leaves what column 0 itself has got.
        return torch.zeros_like(scores_BC).scatter_add_(1, index_BM, value_BM)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BC: Tensor) -> Tensor:
        index_BM, support_BM = ctx.saved_tensors
        few_BM = gradient_BC.gather(1, index_BM) * support_BM
        mean_B1 = few_BM.sum(dim=1, keepdim=True) / support_BM.sum(dim=1, keepdim=True)
        return torch.zeros_like(gradient_BC).scatter_add_(1, index_BM, (few_BM - mean_B1) * support_BM)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_BC: Tensor, threshold_C: Tensor) -> Tensor:
        ctx.save_for_backward(pre_BC, threshold_C)
        return pre_BC * (pre_BC > threshold_C)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BC: Tensor) -> tuple[Tensor, Tensor]:
        pre_BC, threshold_C = ctx.saved_tensors
        window_BC = (pre_BC - threshold_C).abs() < BANDWIDTH / 2
        for_threshold_C = -(threshold_C / BANDWIDTH) * (gradient_BC * window_BC).sum(dim=0)
        return gradient_BC * (pre_BC > threshold_C), for_threshold_C


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_BC: Tensor, threshold_C: Tensor) -> Tensor:
        ctx.save_for_backward(pre_BC, threshold_C)
        return (pre_BC > threshold_C).to(pre_BC.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BC: Tensor) -> tuple[None, Tensor]:
        pre_BC, threshold_C = ctx.saved_tensors
        window_BC = (pre_BC - threshold_C).abs() < BANDWIDTH / 2
        return None, -(gradient_BC * window_BC).sum(dim=0) / BANDWIDTH


activations: Registry[Activation] = Registry("activation")
# With orthogonal concepts L1 lowers every score by sparsity * D / (2 C): here one standard deviation at
# start.
activations.add(
    "relu", Activation(relu, homogeneous=True, sparsity=lambda width, concepts: 2 * concepts / width)
)
activations.add("topk", Activation(topk, uses_k=True, homogeneous=True, revives=True))
activations.add(
    "batchtopk", Activation(batchtopk, uses_k=True, homogeneous=True, observe=smallest_code, revives=True)
)
activations.add(
    "jumprelu",
    Activation(
        jumprelu,
        uses_k=True,
        homogeneous=True,
        trains_threshold=True,
        penalty="l0",
        sparsity=lambda width, concepts: 16.0,  # a tenth off the aim costs as much as a badly fitted batch
    ),
)
activations.add(
    "sparsemax",
    Activation(
        simplex,
        homogeneous=False,
        free_decoder=True,
        modes={
            "mask": Activation(
                support_mask,
                homogeneous=True,
                observe=support_share,
                threshold=shut_dense,
                unit_input=True,
                free_decoder=True,
                error="relative",
            )
        },
    ),
)
