"""The model behind an index: loaded with its head, and checked to give the vectors that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.errors import DataError
from clearsight.index.settings import Settings
from clearsight.types import MODALITIES, Item, Modality

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder
    from clearsight.rerank import Reranker

_DEFAULTS = {"prompt": "one_word", "pooling": "mean"}
_OPTIONS = ("prompt", "pooling", "layer", "source", "max_tokens", "image_size")
_MAY_DIFFER = frozenset(
    {"model", "dtype", "clearsight", "transformers", "image_backend", "counterpart", "prompt"}
)
"""Of an encoder's origin: a path that moved, a device, versions; the prompt counts by its words' digest."""


def encoder_of(
    model: str | os.PathLike[str] | Encoder,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Encoder:
    """An encoder of a model by name, or the one given.

    A generative model comes with its language head, which captions pictures and judges hits.

    Raises:
        ModelError, UsageError: as `Encoder.load`.
    """
    if not isinstance(model, str | os.PathLike):
        return model
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    loaded = load_model(Path(model) if isinstance(model, os.PathLike) else model,
                        device=device, head=True, trust_remote_code=trust_remote_code)  # fmt: skip
    trained_for = {} if loaded.adapter is None else loaded.adapter.options
    given = {name: value for name, value in options.items() if value is not None}
    return Encoder(loaded, **{**_DEFAULTS, **trained_for, **given})


def options_of(encoder: Encoder) -> dict[str, Any]:
    """What makes the same encoder of the same model; JSON values."""
    template = encoder.prompt
    prompt = str(template) if isinstance(template, str | os.PathLike) else encoder.template.name
    return {name: prompt if name == "prompt" else getattr(encoder, name) for name in _OPTIONS}


def facts_of(encoder: Encoder) -> dict[str, Any]:
    """What of an encoder changes vectors, as JSON knows it."""
    origin = {name: value for name, value in encoder.origin().items() if name not in _MAY_DIFFER}
    plain: dict[str, Any] = json.loads(json.dumps(origin, default=str))
    return plain


def same_vectors(encoder: Encoder, settings: Settings, folder: Path) -> None:
    """Nothing, where an encoder gives the vectors that an index holds.

    Raises:
        DataError: it does not; the message says what differs, and the command that mends it.
    """
    now, then = facts_of(encoder), dict(settings.vectors)
    other = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    if not other:
        return
    said = ", ".join(f"{name} {then.get(name)} (now {now.get(name)})" for name in other[:3])
    place = settings.place_of_items(folder)
    raise DataError(
        f"The index was made by another model or in another way: {said}.",
        where=str(folder),
        do=f"Search it with '{settings.model}' as it was, or build it again: clearsight index "
        f"{place or 'PHOTOS/'} --model {encoder.loaded.name} --overwrite.",
    )


def width_of(encoder: Encoder) -> int:
    """D, of one short embedding."""
    if "text" in reads(encoder):
        return encoder.embed([Item("width", text="a")]).width
    from PIL import Image

    return encoder.embed([Item("width", image=Image.new("RGB", (32, 32), "gray"))]).width


def reads(encoder: Encoder) -> frozenset[Modality]:
    """What items may hold for this model."""
    stock = encoder.loaded.stock
    return frozenset(MODALITIES) if stock is None else stock.accepts


def writes(encoder: Encoder) -> bool:
    """Whether the model has a language head."""
    return (
        encoder.loaded.stock is None
        and encoder.loaded.kind == "generative"
        and encoder.loaded.model.get_output_embeddings() is not None
    )


def reranker_of(encoder: Encoder, scorer: str) -> Reranker:
    """A reranker of the index's own model. Raises UsageError where it has no language head."""
    from clearsight.rerank import Reranker

    options: Mapping[str, Any] = {} if encoder.image_size is None else {"image_size": encoder.image_size}
    return Reranker.load(encoder.loaded, scorer=scorer, **options)
