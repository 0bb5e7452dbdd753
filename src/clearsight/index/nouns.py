"""What is asked of an index, and what it answers.

Legend of shapes: N rows, K hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clearsight.store.door import Space
from clearsight.types import ImageSource


@dataclass(frozen=True, slots=True)
class Query:
    """A question: words, a picture, both, or an item that is there already (`like`).

    Attributes:
        text, image: at least one, unless `like` names an item.
        like: the id of an item whose raw vector is the question; the item itself is left out of the answer.
        where: a filter over metadata, such as "year > 2020 and place = 'Bern'".
        top: 1 to 10,000 hits.
        space: "raw" searches the vectors as the model gave them: the state before repair.
    """

    text: str | None = None
    image: ImageSource | None = None
    like: str | None = None
    where: str | None = None
    top: int = 10
    space: Space = "repaired"


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer.

    Attributes:
        score: cosine with the query; after reranking the order is the reranker's and this stays the cosine.
        fine: the reranker's score, None where it was not asked.
        source: the file, relative to the indexed folder; None for items that are no files.
        why: concepts that made the match, where they were asked for: (name or number, share of the score).
    """

    id: str
    score: float
    modality: str
    text: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fine: float | None = None
    why: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """Hits, best first, and what the answer stands on.

    Attributes:
        repair: name of the repair that was in force ("" for none, or for a search of the raw space).
        notes: sentences a person should see, such as drift, or that a reranker could not judge some.
    """

    query: Query
    hits: tuple[Hit, ...]
    rows: int
    version: int
    repair: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Added:
    """What `Index.add` did, by numbers of items; `skipped`: id -> why it was refused."""

    new: int = 0
    changed: int = 0
    same: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
