"""The training step on a CUDA device: one encoder product, everything else sparse, in Triton.

Legend of shapes: B rows of a batch, D width, C concepts, K slots of a row, S slots in all, R rows of entries
(B, or 2 B with the auxiliary loss).

It computes what `clearsight.sae.steps.reference` computes, for topk with linear scores, and never waits for
the device. The encoder product is torch's in float32 (whether with TF32 is torch's setting).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clearsight.sae.config import TrainConfig
from clearsight.sae.scores import Weights
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats
from clearsight.sae.steps.shared import CERTAIN, kind_refusal, without_gradients


def refusal(config: TrainConfig, device: torch.device) -> str | None:
    """It does topk with linear scores, on CUDA, where Triton is installed."""
    if device.type != "cuda":
        return f"it computes on CUDA, not on {device.type}."
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed."
    return kind_refusal(config)


def make(config: TrainConfig, device: torch.device) -> Step:
    return without_gradients(TritonStep(config))


@dataclass(frozen=True)
class Codes:
    """The codes of B rows in K slots each, and what the gradient makes of them."""

    index_BK: Tensor
    value_BK: Tensor
    count_B: Tensor
    weight_BK: Tensor
    slope_BK: Tensor


class TritonStep:
    """The parts of a step, in their order."""

    def __init__(self, config: TrainConfig) -> None:
        from clearsight.sae.steps import triton_kernels

        self.kernels: Any = triton_kernels
        self.config, self.sae, self.loss = config, config.sae, config.resolved_loss
        self.block = {"BLOCK_D": _power_of_two(self.sae.width)}

    def __call__(self, state: TrainState, rows_BD: Tensor) -> StepStats:
        weights, rows, concepts = state.weights, len(rows_BD), self.sae.concepts
        dead_C = state.dead_C(self.loss.dead_window)
        centred_BD, base_BD, scale_B, length_B = self.prepare(weights, rows_BD)
        pre_BC = centred_BD @ weights["encoder_CD"].T
        error_RD, square_R = rows_BD.new_empty(2 * rows, self.sae.width), rows_BD.new_empty(2 * rows)

        penalty = (self.loss.sparsity or 0.0) / (rows * concepts)
        codes = self.select(pre_BC, weights["encoder_bias_C"], self.sae.k)
        self.decode(weights, base_BD, scale_B, penalty, codes, error_RD[:rows], square_R[:rows])
        error = (scale_B @ square_R[:rows]) / 2
        total = error + penalty * codes.value_BK.sum()
        parts = [codes]
        if self.loss.aux_k and self.loss.aux_weight:
            # Who lives scores minus infinity here: the host need not know how many are dead.
            bias_C = torch.where(dead_C, weights["encoder_bias_C"], -torch.inf)
            revived = self.select(pre_BC, bias_C, self.loss.aux_k)
            counts_B = torch.full_like(scale_B, self.loss.aux_weight * 2 / rows_BD.numel())
            self.decode(weights, error_RD[:rows], counts_B, 0.0, revived, error_RD[rows:], square_R[rows:])
            total = total + (counts_B @ square_R[rows:]) / 2 * dead_C.any()
            parts.append(revived)

        entries = self.sort(parts)
        bias_C, bias_D = self.small_gradients(weights, error_RD[:rows], scale_B, entries)
        small = bias_C.square().sum() + bias_D.square().sum()
        length = self.update(
            state, centred_BD, length_B, error_RD, square_R, entries, (bias_C, bias_D, small)
        )
        fired_C = torch.zeros(concepts + 1, dtype=torch.bool, device=rows_BD.device)
        fired_C[codes.index_BK.flatten().long()] = True
        state.vectors_since_fired_C.add_(rows).masked_fill_(fired_C[:concepts], 0)
        state.step += 1
        active = codes.count_B.sum(dtype=torch.float32) / rows
        return StepStats(total, error, active, dead_C.sum(dtype=torch.float32), length)

    def prepare(self, weights: Weights, rows_BD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(centred rows, reconstruction minus row without codes, what a squared error counts, lengths)."""
        sae, bias_D = self.sae, weights["decoder_bias_D"]
        centred_BD = rows_BD - bias_D if sae.centred else rows_BD
        base_BD = bias_D - rows_BD if sae.decoder_bias else -rows_BD
        length_B = torch.linalg.vector_norm(centred_BD, dim=1)
        if self.loss.error == "relative":
            scale_B = 20 / (rows_BD.numel() * torch.where(length_B > 0, length_B, 1))
        else:
            scale_B = torch.full_like(length_B, 2 / rows_BD.numel())
        return centred_BD, base_BD, scale_B, length_B

    def select(self, pre_BC: Tensor, bias_C: Tensor, k: int) -> Codes:
        """The k largest positive scores; slots without a code hold concept C and value 0."""
        rows, concepts = pre_BC.shape
        # At least k groups make the bound; programs of very many lanes are slow, of very few as well.
        groups = max(_power_of_two(k), min(1024, _power_of_two(round((concepts * k) ** 0.5))))
        spare = 2 * _power_of_two(k)
        index_BK = torch.full((rows, k), concepts, dtype=torch.int32, device=pre_BC.device)
        value_BK, weight_BK, slope_BK = (pre_BC.new_zeros(rows, k) for _ in range(3))
        count_B = torch.zeros(rows, dtype=torch.int32, device=pre_BC.device)
        self.kernels.select_kernel[(rows,)](
            pre_BC, bias_C, pre_BC.new_empty(rows, spare), index_BK, value_BK, count_B, concepts, k, k,
            GROUPS=groups, SPARE=spare,
        )  # fmt: skip
        return Codes(index_BK, value_BK, count_B, weight_BK, slope_BK)

    def decode(
        self,
        weights: Weights,
        base_BD: Tensor,
        scale_B: Tensor,
        penalty: float,
        codes: Codes,
        error_BD: Tensor,
        square_B: Tensor,
    ) -> None:
        rows, slots = codes.index_BK.shape
        self.kernels.decode_kernel[(rows,)](
            base_BD, weights["decoder_CD"], scale_B, penalty, codes.index_BK, codes.value_BK, codes.count_B,
            error_BD, square_B, codes.weight_BK, codes.slope_BK, self.sae.width, slots, **self.block,
        )  # fmt: skip

    def sort(self, parts: list[Codes]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(offset_C1, row_S, weight_S, slope_S): entries by concept, and within a concept by row."""
        index_S = torch.cat([part.index_BK.flatten() for part in parts])
        row_S = torch.cat(
            [
                (torch.arange(len(part.index_BK), device=index_S.device) + number * len(part.index_BK))
                .repeat_interleave(part.index_BK.shape[1])
                .int()
                for number, part in enumerate(parts)
            ]
        )
        concept_S, order_S = index_S.sort(stable=True)
        edges_C1 = torch.arange(self.sae.concepts + 1, device=index_S.device, dtype=concept_S.dtype)
        offset_C1 = torch.searchsorted(concept_S, edges_C1)
        weight_S = torch.cat([part.weight_BK.flatten() for part in parts])[order_S]
        slope_S = torch.cat([part.slope_BK.flatten() for part in parts])[order_S]
        return offset_C1, row_S[order_S], weight_S, slope_S

    def small_gradients(
        self, weights: Weights, error_BD: Tensor, scale_B: Tensor, entries: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the encoder's and the decoder's bias."""
        offset_C1, _, _, slope_S = entries
        gradient_C = torch.empty_like(weights["encoder_bias_C"])
        self.kernels.bias_gradient_kernel[(self.sae.concepts,)](offset_C1, slope_S, gradient_C)
        gradient_D = error_BD.T @ scale_B
        if self.sae.centred:
            gradient_D = gradient_D - gradient_C @ weights["encoder_CD"]
        return gradient_C, gradient_D if self.sae.decoder_bias else torch.zeros_like(gradient_D)

    def update(
        self,
        state: TrainState,
        centred_BD: Tensor,
        length_B: Tensor,
        error_RD: Tensor,
        square_R: Tensor,
        entries: tuple[Tensor, Tensor, Tensor, Tensor],
        small: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Clip, Adam, decoder lengths; the gradient's norm before clipping. The pass that only takes the norm
        ends at once where the lengths of the entries show that nothing is clipped (see the fused step)."""
        weights, concepts, rows = state.weights, self.sae.concepts, len(centred_BD)
        bias_C, bias_D, small_square = small
        square_C = torch.zeros_like(bias_C)
        factor, limit = torch.ones_like(small_square), self.config.adam.clip
        shared = (*entries, centred_BD, error_RD)
        tangent = {"TANGENT": self.config.row_norm == "tangent"}
        if limit is not None:
            bound = (self.bound(entries, length_B, square_R) + small_square).sqrt() * CERTAIN + 1e-6
            certain = bound <= limit
            self.kernels.squares_kernel[(concepts,)](
                certain.int(), *shared, weights["decoder_CD"], square_C, rows, self.sae.width,
                **tangent, **self.block,
            )  # fmt: skip
            length = (square_C.sum() + small_square).sqrt()
            factor = torch.where(certain, 1.0, (limit / (length + 1e-6)).clamp(max=1.0))
        numbers = self.adam_numbers(state.step)
        matrices = [
            group[name]
            for name in ("encoder_CD", "decoder_CD")
            for group in (weights, state.first, state.second)
        ]
        self.kernels.update_kernel[(concepts,)](
            *shared, factor, square_C, *matrices, *numbers, rows, self.sae.width,
            NORMALISE=self.config.row_norm != "free", **tangent, **self.block,
        )  # fmt: skip
        for name, gradient in (("encoder_bias_C", bias_C), ("decoder_bias_D", bias_D)):
            if name in state.first:
                self.adam_vector(state, name, gradient * factor, numbers)
        return (square_C.sum() + small_square).sqrt()

    def bound(self, entries: tuple[Tensor, ...], length_B: Tensor, square_R: Tensor) -> Tensor:
        """At least the squared norm of both matrices' gradients: |sum of w e| <= sum of |w| |e|."""
        offset_C1, row_S, weight_S, slope_S = entries
        # Behind the last offset lie empty slots; their weights and slopes are 0.
        row = row_S.long()
        encoder_S = slope_S.abs() * length_B[row % len(length_B)]
        decoder_S = weight_S.abs() * square_R[row].sqrt()
        sums = torch.stack([encoder_S, decoder_S]).double().cumsum(dim=1)
        padded = torch.cat([sums.new_zeros(2, 1), sums], dim=1)
        return (padded[:, offset_C1[1:]] - padded[:, offset_C1[:-1]]).square().sum().float()

    def adam_numbers(self, step: int) -> tuple[float, ...]:
        """Rate, root, eps, 1 - beta1, beta2, 1 - beta2 of w -= rate m / (root sqrt(v) + eps)."""
        adam, count = self.config.adam, step + 1
        rate = self.config.rate(step) / (1 - adam.beta1**count)
        root = (1 - adam.beta2**count) ** -0.5
        return rate, root, adam.eps, 1 - adam.beta1, adam.beta2, 1 - adam.beta2

    def adam_vector(self, state: TrainState, name: str, gradient: Tensor, numbers: tuple[float, ...]) -> None:
        rate, root, eps, keep1, beta2, keep2 = numbers
        first, second = state.first[name], state.second[name]
        first.lerp_(gradient, keep1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=keep2)
        state.weights[name].addcdiv_(first, second.sqrt() * root + eps, value=-rate)


def _power_of_two(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (number - 1).bit_length()
