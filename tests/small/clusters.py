"""Small clusters over any task: consecutive pairs together, and tasks to train on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption
from clearsight.data.world import _generator, scenes
from clearsight.mining.clusters import SCHEMA, Clusters
from clearsight.types import Item, Task


def spare_task(n: int, seed: int = 0, *, turned: bool = False, style: str = "short") -> Task:
    """Images (or captions) that look for their captions (or images), of scenes that no task shows."""
    rng = _generator(seed, "spare-training")
    shown = scenes(n, seed, "spare", "spare-training")
    images = tuple(Item(f"image-{scene.code}", image=draw(scene, rng)) for scene in shown)
    texts = tuple(Item(f"text-{scene.code}", text=caption(scene, rng, style)) for scene in shown)
    sides = (texts, images) if turned else (images, texts)
    pairs = {query.id: {candidate.id: 1.0} for query, candidate in zip(*sides, strict=True)}
    return Task(f"spare/{'t2i' if turned else 'i2t'}", *sides, pairs)


def cluster_rows(task: Task, sizes: Sequence[int], *, alone: int = 0) -> Clusters:
    """Clusters of these sizes over the task's queries in order, each with its first positive; to each
    `alone` candidates of the next cluster as negatives without a query."""
    names = [item.id for item in task.queries]
    rows, start = [], 0
    for cluster, size in enumerate(sizes):
        members: list[tuple[str | None, str]] = [
            (name, next(iter(task.relevance[name]))) for name in names[start : start + size]
        ]
        start += size
        far = [next(iter(task.relevance[name])) for name in (names * 2)[start : start + alone]]
        members += [(None, name) for name in far]
        rows += [
            {
                "dataset": task.name,
                "cluster": cluster,
                "place": place,
                "query": query,
                "positive": positive,
                "similarity": place / 100,
                "phase": 1,
                "reason": None,
            }
            for place, (query, positive) in enumerate(members)
        ]
    return Clusters(pa.Table.from_pylist(rows, SCHEMA))
