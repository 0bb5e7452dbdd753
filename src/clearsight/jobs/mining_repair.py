"""Vectors repaired before they are mined, by statistics of the pairs' own items: no label is looked at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from clearsight.errors import UsageError
from clearsight.jobs.recipes import RECIPES, Sides, in_memory

if TYPE_CHECKING:
    from clearsight.jobs.mine import MineConfig
    from clearsight.jobs.mining import ReadySet
    from clearsight.jobs.ui import Ui
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import LoadedModel
    from clearsight.types import Embeddings, Task

NONE = "none"
MANY_LEFT = 0.05
"""Share of queries left over from which the message says what may help."""


def check_repair(config: MineConfig) -> None:
    """Raises UsageError for a name that no recipe has."""
    if config.repair != NONE:
        RECIPES.get(config.repair)


def load_for(config: MineConfig) -> LoadedModel:
    """The model, with the head that writes captions where some are asked for.

    Raises:
        UsageError: a contrastive model is to write captions. ModelError: as `load_model`.
    """
    from clearsight.models.load import load_model

    captions = config.repair != NONE and config.unlabelled is not None
    loaded = load_model(config.model, head=captions)
    if captions and loaded.kind == "contrastive":
        raise UsageError(
            "A contrastive model cannot caption images.", where="--unlabelled", do="Leave it out."
        )
    return loaded


def repaired_set(ready: ReadySet, encoder: Encoder, config: MineConfig, ui: Ui) -> ReadySet:
    """The data set with both sides repaired: the queries, and the distinct candidates.

    The repaired queries are held in memory.

    Raises:
        UsageError: the recipe needs captions (`--unlabelled`), or the task has no images to caption.
        DataError: a side with fewer than two different rows.
    """
    if config.repair == NONE:
        return ready
    pairs, skipped = _captioned(ready.task, encoder, config, ui)
    given = Sides(in_memory(ready.queries), ready.candidates, pairs=pairs)
    repaired = RECIPES.get(config.repair).apply(given)
    origins = [dict(side.origin) for side in (repaired.queries, repaired.candidates)]
    told = json.dumps([ready.digest, *origins], sort_keys=True, default=str)
    return replace(
        ready,
        queries=repaired.queries,
        candidates=repaired.candidates,
        digest=hashlib.sha256(told.encode()).hexdigest(),
        skipped=(*ready.skipped, *skipped),
    )


def _captioned(
    task: Task, encoder: Encoder, config: MineConfig, ui: Ui
) -> tuple[tuple[Embeddings, Embeddings] | None, tuple[tuple[str, str], ...]]:
    """Vectors of images and of the model's own captions of them, where asked for."""
    from clearsight.jobs.embedding import embed_pairs, self_caption, unlabelled_images
    from clearsight.models.captioner import Captioner

    if config.unlabelled is None:
        return None, ()
    images = unlabelled_images(config.unlabelled, task, on_error=config.on_error)
    skip = config.on_error == "skip"
    captioned = self_caption(Captioner(encoder.loaded), images, ui.progress, skip=skip)
    return embed_pairs(encoder, captioned, task, ui.progress), captioned.skipped


def what_may_help(config: MineConfig, left_over: int, queries: int) -> str | None:
    """A word where many queries are left over: a few candidates are then near to everything."""
    if config.repair != NONE or left_over <= MANY_LEFT * queries:
        return None
    return (
        f"{left_over:,} of {queries:,} queries are left over: few candidates stand near all of them. "
        "--repair realign spreads the vectors."
    )
