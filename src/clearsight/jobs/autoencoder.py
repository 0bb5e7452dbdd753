"""From a model's items, or from vectors, to a trained autoencoder in a folder: shared by `sae train` and
`diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.jobs.ui import Labelled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clearsight.harvest import Shards
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress
    from clearsight.sae import SparseAutoencoder, TrainConfig
    from clearsight.types import Item

CONCEPTS_PER_ENTRY = 8
"""Concepts for each entry of an activation vector, unless told: 28672 for a width of 3584."""
FEWEST_STEPS = 1500
"""Without a number of epochs, vectors are passed over until there were so many steps."""


@dataclass(frozen=True, kw_only=True)
class SaeOptions:
    """How an autoencoder is trained, as flags."""

    preset: Annotated[
        Literal["default", "release"], "release: the settings of the code published with the paper"
    ] = "default"
    concepts: Annotated[
        int | None, "number of concepts; default: 8 times the vectors' width, at most half their number"
    ] = None
    k: Annotated[int | None, "concepts of a vector; default: 32, in the release preset 50"] = None
    form: Annotated[
        Literal["centred", "paper"], "centred: a bias is taken off first; paper: no bias, nothing taken off"
    ] = "centred"
    activation: Annotated[str, "relu, topk, batchtopk, jumprelu or sparsemax"] = "topk"
    score: Annotated[str, "linear, or attention (of a vector over the concepts)"] = "linear"
    epochs: Annotated[int | None, "passes over the vectors; default: as many as make 1500 steps"] = None
    batch: Annotated[int | None, "vectors a step; default: by the number of vectors"] = None
    token_types: Annotated[tuple[str, ...], "tokens to learn from: prompt, text, image, special"] = (
        "prompt",
        "text",
        "image",
    )
    norm_limit: Annotated[
        float | None, "leave out tokens whose norm exceeds this multiple of the median (attention sinks)"
    ] = 10.0
    sae_seed: Annotated[int, "of the first weights and of the order of vectors"] = 0

    def training(self, width: int, vectors: int) -> TrainConfig:
        """The settings for `vectors` vectors of this width.

        Raises:
            UsageError: options that do not go together.
        """
        from clearsight.sae import presets

        # An autoencoder wants more vectors than concepts: of few vectors, as of pooled ones, it is smaller.
        concepts = self.concepts or max(1, min(CONCEPTS_PER_ENTRY * width, vectors // 2))
        config = presets.get(self.preset)(width, concepts, self.k, vectors)
        sae = replace(config.sae, activation=self.activation, score=self.score)
        if self.form == "paper":
            sae = replace(sae, centred=False, decoder_bias=False)
        batch = self.batch or min(config.batch, max(1, vectors))
        epochs = config.epochs if self.preset == "release" else -(-FEWEST_STEPS * batch // max(1, vectors))
        return replace(config, sae=sae, batch=batch, epochs=self.epochs or max(1, epochs), seed=self.sae_seed)


def train_on_tokens(
    encoder: Encoder, items: Sequence[Item], options: SaeOptions, folder: Path, progress: Progress
) -> tuple[SparseAutoencoder, Shards]:
    """Harvest the tokens of the items, then train on them; both go on where they were interrupted.

    Args:
        folder: gets `harvest/` (token states) and `training/` (the checkpoint).

    Raises:
        UsageError, DataError, ItemError: as harvest and training.
    """
    from clearsight.harvest import ShuffledStream, harvest
    from clearsight.sae import check_enough, train_sae

    label = Labelled(progress, f"harvesting tokens ({encoder.loaded.name})")
    shards = harvest(encoder, items, folder / "harvest", progress=label)
    types = options.token_types
    vectors = len(shards.select(token_types=types, norm_limit=options.norm_limit))
    config = options.training(shards.width, vectors)
    check_enough(vectors, config)
    stream = ShuffledStream(
        shards,
        seed=config.seed,
        epochs=config.epochs,
        token_types=types,
        norm_limit=options.norm_limit,
    )
    config = replace(config, steps=vectors * config.epochs // config.batch or None)
    label = Labelled(progress, f"training {config.sae.concepts:,} concepts")
    return train_sae(stream, config, folder=folder / "training", progress=label), shards


def train_on_vectors(
    rows_ND: NDArray[np.float32], options: SaeOptions, folder: Path, progress: Progress
) -> SparseAutoencoder:
    """Train on one vector an item: contrastive models, and anyone's own vectors."""
    from clearsight.sae import ArrayStream, train_sae

    config = options.training(rows_ND.shape[1], len(rows_ND))
    stream = ArrayStream(rows_ND, epochs=config.epochs, seed=config.seed)
    config = replace(config, steps=stream.steps(config.batch) or None)
    label = Labelled(progress, f"training {config.sae.concepts:,} concepts")
    return train_sae(stream, config, folder=folder / "training", progress=label)


def sae_line(sae: SparseAutoencoder, vectors: int, what: str) -> str:
    """One line on an autoencoder."""
    form = sae.config
    size = f", k = {form.k}" if form.kind.uses_k else ""
    score = "" if form.score == "linear" else f", {form.score} scores"
    return (
        f"{form.concepts:,} concepts of width {form.width}, {form.activation}{size}{score}, "
        f"trained on {vectors:,} {what}"
    )


def facts(encoder: Encoder | None, options: SaeOptions, **more: Any) -> dict[str, Any]:
    """What is written beside the weights: where they come from."""
    from dataclasses import asdict

    origin = {} if encoder is None else encoder.origin(encoder.pooling)
    return {"origin": origin, "options": asdict(options), **more}
