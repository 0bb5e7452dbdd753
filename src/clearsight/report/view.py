"""From the values of a report to what the page draws: groups, headline, bars. No HTML here."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from clearsight.report.axis import nice_ticks
from clearsight.report.data import Card, Example, GeometryRow, ResultRow
from clearsight.report.text import fine_percent
from clearsight.types import Score

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one embedding within a task, in their order."""

    embedding: str
    rows: tuple[ResultRow, ...]
    facts: str


@dataclass(frozen=True, slots=True)
class TaskTable:
    """The groups of one task; `facts` holds what all of them share, such as the chance level."""

    task: str
    groups: tuple[Group, ...]
    facts: str


@dataclass(frozen=True, slots=True)
class Headline:
    """From the first row of an embedding to its last row without a note."""

    task: str
    measure: str
    first: ResultRow
    last: ResultRow


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from 0 to `top`, a share; `ticks` are shares."""

    top: float
    ticks: tuple[float, ...]

    def place(self, share: float) -> str:
        """Where a share stands, in per cent of the drawing's width."""
        return f"{100 * min(max(share, 0.0), self.top) / self.top:.2f}%"


def grouped(values: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Values by key, keys in the order of first appearance."""
    groups: dict[K, list[T]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups


def measures_of(rows: Sequence[ResultRow]) -> tuple[str, ...]:
    """Every measure of the rows, in the order of first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row.scores))


def task_tables(rows: Sequence[ResultRow]) -> tuple[TaskTable, ...]:
    """The rows by task and embedding, each in the order of first appearance."""
    tables = []
    for task, of_task in grouped(rows, lambda row: row.task).items():
        by_embedding = grouped(of_task, lambda row: row.embedding)
        facts = {name: _facts(members) for name, members in by_embedding.items()}
        shared = next(iter(facts.values())) if len(set(facts.values())) == 1 else ""
        groups = tuple(
            Group(name, tuple(members), "" if shared else facts[name])
            for name, members in by_embedding.items()
        )
        tables.append(TaskTable(task, groups, shared))
    return tuple(tables)


def _facts(rows: Sequence[ResultRow]) -> str:
    """How many queries were judged, and the chance level of each measure."""
    scores = next((row.scores for row in rows if row.scores), {})
    if not scores:
        return ""
    judged = next(iter(scores.values())).judged
    parts = [f"{judged:,} queries"] if judged else []
    if any(math.isfinite(score.chance) for score in scores.values()):
        parts.append(f"chance {' / '.join(fine_percent(score.chance) for score in scores.values())} %")
    return "; ".join(parts)


def headlines(rows: Sequence[ResultRow]) -> tuple[Headline, ...]:
    """One for each task that was repaired: its first embedding with more than one row without a note.

    The choice looks at the order alone, never at the scores.
    """
    found: dict[str, Headline] = {}
    for table in task_tables(rows):
        for group in table.groups:
            unnoted = [row for row in group.rows if not row.note and row.scores]
            if len(unnoted) > 1 and table.task not in found:
                measure = next(iter(unnoted[0].scores))
                if measure in unnoted[-1].scores:
                    found[table.task] = Headline(table.task, measure, unnoted[0], unnoted[-1])
    return tuple(found.values())


def scales(rows: Sequence[ResultRow]) -> Mapping[str, Scale]:
    """One axis for each measure, the same on the whole page, so that all bars compare."""
    return {
        measure: _scale([row.scores[measure] for row in rows if measure in row.scores])
        for measure in measures_of(rows)
    }


def _scale(scores: Sequence[Score]) -> Scale:
    tops = [value for s in scores for value in (s.mean, s.high, s.chance) if math.isfinite(value)]
    ticks = nice_ticks(0.0, max([*tops, 0.01]))
    return Scale(ticks[-1], ticks) if ticks[-1] <= 1 else Scale(1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def data_uri(card: Card) -> str:
    """The card's picture as a data URI; empty if it has none."""
    return (
        f"data:{card.image_kind};base64,{base64.b64encode(card.image).decode('ascii')}" if card.image else ""
    )


def verdict(cards: Sequence[Card]) -> str:
    """Where the right answer stands among the cards, in words."""
    place = next((i for i, card in enumerate(cards, start=1) if card.relevant), None)
    return f"right answer not in the top {len(cards)}" if place is None else f"right answer at rank {place}"


def examples_by_task(examples: Sequence[Example]) -> Mapping[str, list[Example]]:
    """Examples by task, in the order of first appearance."""
    return grouped(examples, lambda example: example.task)


def geometry_columns(rows: Sequence[GeometryRow]) -> tuple[str, ...]:
    """Every measure of the rows, in the order of first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row.values))
