"""One training step, by the engine that fits: the door for kernels.

A step takes the state and a batch (float32, on the state's device, already divided by `state.scale`), changes
the state in place and counts `state.step` up. In this order, whoever computes it:

1. codes and reconstruction by `clearsight.sae.forward` with training=True;
2. the loss of `clearsight.sae.losses`; a concept is dead for the auxiliary loss where
   `vectors_since_fired_C >= dead_window` before this batch;
3. gradients of the weights in `trained_names`; with row norm "tangent" the decoder gradient loses its
   component along each row;
4. clipping of the whole of them by its L2 norm;
5. Adam with the rate `config.rate(state.step)` and bias correction by state.step + 1; moments of weights
   without gradient decay as well;
6. thresholds are kept at 0 or above; decoder rows are normalised unless the row norm is "free";
7. `vectors_since_fired_C`: 0 where a code was not 0, else + B; the activation's estimate.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.sae.config import TrainConfig
from clearsight.sae.state import TrainState


class StepStats(NamedTuple):
    """What a step saw, as 0-dimensional float32 tensors on its device: reading one waits for the device.

    Attributes:
        loss: all terms.
        error: the reconstruction error alone.
        active: mean number of codes of a row that are not 0.
        dead: concepts that were dead before the step.
        gradient: L2 norm of the whole gradient before clipping.
    """

    loss: Tensor
    error: Tensor
    active: Tensor
    dead: Tensor
    gradient: Tensor


Step = Callable[[TrainState, Tensor], StepStats]


class Engine(Protocol):
    """A module that makes steps."""

    def refusal(self, config: TrainConfig, device: torch.device) -> str | None:
        """Why this engine cannot do this here, in a sentence; None where it can."""

    def make(self, config: TrainConfig, device: torch.device) -> Step:
        """The step."""


ENGINES = {
    name: f"clearsight.sae.steps.{name}"
    for name in ("triton", "fused", "reference")  # the order of "auto"
}


def choose_engine(config: TrainConfig, device: torch.device, engine: str = "auto") -> str:
    """The name of the engine that `make_step` takes.

    Raises:
        UsageError: an unknown engine, or one that refuses; the reason is said.
    """
    if engine == "auto":
        return next(name for name in ENGINES if _refusal(name, config, device) is None)
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine '{engine}'.", do=f"There are: auto, {', '.join(ENGINES)}.")
    reason = _refusal(engine, config, device)
    if reason is not None:
        raise UsageError(f"Engine '{engine}' cannot do this: {reason}", do="Use 'auto' or 'reference'.")
    return engine


def make_step(config: TrainConfig, engine: str = "auto", device: torch.device | str = "cpu") -> Step:
    """A step for this config on this device. Raises what `choose_engine` raises."""
    place = torch.device(device)
    return _load(choose_engine(config, place, engine)).make(config, place)


def _refusal(name: str, config: TrainConfig, device: torch.device) -> str | None:
    if importlib.util.find_spec(ENGINES[name]) is None:
        return "it is not part of this installation."
    return _load(name).refusal(config, device)


def _load(name: str) -> Engine:
    module: Engine = importlib.import_module(ENGINES[name])
    return module
