"""From the values of a diagnosis to the tables of the page. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearsight.concepts.published import OVERLAPS, PublishedOverlap
from clearsight.metrics import PairedTest
from clearsight.report.data import ResultRow
from clearsight.report.diagnosis.data import (
    ConceptTable,
    MeasureRow,
    ModelDiagnosis,
    Overlap,
    OverlapRow,
    RetrievalRow,
)
from clearsight.report.diagnosis.legend import IMAGE_UP_TO, TEXT_FROM, measure_says
from clearsight.report.diagnosis.panels import Tested, with_differences
from clearsight.report.text import NONE, figure
from clearsight.report.view import geometry_columns, grouped
from clearsight.types import Score


@dataclass(frozen=True, slots=True)
class Side:
    """One part of a model's concepts: how many, and which share of all."""

    name: str
    says: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Composition:
    """A model's concepts as the parts of one bar."""

    model: str
    kind: str
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class TableLine:
    """A line of a table; `aside` marks those that are there to be compared with."""

    label: str
    figures: tuple[str, ...]
    aside: bool = False


@dataclass(frozen=True, slots=True)
class TableGroup:
    """Lines under one heading."""

    title: str
    lines: tuple[TableLine, ...]


@dataclass(frozen=True, slots=True)
class MeasureTable:
    """Measures down, stages across.

    Attributes:
        models: (name, how many of the stages are its own).
        lines: (measure, what it says, a figure for each stage).
    """

    models: tuple[tuple[str, int], ...]
    stages: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[str, ...]], ...]


def sides(concepts: ConceptTable) -> tuple[Side, ...]:
    """The concepts by the modality that activates them; silent and dead ones apart, dead only where known."""
    undefined_C = concepts.undefined_C
    dead_C = np.zeros(len(undefined_C), bool) if concepts.dead_C is None else concepts.dead_C & undefined_C
    image_C = ~undefined_C & (concepts.modality_C <= IMAGE_UP_TO)
    text_C = ~undefined_C & (concepts.modality_C >= TEXT_FROM)
    parts = [
        ("image", f"modality up to {IMAGE_UP_TO}", image_C),
        ("shared", "between the two", ~(undefined_C | image_C | text_C)),
        ("text", f"modality from {TEXT_FROM}", text_C),
        ("silent", "active on none of these pictures and texts", undefined_C & ~dead_C),
    ]
    if concepts.dead_C is not None:
        parts.append(("dead", "active on no token either", dead_C))
    count = max(len(undefined_C), 1)
    return tuple(Side(name, says, int(c.sum()), float(c.sum()) / count) for name, says, c in parts)


def compositions(models: Sequence[ModelDiagnosis]) -> tuple[Composition, ...]:
    """The concepts of each model by side."""
    return tuple(Composition(m.name, m.kind, sides(m.concepts)) for m in models)


def overlap_groups(models: Sequence[ModelDiagnosis]) -> tuple[TableGroup, ...]:
    """Every model under every reduction with what random sets would share, then the paper's models.

    Empty if no overlap was measured.
    """
    own = tuple(TableGroup(m.name, _overlap_lines(m.overlap)) for m in models if m.overlap)
    paper = TableGroup(
        "In the paper (Table 1, version 1)",
        tuple(TableLine(f"{row.model}, {row.kind}", _overlap(row), aside=True) for row in OVERLAPS),
    )
    return (*own, paper) if own else ()


def _overlap_lines(rows: Sequence[OverlapRow]) -> tuple[TableLine, ...]:
    """A line a reduction; what random sets share follows once for rows in a row that have it in common."""
    lines: list[TableLine] = []
    for row, follows in zip(rows, [*rows[1:], None], strict=True):
        lines.append(TableLine(f"bridge reduced by {row.reduction}", _overlap(row.found)))
        if follows is None or follows.random != row.random:
            lines.append(TableLine("random sets of that size", _overlap(row.random), aside=True))
    return tuple(lines)


def _overlap(overlap: Overlap | PublishedOverlap) -> tuple[str, ...]:
    return tuple(f"{value:.3f}" if value >= 0.01 else figure(value) for value in _values(overlap))


def _values(overlap: Overlap | PublishedOverlap) -> tuple[float, ...]:
    return (
        overlap.energy_attribution,
        overlap.energy_bridge,
        overlap.attribution_bridge,
        overlap.triple,
    )


@dataclass(frozen=True, slots=True)
class OverlapPoints:
    """A row of the overlap as numbers: `model` counts the models, `shape` the rows of one of them."""

    label: str
    values: tuple[float, ...]
    model: int
    shape: int
    aside: bool = False


def overlap_points(models: Sequence[ModelDiagnosis]) -> tuple[OverlapPoints, ...]:
    """Every model under every reduction, then the paper's models; empty if no overlap was measured."""
    own = tuple(
        OverlapPoints(f"{model.name}, {row.reduction}", _values(row.found), place, shape)
        for place, model in enumerate(models)
        for shape, row in enumerate(model.overlap)
    )
    paper = tuple(
        OverlapPoints(f"{row.model} (paper)", _values(row), -1, shape, aside=True)
        for shape, row in enumerate(OVERLAPS)
    )
    return own + paper if own else ()


def measure_table(of_models: Sequence[tuple[str, Sequence[MeasureRow]]]) -> MeasureTable | None:
    """The measures of all models in one table; None without any."""
    there = [(model, rows) for model, rows in of_models if rows]
    every = [row for _, rows in there for row in rows]
    if not every:
        return None
    return MeasureTable(
        tuple((model, len(rows)) for model, rows in there),
        tuple(row.label for row in every),
        tuple(
            (
                name,
                measure_says(name),
                tuple(figure(row.values[name]) if name in row.values else NONE for row in every),
            )
            for name in geometry_columns(every)
        ),
    )


def masking_rows(models: Sequence[ModelDiagnosis]) -> tuple[ResultRow, ...]:
    """The masking ablation as rows of the report's own table of bars: a group a model, one table a direction.

    Rows of one model, direction and name become one row with several measures.
    """
    by_bar = grouped(
        [(model.name, pair) for model in models for pair in with_differences(model.masking)],
        lambda named: (named[1].row.direction, named[0], named[1].row.name),
    )
    return tuple(
        ResultRow(
            direction,
            model,
            name,
            {pair.row.measure: _score(pair.row) for _, pair in members},
            test=_test(members[0][1]),
        )
        for (direction, model, name), members in by_bar.items()
    )


def _test(pair: Tested) -> PairedTest | None:
    if not math.isfinite(pair.difference):
        return None
    return PairedTest(pair.difference, math.nan, math.nan, pair.row.p_value, pair.row.queries)


def _score(row: RetrievalRow) -> Score:
    return Score(
        measure=row.measure,
        values_Q=np.empty(0),
        mean=row.mean,
        low=row.low,
        high=row.high,
        optimistic=row.mean,
        pessimistic=row.mean,
        judged=row.queries,
        tie_rate=math.nan,
        chance=row.chance,
    )
