"""Autoencoders of every kind with random weights, for tests.

Legend of shapes: N rows, D width, C concepts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clearsight.sae import SaeConfig, SparseAutoencoder
from clearsight.sae.forward import shapes

FORMS: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "topk": {"activation": "topk", "k": 5},
    "batchtopk": {"activation": "batchtopk", "k": 5},
    "jumprelu": {"activation": "jumprelu"},
    "topk-uncentred": {"activation": "topk", "k": 5, "centred": False},
    "topk-no-bias": {"activation": "topk", "k": 5, "centred": False, "decoder_bias": False},
    "topk-attention": {"activation": "topk", "k": 5, "score": "attention"},
    "relu-attention": {"activation": "relu", "score": "attention", "centred": False},
    "sparsemax": {"activation": "sparsemax", "score": "attention"},
    "sparsemax-linear": {"activation": "sparsemax", "centred": False},
    "sparsemax-mask": {"activation": "sparsemax", "sparsemax_mode": "mask", "score": "attention"},
}


def make_sae(name: str, *, width: int = 12, concepts: int = 40, seed: int = 0) -> SparseAutoencoder:
    """An autoencoder of one of `FORMS` whose every weight is random, biases and thresholds included."""
    config = SaeConfig(width, concepts, **{"k": 8, **FORMS[name]})
    random = torch.Generator().manual_seed(seed)
    weights = {
        one: torch.randn(shape, generator=random) / (shape[-1] ** 0.5 if len(shape) == 2 else 4)
        for one, shape in shapes(config).items()
    }
    weights["threshold_C"] = weights["threshold_C"].abs()
    if config.activation == "batchtopk":
        weights["threshold_C"] = torch.full((concepts,), 0.7)
    if config.sparsemax_mode == "mask":
        weights["threshold_C"] = torch.where(torch.arange(concepts) % 7 == 0, torch.inf, 0.0)
    if not config.decoder_bias:
        weights["decoder_bias_D"].zero_()
    return SparseAutoencoder(config, weights)


def make_rows(count: int = 64, *, width: int = 12, seed: int = 0) -> NDArray[np.float32]:
    """Rows (N, D) with a mean that is not zero."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, width)) + random.normal(size=width)).astype(np.float32)
