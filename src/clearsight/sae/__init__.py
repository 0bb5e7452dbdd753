"""Sparse autoencoders: their form, their training, their codes."""

from clearsight.sae.activations import Activation, activations, sparsemax
from clearsight.sae.autoencoder import History, SparseAutoencoder
from clearsight.sae.config import AdamConfig, LossConfig, SaeConfig, TrainConfig
from clearsight.sae.scores import Score, scores
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats, make_step
from clearsight.sae.stream import ActivationStream, ArrayStream

__all__ = [
    "Activation",
    "ActivationStream",
    "AdamConfig",
    "ArrayStream",
    "History",
    "LossConfig",
    "SaeConfig",
    "Score",
    "SparseAutoencoder",
    "Step",
    "StepStats",
    "TrainConfig",
    "TrainState",
    "activations",
    "make_step",
    "scores",
    "sparsemax",
]
