"""From a task and a model to the vectors of its two sides, and to pairs that the model makes itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clearsight.data.item_table import ItemTable
from clearsight.errors import DataError, UsageError
from clearsight.jobs.pools import Part, Shard, embed_part, embed_pool
from clearsight.jobs.ui import Labelled
from clearsight.names import missing, unique_ids
from clearsight.types import MODALITIES, Embeddings, Item, Modality, Role, RowSource, Task, kinds_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    for pool in (task.candidates, task.queries):
        pictured_N = np.flatnonzero(kinds_of(pool) != _TEXT)
        if len(pictured_N):
            images = _at(pool, pictured_N[: int(source)])
            return [Item(item.id, image=item.image) for item in images]
    raise UsageError(
        "The task has no images to caption.", where="--unlabelled", do="Give a folder of images."
    )


_TEXT = MODALITIES.index("text")


def _at(items: Sequence[Item], rows: NDArray[np.int64]) -> list[Item]:
    """The items at these rows; no other item is made."""
    return list(items.take(rows)) if isinstance(items, ItemTable) else [items[i] for i in rows.tolist()]


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
        there, lost, named = 0, 0, list[str]()
        for path in _image_paths(items):
            if "://" in path or os.path.exists(path):
                there += 1
                continue
            lost += 1
            if lost <= MISSING_NAMED:
                named.append(path)
        if lost:
            raise DataError(
                f"{lost:,} of {there + lost:,} {side} images are missing.",
                where=", ".join(named),
                do="Unpack the benchmark's images there, or leave these items out with --on-error skip: they "
                "are counted and named.",
            )


def _image_paths(items: Sequence[Item]) -> Iterator[str]:
    """Image files that items name, without reading the images of the others."""
    if isinstance(items, ItemTable):
        yield from items.image_paths()
        return
    for item in items:
        if isinstance(item.image, str | os.PathLike):
            yield os.fspath(item.image)


def side_modality(items: Sequence[Item]) -> Modality:
    """The modality of a side: that of its first item that has an image, else text."""
    kind_N = kinds_of(items)
    pictured_N = np.flatnonzero(kind_N != _TEXT)
    return MODALITIES[kind_N[pictured_N[0]]] if len(pictured_N) else "text"


@dataclass(frozen=True)
class TaskSide:
    """What one side of a task asks of an encoder.

    Attributes:
        role: how the prompt words the items; side: what their rows are.
        counterpart: the modality of the other side.
    """

    items: Sequence[Item]
    role: Role
    side: Role
    counterpart: Modality

    @property
    def label(self) -> str:
        return "queries" if self.side == "query" else "candidates"


def task_sides(task: Task) -> tuple[TaskSide, TaskSide]:
    """Queries and candidates."""
    query_kind, candidate_kind = side_modality(task.queries), side_modality(task.candidates)
    return (
        TaskSide(task.queries, "query", "query", candidate_kind),
        TaskSide(task.candidates, task.candidate_role, "candidate", query_kind),
    )


def embed_task(encoder: Encoder, task: Task, progress: Progress) -> tuple[Embeddings, Embeddings]:
    """Queries and candidates of a task; items refused under `on_error="skip"` are missing from their side."""
    encoder.check(task.queries, task.candidates)
    queries, candidates = (_in_memory(encoder, side, progress) for side in task_sides(task))
    return queries, candidates


def embed_sides(
    encoder: Encoder, task: Task, progress: Progress, *, most: int
) -> tuple[Embeddings, RowSource, list[tuple[str, str]]]:
    """As `embed_task`; of more than `most` candidates the vectors stay in the encoder's cache.

    Returns:
        Queries, candidates, and the items of either that were refused, with the reason.
    """
    if len(task.candidates) <= most:
        queries, inside = embed_task(encoder, task, progress)
        return queries, inside, [*queries.skipped.items(), *inside.skipped.items()]
    encoder.check(task.queries, task.candidates)
    asked, side = task_sides(task)
    queries = _in_memory(encoder, asked, progress)
    stored = embed_pool(encoder, side.items, side=side.side, **_words(encoder, side, progress))
    return queries, stored, [*queries.skipped.items(), *stored.skipped.items()]


def embed_shard(encoder: Encoder, task: Task, shard: Shard, progress: Progress) -> Part:
    """A part of both sides, into the encoder's cache."""
    encoder.check(task.queries, task.candidates)
    done = [
        embed_part(encoder, side.items, shard=shard, **_words(encoder, side, progress))
        for side in task_sides(task)
    ]
    return Part(sum(part.items for part in done), {k: v for part in done for k, v in part.skipped.items()})


def _words(encoder: Encoder, side: TaskSide, progress: Progress) -> dict[str, Any]:
    label = f"{side.label} ({encoder.pooling}, {encoder.template.name})"
    return {"role": side.role, "counterpart": side.counterpart, "progress": Labelled(progress, label)}


def _in_memory(encoder: Encoder, side: TaskSide, progress: Progress) -> Embeddings:
    """The vectors of a side; images that come as bytes are held a slice at a time."""
    words = _words(encoder, side, progress)
    if encoder.cache is not None and isinstance(side.items, ItemTable) and side.items.brings_images:
        stored = embed_pool(encoder, side.items, side=side.side, **words)
        return replace(stored.take(np.arange(len(stored))), skipped=stored.skipped)
    return as_side(encoder.embed(side.items, **words), side.side)


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


def kept(task: Task, queries: Embeddings, candidates: RowSource) -> Task:
    """The task without skipped items. A query whose relevant items are all gone is not judged, nor is one
    whose pool has lost a candidate: among fewer it would win by default.
    """
    if len(queries) == len(task.queries) and len(candidates) == len(task.candidates):
        return task
    query_ids = set(queries.ids)
    tables: tuple[Mapping[str, Sequence[str] | Mapping[str, float]], ...]
    tables = (task.relevance, task.pools, task.excluded)
    named = dict.fromkeys(name for table in tables for members in table.values() for name in members)
    lost = missing(tuple(named), unique_ids(candidates.ids, what="candidate"))

    def lists(table: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {q: [c for c in members if c not in lost] for q, members in table.items() if q in query_ids}

    return replace(
        task,
        queries=_only(task.queries, queries.ids),
        candidates=_only(task.candidates, candidates.ids),
        relevance={
            q: {c: g for c, g in grades.items() if c not in lost}
            for q, grades in task.relevance.items()
            if q in query_ids and lost.isdisjoint(task.pools.get(q, ()))
        },
        pools=lists(task.pools),
        excluded=lists(task.excluded),
        groups={q: group for q, group in task.groups.items() if q in query_ids},
    )


def _only(items: Sequence[Item], ids: Sequence[str]) -> Sequence[Item]:
    """The items of these ids, in their own order; of a table no item is made."""
    if isinstance(items, ItemTable):
        return items.only(ids)
    known = set(ids)
    return tuple(item for item in items if item.id in known)
