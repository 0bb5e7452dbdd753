"""From a task and a model to the vectors of its two sides, and to pairs that the model makes itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from clearsight.errors import DataError, UsageError
from clearsight.jobs.ui import Labelled
from clearsight.types import Embeddings, Item, Modality, Role, Task

if TYPE_CHECKING:
    from clearsight.errors import ItemError
    from clearsight.models.captioner import Captioner
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress


@dataclass(frozen=True)
class Captioned:
    """Unlabelled images and the model's own captions of them, in one order; and images that were refused."""

    images: tuple[Item, ...]
    texts: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def caption_items(self) -> tuple[Item, ...]:
        return tuple(
            Item(f"caption of {image.id}", text=text)
            for image, text in zip(self.images, self.texts, strict=True)
        )


def unlabelled_images(
    source: str, task: Task, *, on_error: Literal["raise", "skip"] = "raise"
) -> Sequence[Item]:
    """Images to caption: a folder's, or the first N of the task's own (relevance is not looked at).

    Raises:
        UsageError: the task has no images. DataError: as `load_items`.
    """
    from clearsight.data import load_items

    if not source.isdigit():
        items = load_items(source, on_error=on_error).items
        return [Item(item.id, image=item.image) for item in items if item.image is not None]
    pool = task.candidates if any(item.image is not None for item in task.candidates) else task.queries
    images = [Item(item.id, image=item.image) for item in pool if item.image is not None]
    if not images:
        raise UsageError(
            "The task has no images to caption.", where="--unlabelled", do="Give a folder of images."
        )
    return images[: int(source)]


def self_caption(
    captioner: Captioner, images: Sequence[Item], progress: Progress, *, skip: bool = False
) -> Captioned:
    """The model's own captions; images it can't read, or has no word for, are left out where `skip` is on.

    Raises:
        ItemError: an image that can't be used, with `skip` off.
    """
    skipped: dict[str, str] = {}

    def refuse(place: int, error: ItemError) -> None:
        if not skip:
            raise error
        skipped[images[place].id] = str(error)

    texts = captioner.captions(
        dict(enumerate(images)), refuse=refuse, progress=Labelled(progress, "captioning unlabelled images")
    )
    # A caption without a word can't be embedded as a text, and says nothing that could align anything.
    written = [(images[place], text) for place, text in sorted(texts.items()) if text]
    return Captioned(tuple(i for i, _ in written), tuple(t for _, t in written), tuple(skipped.items()))


MISSING_NAMED = 3


def check_images(task: Task) -> None:
    """Before any work: are the image files there?

    Raises:
        DataError: some are not; says how many of how many on each side, and names the first.
    """
    for side, items in (("query", task.queries), ("candidate", task.candidates)):
        paths = [item.image for item in items if isinstance(item.image, str | os.PathLike)]
        lost = [path for path in paths if "://" not in str(path) and not os.path.exists(path)]
        if lost:
            raise DataError(
                f"{len(lost):,} of {len(paths):,} {side} images are missing.",
                where=", ".join(map(str, lost[:MISSING_NAMED])),
                do="Unpack the benchmark's images there, or leave these items out with --on-error skip: they "
                "are counted and named.",
            )


def side_modality(items: Sequence[Item]) -> Modality:
    """The modality of a side: that of its first item that has an image, else text."""
    return next((item.modality for item in items if item.image is not None), "text")


def embed_task(encoder: Encoder, task: Task, progress: Progress) -> tuple[Embeddings, Embeddings]:
    """Queries and candidates of a task; items refused under `on_error="skip"` are missing from their side."""
    query_kind, candidate_kind = side_modality(task.queries), side_modality(task.candidates)
    words = f"({encoder.pooling}, {encoder.template.name})"
    encoder.check(task.queries, task.candidates)
    queries = encoder.embed(
        task.queries, "query", counterpart=candidate_kind, progress=Labelled(progress, f"queries {words}")
    )
    candidates = encoder.embed(
        task.candidates,
        task.candidate_role,
        counterpart=query_kind,
        progress=Labelled(progress, f"candidates {words}"),
    )
    return queries, as_side(candidates, "candidate")


def embed_pairs(
    encoder: Encoder, captioned: Captioned, task: Task, progress: Progress
) -> tuple[Embeddings, Embeddings]:
    """Vectors of unlabelled images and of their captions, each under the prompt of the side it stands for."""
    image_role: Role = "candidate" if side_modality(task.queries) == "text" else "query"
    text_role: Role = "query" if image_role == "candidate" else "candidate"
    labelled = Labelled(progress, f"captioned images ({encoder.pooling}, {encoder.template.name})")
    images = encoder.embed(captioned.images, image_role, counterpart="text", progress=labelled)
    labelled = Labelled(progress, f"their captions ({encoder.pooling}, {encoder.template.name})")
    captions = encoder.embed(captioned.caption_items(), text_role, counterpart="image", progress=labelled)
    return images, captions


def as_side(embeddings: Embeddings, side: Role) -> Embeddings:
    """The same vectors on the other side of a task, where the prompt words both sides alike."""
    return replace(embeddings, side_N=np.full(len(embeddings), side))


def kept(task: Task, queries: Embeddings, candidates: Embeddings) -> Task:
    """The task without skipped items. A query whose relevant items are all gone is not judged, nor is one
    whose pool has lost a candidate: among fewer it would win by default.
    """
    if len(queries) == len(task.queries) and len(candidates) == len(task.candidates):
        return task
    query_ids, candidate_ids = set(queries.ids), set(candidates.ids)

    def lists(table: dict[str, Sequence[str]]) -> dict[str, list[str]]:
        return {
            q: [c for c in members if c in candidate_ids] for q, members in table.items() if q in query_ids
        }

    return replace(
        task,
        queries=tuple(item for item in task.queries if item.id in query_ids),
        candidates=tuple(item for item in task.candidates if item.id in candidate_ids),
        relevance={
            q: {c: g for c, g in grades.items() if c in candidate_ids}
            for q, grades in task.relevance.items()
            if q in query_ids and candidate_ids.issuperset(task.pools.get(q, ()))
        },
        pools=lists(dict(task.pools)),
        excluded=lists(dict(task.excluded)),
        groups={q: group for q, group in task.groups.items() if q in query_ids},
    )
