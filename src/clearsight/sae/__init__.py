"""Sparse autoencoders: their form, their training, their codes."""

from clearsight.sae.activations import Activation, activations, sparsemax
from clearsight.sae.autoencoder import History, SparseAutoencoder
from clearsight.sae.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clearsight.sae.config import AdamConfig, LossConfig, SaeConfig, TrainConfig
from clearsight.sae.presets import presets
from clearsight.sae.scores import Score, scores
from clearsight.sae.state import TrainState
from clearsight.sae.steps import Step, StepStats, make_step
from clearsight.sae.stream import ActivationStream, ArrayStream
from clearsight.sae.train import train_many, train_sae
from clearsight.sae.training import Every, check_enough

__all__ = [
    "Activation",
    "ActivationStream",
    "AdamConfig",
    "ArrayStream",
    "Checkpoint",
    "Every",
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
    "check_enough",
    "load_checkpoint",
    "make_step",
    "presets",
    "save_checkpoint",
    "scores",
    "sparsemax",
    "train_many",
    "train_sae",
]
