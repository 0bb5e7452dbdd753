"""What the fast steps have in common: which trainings they know, and how they are called."""

from __future__ import annotations

import torch
from torch import Tensor

from clearsight.sae.config import TrainConfig
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats

CERTAIN = 1.001
"""A bound on the gradient's norm is trusted with this much room for rounding."""


def kind_refusal(config: TrainConfig) -> str | None:
    """Why a training is not one of topk with linear scores; None where it is."""
    if config.sae.activation != "topk" or config.sae.score != "linear":
        return f"it knows topk with linear scores, not {config.sae.activation} with {config.sae.score} ones."
    if config.resolved_loss.sparsity and config.row_norm == "free":
        return "it knows no penalty that counts the lengths of free decoder rows."
    return None


def without_gradients(step: Step) -> Step:
    """A step that writes its own gradients: torch records nothing."""

    def run(state: TrainState, rows_BD: Tensor) -> StepStats:
        with torch.no_grad():
            return step(state, rows_BD.contiguous())

    return run
