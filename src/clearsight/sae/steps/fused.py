"""The training step on a CPU: one encoder product, everything else sparse and compiled.

Legend of shapes: B rows of a batch, D width, C concepts, K codes of a row, R rows of entries (B, or 2 B with
the auxiliary loss), S slots for entries, b rows of a block.

It computes what `clearsight.sae.steps.reference` computes, for topk with linear scores in all options. The
floor of such a step is the encoder product 2 B D C, 4 gathers of B K rows, and Adam's traffic of 24 bytes a
weight; what this adds to the floor is one reading of the scores. No array C x D is made beside the state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clearsight.sae.config import TrainConfig
from clearsight.sae.scores import Weights
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats
from clearsight.sae.steps import sparse_kernels as kernels
from clearsight.sae.steps.select import (
    Scratch,
    Slots,
    multiplies_bfloat16,
    select,
    select_by_screen,
    select_float,
)
from clearsight.sae.steps.shared import CERTAIN, kind_refusal, without_gradients
from clearsight.sae.steps.sparse_kernels import Floats, Longs
from clearsight.threads import even_edges, spread, weighted_edges

FIXED_COST = 12.0
"""What a concept's Adam costs, in entries of its gradient: shares out the work among threads."""


def refusal(config: TrainConfig, device: torch.device) -> str | None:
    """It does topk with linear scores, on a CPU."""
    if device.type != "cpu":
        return f"it computes on the CPU, not on {device.type}."
    return kind_refusal(config)


def make(config: TrainConfig, device: torch.device) -> Step:
    """The step; it keeps its working memory from batch to batch."""
    return without_gradients(FusedStep(config))


@dataclass(frozen=True)
class Batch:
    """A batch and what of it the gradient needs."""

    centred_BD: Tensor
    base_BD: Tensor  # reconstruction minus row where no concept fires
    scale_B: Tensor  # the loss counts scale / 2 of a row's squared error
    length_B: Tensor  # of the centred rows


class FusedStep:
    """The parts of a step, in their order, and the working memory they share.

    `screen`: find the codes by way of bfloat16; None: where this CPU is faster so.
    """

    def __init__(self, config: TrainConfig, screen: bool | None = None) -> None:
        self.config, self.sae, self.loss = config, config.sae, config.resolved_loss
        self.screen = multiplies_bfloat16() if screen is None else screen
        self.scratch = Scratch()
        self.rows = self.slots = 0
        concepts = self.sae.concepts
        self.bias_gradient_C = np.empty(concepts, np.float32)
        self.square_C = np.empty(concepts, np.float64)
        self.offset_C1 = np.empty(concepts + 1, np.int64)

    def __call__(self, state: TrainState, rows_BD: Tensor) -> StepStats:
        weights = state.weights
        dead_C = state.dead_C(self.loss.dead_window)
        revived = dead_C.nonzero()[:, 0] if self.loss.aux_k and self.loss.aux_weight else dead_C[:0].long()
        batch = self.prepare(weights, rows_BD)
        start_R = self.reserve(len(rows_BD), min(self.loss.aux_k or 0, len(revived)))
        self.encode(weights, batch, start_R, revived)
        terms = self.decode(weights, batch, start_R, bool(len(revived)))
        entries = self.sort(start_R)
        bias_gradient_D = self.small_gradients(weights, batch, entries)
        length = self.update(state, batch, entries, bias_gradient_D)
        kernels.note_fired(
            start_R[: len(rows_BD)], self.count_R, self.index_S, state.vectors_since_fired_C.numpy()
        )
        state.step += 1
        active = float(self.count_R[: len(rows_BD)].sum(dtype=np.int64)) / len(rows_BD)
        dead = float(dead_C.count_nonzero())
        seen = torch.tensor([*terms, active, dead, length], dtype=torch.float32)
        return StepStats(*seen.unbind())

    def reserve(self, rows: int, auxiliary: int) -> Longs:
        """Make room; returns where the entries of each row begin, the auxiliary ones after the codes."""
        k = self.sae.k
        if rows > self.rows:
            self.rows = rows
            self.error_RD = np.empty((2 * rows, self.sae.width), np.float32)
            self.square_R, self.count_R = np.empty(2 * rows, np.float32), np.empty(2 * rows, np.int32)
        slots = rows * (k + auxiliary)
        if slots > self.slots:
            self.slots = slots
            self.index_S, self.row_S = np.empty(slots, np.int32), np.empty(slots, np.int32)
            self.value_S, self.weight_S, self.slope_S, self.sorted_weight_S, self.sorted_slope_S = (
                np.empty(slots, np.float32) for _ in range(5)
            )
        codes = np.arange(rows, dtype=np.int64)
        return np.concatenate([codes * k, rows * k + codes * auxiliary]) if auxiliary else codes * k

    def prepare(self, weights: Weights, rows_BD: Tensor) -> Batch:
        """Centre, and say what an error counts."""
        sae, bias_D = self.sae, weights["decoder_bias_D"]
        centred_BD = rows_BD - bias_D if sae.centred else rows_BD
        base_BD = -rows_BD if not sae.decoder_bias else -centred_BD if sae.centred else bias_D - rows_BD
        length_B = torch.linalg.vector_norm(centred_BD, dim=1)
        if self.loss.error == "relative":
            scale_B = 20 / (rows_BD.numel() * torch.where(length_B > 0, length_B, 1))
        else:
            scale_B = torch.full_like(length_B, 2 / rows_BD.numel())
        return Batch(centred_BD, base_BD, scale_B, length_B)

    def encode(self, weights: Weights, batch: Batch, start_R: Longs, revived: Tensor) -> None:
        """Codes of all rows, and the largest scores of the dead."""
        encoder_CD, bias_C = weights["encoder_CD"], weights["encoder_bias_C"]
        rows, k = len(batch.centred_BD), self.sae.k
        every = Slots(start_R, self.count_R[: len(start_R)], self.index_S, self.value_S)
        codes, dead = every.part(slice(0, rows)), every.part(slice(rows, 2 * rows))
        count = min(self.loss.aux_k or 0, len(revived))

        def revive(part: slice, pre_bC: Tensor) -> None:
            if count:
                select(pre_bC[:, revived], bias_C[revived], count, dead.part(part))

        if self.screen:
            select_by_screen(batch.centred_BD, encoder_CD, bias_C, k, codes, self.scratch)
            if count:
                few_MD, few_M = encoder_CD[revived], bias_C[revived]
                select_float(batch.centred_BD, few_MD, few_M, count, dead, self.scratch)
        else:
            select_float(batch.centred_BD, encoder_CD, bias_C, k, codes, self.scratch, revive)
        if count:
            kernels.rename(dead.start_B, dead.count_B, dead.index_S, revived.numpy())

    def decode(self, weights: Weights, batch: Batch, start_R: Longs, revive: bool) -> tuple[float, float]:
        """Errors and the gradient's factors; (loss, its reconstruction error)."""
        rows = len(batch.centred_BD)
        penalty = (self.loss.sparsity or 0.0) / (rows * self.sae.concepts)
        scale_B = batch.scale_B.numpy()
        self.decode_part(weights, batch.base_BD.numpy(), scale_B, penalty, start_R, slice(0, rows))
        error = float(scale_B.astype(np.float64) @ self.square_R[:rows]) / 2
        total = error
        if penalty:
            total += penalty * kernels.total(start_R[:rows], self.count_R, self.value_S)
        if revive:
            scale = self.loss.aux_weight * 2 / batch.base_BD.numel()
            part = slice(rows, 2 * rows)
            self.decode_part(
                weights, self.error_RD[:rows], np.full(rows, scale, np.float32), 0.0, start_R, part
            )
            total += scale / 2 * float(self.square_R[part].sum(dtype=np.float64))
        return total, error

    def decode_part(
        self, weights: Weights, base_BD: Floats, scale_B: Floats, penalty: float, start_R: Longs, part: slice
    ) -> None:
        decoder_CD = weights["decoder_CD"].numpy()

        def work(first: int, last: int) -> None:
            kernels.decode_rows(
                base_BD, decoder_CD, scale_B, np.float32(penalty), first, last, start_R[part],
                self.count_R[part], self.index_S, self.value_S, self.error_RD[part], self.square_R[part],
                self.weight_S, self.slope_S,
            )  # fmt: skip

        spread(work, even_edges(len(base_BD)))

    def sort(self, start_R: Longs) -> kernels.Entries:
        entries = kernels.Entries(self.offset_C1, self.row_S, self.sorted_weight_S, self.sorted_slope_S)
        kernels.sort_by_concept(start_R, self.count_R, self.index_S, self.weight_S, self.slope_S, entries)
        return entries

    def small_gradients(self, weights: Weights, batch: Batch, entries: kernels.Entries) -> Tensor:
        """The biases' gradients: the encoder's into `bias_gradient_C`, the decoder's returned.

        The decoder's bias is added to the reconstruction and, where rows are centred, subtracted from the
        input.
        """
        kernels.bias_gradient(entries, self.bias_gradient_C)
        error_BD = torch.from_numpy(self.error_RD[: len(batch.centred_BD)])
        gradient_D = error_BD.T @ batch.scale_B
        if self.sae.centred:
            gradient_D -= torch.from_numpy(self.bias_gradient_C) @ weights["encoder_CD"]
        return gradient_D if self.sae.decoder_bias else torch.zeros_like(gradient_D)

    def update(
        self, state: TrainState, batch: Batch, entries: kernels.Entries, bias_gradient_D: Tensor
    ) -> float:
        """Clip, Adam, lengths of the decoder rows; the gradient's norm before clipping.

        The norm needs every gradient, and they are not kept. Where even the sum of their entries' lengths is
        within the limit nothing is clipped, and one pass does all; otherwise they are computed twice.
        """
        centred_BD = batch.centred_BD.numpy()
        decoder = moments(state, "decoder_CD")
        norm = self.config.row_norm
        edges = weighted_edges(self.offset_C1, FIXED_COST)
        limit, factor = self.config.adam.clip, np.float32(1)
        small = float(np.square(self.bias_gradient_C, dtype=np.float64).sum()) + float(
            bias_gradient_D.double().square().sum()
        )

        if limit is not None:
            bound = kernels.gradient_bound(entries, batch.length_B.numpy(), self.square_R) + small
            if not bound**0.5 * CERTAIN + 1e-6 <= limit:
                spread(
                    lambda first, last: kernels.gradient_squares(
                        entries, centred_BD, self.error_RD, decoder.weight_CD, norm == "tangent", first, last,
                        self.square_C,
                    ),
                    edges,
                )  # fmt: skip
                length = (float(self.square_C.sum()) + small) ** 0.5
                factor = np.float32(min(1.0, limit / (length + 1e-6)))
        numbers = adam_numbers(self.config, state.step)
        encoder = moments(state, "encoder_CD")
        spread(
            lambda first, last: kernels.update_concepts(
                entries, centred_BD, self.error_RD, encoder, decoder, numbers, factor, norm == "tangent",
                norm != "free", first, last, self.square_C,
            ),
            edges,
        )  # fmt: skip
        kernels.adam_row(*vectors(state, "encoder_bias_C"), self.bias_gradient_C, factor, numbers)
        if self.sae.decoder_bias:
            kernels.adam_row(*vectors(state, "decoder_bias_D"), bias_gradient_D.numpy(), factor, numbers)
        return float((self.square_C.sum() + small) ** 0.5)


def moments(state: TrainState, name: str) -> kernels.Moments:
    return kernels.Moments(*vectors(state, name))


def vectors(state: TrainState, name: str) -> tuple[Floats, Floats, Floats]:
    """A weight and its moments as arrays over the same memory."""
    return state.weights[name].numpy(), state.first[name].numpy(), state.second[name].numpy()


def adam_numbers(config: TrainConfig, step: int) -> kernels.Adam:
    adam, count = config.adam, step + 1
    values = (
        config.rate(step) / (1 - adam.beta1**count),
        (1 - adam.beta2**count) ** -0.5,
        adam.eps,
        1 - adam.beta1,
        adam.beta2,
        1 - adam.beta2,
    )
    return kernels.Adam(*(np.float32(value) for value in values))
