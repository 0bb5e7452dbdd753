"""The step that every other engine must equal: dense tensors and torch's autograd.

Legend of shapes: B rows of a batch, D width, C concepts. Memory: about ten arrays B x C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clearsight.sae.config import AdamConfig, TrainConfig
from clearsight.sae.forward import Pass, forward, trained_names
from clearsight.sae.losses import loss_of
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats


def refusal(config: TrainConfig, device: torch.device) -> str | None:
    """It does everything, everywhere."""
    return None


def make(config: TrainConfig, device: torch.device) -> Step:
    names = trained_names(config.sae)

    def step(state: TrainState, rows_BD: Tensor) -> StepStats:
        dead_C = state.dead_C(config.loss.dead_window)
        with torch.enable_grad():
            leaves = {name: value.detach() for name, value in state.weights.items()}
            for name in names:
                leaves[name].requires_grad_()
            done = forward(leaves, config.sae, rows_BD, training=True)
            loss = loss_of(leaves, config, done, rows_BD, dead_C)
            found = torch.autograd.grad(loss.total, [leaves[name] for name in names], allow_unused=True)
        with torch.no_grad():
            gradients = {
                name: torch.zeros_like(leaves[name]) if gradient is None else gradient
                for name, gradient in zip(names, found, strict=True)
            }
            if config.row_norm == "tangent":
                gradients["decoder_CD"] = tangent(gradients["decoder_CD"], state.weights["decoder_CD"])
            length = clip(gradients, config.adam.clip)
            for name in names:
                adam(state, name, gradients[name], config.adam, config.rate(state.step))
            keep_in_bounds(state, config)
            note(state, config, done, len(rows_BD))
            state.step += 1
            active = (done.codes_BC != 0).sum(dtype=torch.float32) / len(rows_BD)
            return StepStats(
                loss.total.detach(), loss.error.detach(), active, dead_C.sum(dtype=torch.float32), length
            )

    return step


def tangent(gradient_CD: Tensor, decoder_CD: Tensor) -> Tensor:
    """The gradient without its component along each row, which has length 1: g - (g . d) d."""
    along_C1 = (gradient_CD * decoder_CD).sum(dim=1, keepdim=True)
    return gradient_CD - along_C1 * decoder_CD


def clip(gradients: dict[str, Tensor], limit: float | None) -> Tensor:
    """Scale all gradients in place so that together their L2 norm is at most `limit`; the norm before."""
    parts = [torch.linalg.vector_norm(value) for value in gradients.values()]
    length: Tensor = torch.linalg.vector_norm(torch.stack(parts))
    if limit is not None:
        factor = (limit / (length + 1e-6)).clamp(max=1.0)
        for value in gradients.values():
            value.mul_(factor)
    return length


def adam(state: TrainState, name: str, gradient: Tensor, settings: AdamConfig, rate: float) -> None:
    """w -= rate m^ / (sqrt(v^) + eps), with m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t) (Kingma and Ba
    2015)."""
    first, second, count = state.first[name], state.second[name], state.step + 1
    first.lerp_(gradient, 1 - settings.beta1)
    second.mul_(settings.beta2).addcmul_(gradient, gradient, value=1 - settings.beta2)
    root = second.sqrt().div_((1 - settings.beta2**count) ** 0.5).add_(settings.eps)
    state.weights[name].addcdiv_(first, root, value=-rate / (1 - settings.beta1**count))


def keep_in_bounds(state: TrainState, config: TrainConfig) -> None:
    """Thresholds at 0 or above; decoder rows at length 1, where they are kept there."""
    if config.sae.kind.trains_threshold:
        state.weights["threshold_C"].clamp_(min=0)
    if config.row_norm != "free":
        decoder_CD = state.weights["decoder_CD"]
        length_C1 = torch.linalg.vector_norm(decoder_CD, dim=1, keepdim=True)
        decoder_CD.div_(torch.where(length_C1 > 0, length_C1, 1))


def note(state: TrainState, config: TrainConfig, done: Pass, count: int) -> None:
    """Who fired, and what the activation observes."""
    fired_C = (done.codes_BC != 0).any(dim=0)
    state.vectors_since_fired_C.add_(count).masked_fill_(fired_C, 0)
    kind = config.sae.kind
    if kind.observe is not None:
        state.observe(kind.observe(done.pre_BC.detach(), done.codes_BC.detach(), config.sae))
