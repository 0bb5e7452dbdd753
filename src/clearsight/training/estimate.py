"""What a training will cost on this machine: a few of its steps, measured, and the rest by their number."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from statistics import median

import torch

from clearsight.training.trainer import Training

WARMUP, MEASURED = 1, 3


@dataclass(frozen=True)
class Estimate:
    """Projected from measured steps.

    Attributes:
        steps: of the whole training.
        pairs: queries of a step, of all processes, in the measured steps.
        step_seconds: median of the measured steps.
        tokens_per_second: of this process; each token passes forward twice and backward once.
        hours: step_seconds * steps.
        peak_bytes: the most memory in use: the GPU's, or this process's on a CPU.
    """

    steps: int
    pairs: int
    step_seconds: float
    tokens_per_second: float
    hours: float
    peak_bytes: int


def estimate(training: Training) -> Estimate:
    """Do `WARMUP` + `MEASURED` steps, and project. The training is not to be gone on with: its weights have
    moved, and nothing is saved."""
    device = training.loaded.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training.steps(min(training.plan.steps, WARMUP + MEASURED))
    measured = training.history[WARMUP:] or training.history
    seconds = median(row.seconds for row in measured)
    return Estimate(
        training.plan.steps,
        round(median(row.pairs for row in measured)),
        seconds,
        sum(row.tokens for row in measured) / sum(row.seconds for row in measured),
        seconds * training.plan.steps / 3600,
        _peak(device),
    )


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
