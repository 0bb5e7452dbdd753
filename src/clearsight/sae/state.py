"""Everything that training carries from one step to the next.

Legend of shapes: B rows of a batch, D width, C concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clearsight.errors import DataError
from clearsight.sae.autoencoder import SparseAutoencoder
from clearsight.sae.config import TrainConfig
from clearsight.sae.forward import score_rows, shapes, trained_names

MEMORY = 100
"""Batches that the running mean of an estimate remembers: a plain mean up to here, then a decay of 0.99."""

THRESHOLD_ROWS = 256
"""Rows of the first batch from which JumpReLU's thresholds start."""


@dataclass(eq=False)
class TrainState:
    """All that an exact resume needs. Contiguous float32 tensors unless said otherwise; steps change them in
    place. No step draws random numbers, so there is no generator among them.

    Attributes:
        weights: by name (`clearsight.sae.forward.shapes`): `encoder_CD`, `encoder_bias_C`, `decoder_CD`,
            `decoder_bias_D`, `threshold_C`; with attention scores that score's own.
        first, second: Adam's moments of the weights that are trained, by the same names.
        vectors_since_fired_C: int64; vectors seen since a concept last had a code that is not 0.
        estimate_C: running mean of what the activation observes (batchtopk: its threshold; sparsemax `mask`:
            how often a concept fires); zeros for the others.
        scale: what rows are divided by before they reach a step, 0-dimensional.
        step: steps done, counted by the host.
    """

    weights: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    vectors_since_fired_C: Tensor
    estimate_C: Tensor
    scale: Tensor
    step: int = 0

    @classmethod
    @torch.no_grad()
    def start(cls, config: TrainConfig, rows_BD: Tensor) -> TrainState:
        """First weights: random directions from `config.seed`, the rest from the first batch (float32,
        unscaled).

        The decoder bias is the batch's mean where rows are centred, else 0. Encoder and decoder rows lie
        along the same directions, so that a score starts with the standard deviation of the scaled rows'
        entries.
        """
        sae = config.sae
        generator = torch.Generator().manual_seed(config.seed)
        directions_CD = torch.randn(sae.concepts, sae.width, generator=generator).to(rows_BD.device)
        directions_CD /= torch.linalg.vector_norm(directions_CD, dim=1, keepdim=True)
        mean_D = (
            rows_BD.double().mean(dim=0) if sae.centred else torch.zeros(sae.width, device=rows_BD.device)
        )
        scale = (rows_BD - mean_D).square().mean().sqrt().float() if config.scaled else torch.ones(())
        scale = torch.where(scale > 0, scale, 1).to(rows_BD.device)
        root = sae.width**0.5
        # Rows of length 1 score sqrt(D) lower; a convex combination must reach rows of length sqrt(D) itself.
        if sae.kind.unit_input:
            encoder, decoder = root, 1 / root
        else:
            encoder, decoder = 1.0, root if sae.kind.free_decoder else 1.0
        weights = {
            name: torch.zeros(shape, device=rows_BD.device, dtype=torch.float32)
            for name, shape in shapes(sae).items()
        }
        weights |= sae.scoring.unfold(directions_CD, encoder, decoder, sae)
        weights["decoder_bias_D"] = (mean_D / scale).float()
        state = cls(
            weights={name: value.contiguous() for name, value in weights.items()},
            first={name: torch.zeros_like(weights[name]) for name in trained_names(sae)},
            second={name: torch.zeros_like(weights[name]) for name in trained_names(sae)},
            vectors_since_fired_C=torch.zeros(sae.concepts, dtype=torch.int64, device=rows_BD.device),
            estimate_C=torch.zeros(sae.concepts, device=rows_BD.device),
            scale=scale,
        )
        if sae.kind.trains_threshold:
            state.weights["threshold_C"].fill_(state._first_threshold(config, rows_BD[:THRESHOLD_ROWS]))
        return state

    def _first_threshold(self, config: TrainConfig, rows_BD: Tensor) -> Tensor:
        """The score that k concepts a row exceed, on average over the rows: training starts near its aim."""
        sae = config.sae
        centred_BD = rows_BD / self.scale - self.weights["decoder_bias_D"] * sae.centred
        encoder_CD, _ = sae.scoring.fold(self.weights, sae)
        pre_BC, _ = score_rows(encoder_CD, self.weights["encoder_bias_C"], sae, centred_BD)
        return pre_BC.flatten().topk(sae.k * len(rows_BD)).values[-1].relu()

    def observe(self, batch_C: Tensor) -> None:
        """Take a batch's estimate into the running mean; entries that are not finite change nothing.

        Called before `step` is counted up.
        """
        share = max(1 / (self.step + 1), 1 / MEMORY)
        self.estimate_C += torch.where(batch_C.isfinite(), (batch_C - self.estimate_C) * share, 0)

    def dead_C(self, window: int) -> Tensor:
        """Which concepts have not fired within the last `window` vectors, bool (C,)."""
        return self.vectors_since_fired_C >= window

    @torch.no_grad()
    def autoencoder(self, config: TrainConfig) -> SparseAutoencoder:
        """The autoencoder as it stands, for rows that are not scaled; shares nothing with this state."""
        sae, kind, weights = config.sae, config.sae.kind, dict(self.weights)
        one = torch.ones_like(self.scale)
        codes = self.scale if kind.homogeneous and not kind.unit_input else one
        if not kind.homogeneous:
            weights |= sae.scoring.rescale(weights, one / self.scale, self.scale, sae)
        weights["encoder_bias_C"] = weights["encoder_bias_C"] * codes
        weights["decoder_bias_D"] = weights["decoder_bias_D"] * self.scale
        if kind.observe is not None:
            weights["threshold_C"] = kind.threshold(self.estimate_C, sae)
        weights["threshold_C"] = weights["threshold_C"] * codes
        return SparseAutoencoder(sae, weights)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything as tensors by name, for a file."""
        groups = {"weights": self.weights, "first": self.first, "second": self.second}
        tensors = {f"{group}.{name}": value for group, held in groups.items() for name, value in held.items()}
        return {
            **tensors,
            "vectors_since_fired_C": self.vectors_since_fired_C,
            "estimate_C": self.estimate_C,
            "scale": self.scale,
            "step": torch.tensor(self.step, dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: TrainConfig) -> TrainState:
        """What `to_tensors` gave; others are left alone. Raises DataError where one is missing or
        misshapen."""
        sae = config.sae
        trained = trained_names(sae)
        form = shapes(sae)

        def take(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
            value = tensors.get(name)
            if value is None or tuple(value.shape) != shape or value.dtype != dtype:
                found = "nothing" if value is None else f"{value.dtype} {tuple(value.shape)}"
                raise DataError(
                    f"'{name}' should be {dtype} {shape}; there is {found}.",
                    do="This is no state of such a training: start anew.",
                )
            return value.contiguous()

        return cls(
            weights={name: take(f"weights.{name}", shape) for name, shape in form.items()},
            first={name: take(f"first.{name}", form[name]) for name in trained},
            second={name: take(f"second.{name}", form[name]) for name in trained},
            vectors_since_fired_C=take("vectors_since_fired_C", (sae.concepts,), torch.int64),
            estimate_C=take("estimate_C", (sae.concepts,)),
            scale=take("scale", ()),
            step=int(take("step", (), torch.int64)),
        )
