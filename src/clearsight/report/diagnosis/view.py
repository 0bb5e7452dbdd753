"""From the values of a diagnosis to the tables of the page. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearsight.metrics import PairedTest
from clearsight.report.data import ResultRow
from clearsight.report.diagnosis.data import ConceptTable, ModelDiagnosis, Overlap, RetrievalRow
from clearsight.report.diagnosis.legend import IMAGE_BELOW, REFERENCE_OVERLAP, TEXT_ABOVE
from clearsight.report.diagnosis.panels import Tested, tested
from clearsight.report.text import figure, percent
from clearsight.report.view import grouped
from clearsight.types import Score


@dataclass(frozen=True, slots=True)
class Side:
    """One part of a model's concepts: how many, and which share of all."""

    name: str
    says: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class OverlapLine:
    """A line of the overlap table, ready to be shown; `random` is empty for the paper's rows."""

    model: str
    detail: str
    values: tuple[str, ...]
    random: tuple[str, ...]
    reference: bool = False


def sides(concepts: ConceptTable) -> tuple[Side, ...]:
    """The concepts by the modality that activates them; silent and dead ones apart, dead only where known."""
    undefined_C = concepts.undefined_C
    dead_C = np.zeros(len(undefined_C), bool) if concepts.dead_C is None else concepts.dead_C & undefined_C
    image_C = ~undefined_C & (concepts.modality_C < IMAGE_BELOW)
    text_C = ~undefined_C & (concepts.modality_C > TEXT_ABOVE)
    parts = [
        ("image", f"modality below {IMAGE_BELOW}", image_C),
        ("shared", f"{IMAGE_BELOW} to {TEXT_ABOVE}", ~(undefined_C | image_C | text_C)),
        ("text", f"above {TEXT_ABOVE}", text_C),
        ("silent", "active on none of these pictures and texts", undefined_C & ~dead_C),
    ]
    if concepts.dead_C is not None:
        parts.append(("dead", "active on no token either", dead_C))
    count = max(len(undefined_C), 1)
    return tuple(Side(name, says, int(c.sum()), float(c.sum()) / count) for name, says, c in parts)


def overview(models: Sequence[ModelDiagnosis]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(measure, what it says, a figure for each model) of the table of models side by side."""
    lines = [
        ("Concepts", "width of the sparse autoencoder", [f"{len(m.concepts.energy_C):,}" for m in models])
    ]
    of_models = [{side.name: side for side in sides(m.concepts)} for m in models]
    names = {side.name: side.says for found in of_models for side in found.values()}
    for name in sorted(names, key=("image", "shared", "text", "silent", "dead").index):
        shown = [
            f"{found[name].count:,} ({percent(found[name].share)} %)" if name in found else "–"
            for found in of_models
        ]
        lines.append((name.capitalize(), names[name], shown))
    if any(m.energy for m in models):
        lines += [
            (
                "Energy in the top 1%",
                "share held by the strongest hundredth",
                [f"{percent(m.energy.top_share)} %" if m.energy else "–" for m in models],
            ),
            (
                "Gini of the energy",
                "0 is even, 1 is all in one concept",
                [figure(m.energy.gini) if m.energy else "–" for m in models],
            ),
        ]
    return tuple((name, says, tuple(shown)) for name, says, shown in lines)


def overlap_lines(models: Sequence[ModelDiagnosis]) -> tuple[OverlapLine, ...]:
    """Every model under every reduction, then the paper's models; empty if none was measured."""
    own = tuple(
        OverlapLine(m.name, f"bridge: {row.reduction}", _overlap(row.found), _overlap(row.random))
        for m in models
        for row in m.overlap
    )
    paper = tuple(
        OverlapLine(row.model, row.kind, _overlap(row.overlap), (), reference=True)
        for row in REFERENCE_OVERLAP
    )
    return own + paper if own else ()


def _overlap(overlap: Overlap) -> tuple[str, ...]:
    values = (
        overlap.energy_attribution,
        overlap.energy_bridge,
        overlap.attribution_bridge,
        overlap.triple,
    )
    return tuple(f"{value:.3f}" if math.isfinite(value) else "–" for value in values)


def masking_rows(models: Sequence[ModelDiagnosis]) -> tuple[ResultRow, ...]:
    """The masking ablation as rows of the report's own table of bars: a group a model, one table a direction.

    Rows of one model, direction and name become one row with several measures.
    """
    by_bar = grouped(
        [(model.name, pair) for model in models for pair in tested(model.masking)],
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
