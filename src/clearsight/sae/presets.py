"""Settings that belong together, by name."""

from __future__ import annotations

from typing import Protocol

from clearsight.registry import Registry
from clearsight.sae.config import AdamConfig, LossConfig, SaeConfig, TrainConfig


class Preset(Protocol):
    """(width, concepts, k or None, distinct vectors in sight or None) -> settings."""

    def __call__(
        self, width: int, concepts: int, k: int | None = None, vectors: int | None = None
    ) -> TrainConfig: ...


def default(width: int, concepts: int, k: int | None = None, vectors: int | None = None) -> TrainConfig:
    """Ours: top-k on centred, scaled rows, with the auxiliary loss for dead concepts.

    Args:
        k: concepts a row; None: 32, or a quarter of them where there are fewer than 128.
        vectors: how many distinct ones there are. The batch is then the power of two next below a hundredth
            of them (64 to 4096), and a concept counts as dead after a tenth of them, or 10 million.
    """
    batch, window = 4096, 1_000_000
    if vectors is not None:
        batch = min(4096, max(64, 1 << max(0, vectors // 100).bit_length() - 1)) if vectors >= 100 else 64
        window = max(batch, min(10_000_000, vectors // 10))
    sae = SaeConfig(width, concepts, k=min(32, max(1, concepts // 4)) if k is None else k)
    return TrainConfig(sae, loss=LossConfig(dead_window=window), batch=batch)


def release(width: int, concepts: int, k: int | None = None, vectors: int | None = None) -> TrainConfig:
    """The code published with Feng et al. 2026: top-k of 50 after ReLU, dictionary rows kept at length 1, no
    decoder bias, rows neither centred nor scaled, mean squared error + 1e-2 mean |z|, clipping at 1, Adam at
    8e-4, batches of 4096, 5 epochs, nothing done about dead concepts."""
    return TrainConfig(
        SaeConfig(width, concepts, k=50 if k is None else k, centred=False, decoder_bias=False),
        adam=AdamConfig(lr=8e-4, beta1=0.9, beta2=0.999, eps=1e-8, clip=1.0),
        loss=LossConfig(error="mse", sparsity=1e-2, aux_k=0),
        batch=4096,
        epochs=5,
        decoder_norm="project",
        scaled=False,
    )


presets: Registry[Preset] = Registry("sae_preset")
presets.add("default", default)
presets.add("release", release)
