"""The two sides of a task as cases of retrieval, as images and texts, and the other way round.

Legend of shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.types import Embeddings, Modality, Task

Sides: TypeAlias = tuple[Embeddings, Embeddings]


@dataclass(frozen=True)
class Case:
    """One way of retrieval: a task and the vectors of its two sides."""

    task: Task
    queries: Embeddings
    candidates: Embeddings
    label: str


def image_text_pairs(
    task: Task, queries: Embeddings, candidates: Embeddings
) -> tuple[Sides, NDArray[np.int64]]:
    """The images and the texts of a task, and its relevant pairs as rows (P, 2) of both.

    Returns:
        (images, texts), pairs. A task that does not match images with texts has no pairs: its items of one
        modality from both sides are then the images and texts.
    """
    position = [{name: row for row, name in enumerate(side.ids)} for side in (queries, candidates)]
    related = [
        (position[0][query], position[1][candidate])
        for query, grades in task.relevance.items()
        for candidate, grade in grades.items()
        if grade > 0 and query in position[0] and candidate in position[1]
    ]
    pairs = np.array(related, dtype=np.int64).reshape(-1, 2)
    kinds = [set(side.modality_N.tolist()) for side in (queries, candidates)]
    if kinds == [{"image"}, {"text"}]:
        return (queries, candidates), pairs
    if kinds == [{"text"}, {"image"}]:
        return (candidates, queries), pairs[:, ::-1].copy()
    images, texts = (_only(kind, queries, candidates) for kind in ("image", "text"))
    return (images, texts), np.zeros((0, 2), dtype=np.int64)


def _only(kind: Modality, queries: Embeddings, candidates: Embeddings) -> Embeddings:
    parts = [side.take(side.modality_N == kind) for side in (queries, candidates)]
    return Embeddings.of(
        [
            f"{role} {name}"
            for role, part in zip(("query", "candidate"), parts, strict=True)
            for name in part.ids
        ],
        np.concatenate([part.rows_ND for part in parts]),
        modality=kind,
        origin=queries.origin,
    )


def turned(case: Case, label: str) -> Case:
    """The same vectors searched the other way, where the prompt words both sides alike.

    Raises:
        UsageError: the task has pools, exclusions or groups, which do not turn.
    """
    from clearsight.jobs.embedding import as_side

    task = case.task
    if task.pools or task.excluded or task.groups:
        raise UsageError(
            f"'{task.name}' has pools, exclusions or groups.", do="Give the other way as a task."
        )
    relevance: dict[str, dict[str, float]] = {}
    for query, grades in task.relevance.items():
        for candidate, grade in grades.items():
            relevance.setdefault(candidate, {})[query] = grade
    way = Task(f"{task.name}, turned", task.candidates, task.queries, relevance, measures=task.measures)
    return Case(way, as_side(case.candidates, "query"), as_side(case.queries, "candidate"), label)
