"""From the values of a diagnosis to the curves that are drawn: the page and the paper figures share these.

Scores are drawn in per cent. M models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearsight.report.axis import Level, Panel
from clearsight.report.data import Curve
from clearsight.report.diagnosis.data import BASE, Floats, ModelDiagnosis, RetrievalRow
from clearsight.report.text import arrows, measure_name, percent
from clearsight.report.view import grouped

PLAIN, WEIGHTED = "every concept once", "weighted by energy"
MODALITY = "modality"
"""Name of the filling from the colour of images to that of texts."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A row and its difference from the base; NaN for the base itself, or without one."""

    row: RetrievalRow
    difference: float


def modality_panel(model: ModelDiagnosis, top: float | None = None) -> Panel | None:
    """Density of the modality scores, plain and by energy; `top` fixes the height that panels share."""
    density = model.density
    if density is None:
        return None
    curve = Curve(
        title=f"{model.name}, modality scores",
        x_label="modality score: 0 image, 1 text",
        y_label="Density",
        x=density.score_G.tolist(),
        y={PLAIN: density.plain_G.tolist(), WEIGHTED: density.weighted_G.tolist()},
        note=_uncounted(model),
    )
    height = 0.0 if top is None else top
    return Panel(curve, x_ticks=(0.0, 0.25, 0.5, 0.75, 1.0), y_range=(0.0, height), shaded=(PLAIN, MODALITY))


def modality_panels(models: Sequence[ModelDiagnosis]) -> list[Panel]:
    """One panel a model, all of one height."""
    heights = [
        float(np.nanmax([m.density.plain_G.max(), m.density.weighted_G.max()])) for m in models if m.density
    ]
    return [panel for m in models if (panel := modality_panel(m, top=max(heights, default=1.0))) is not None]


def _uncounted(model: ModelDiagnosis) -> str:
    """How many concepts the density leaves out, in words."""
    concepts = model.concepts
    undefined = int(concepts.undefined_C.sum())
    if not undefined:
        return f"All {len(concepts.energy_C):,} concepts have a score."
    dead = 0 if concepts.dead_C is None else int((concepts.dead_C & concepts.undefined_C).sum())
    parts = [f"{dead:,} never fire"] if dead else []
    if undefined - dead:
        parts.append(f"{undefined - dead:,} are silent on these pictures and texts")
    return f"Left out of {len(concepts.energy_C):,} concepts: {' and '.join(parts)}."


def energy_panel(models: Sequence[ModelDiagnosis]) -> Panel | None:
    """Share of the energy held by the strongest concepts, a line a model, over a logarithm."""
    measured = [(m.name, m.energy) for m in models if m.energy is not None and len(m.energy.concepts_G)]
    if not measured:
        return None
    # One axis for models with different numbers of concepts: each curve is read at the places of all.
    places = _thinned(np.unique(np.concatenate([e.concepts_G for _, e in measured])))
    lines = {
        name: (100 * np.interp(places, e.concepts_G, e.energy_G, left=math.nan)).tolist()
        for name, e in measured
    }
    ticks = [tick for tick in (0.01, 0.1, 1.0, 10.0, 100.0) if tick >= 100 * places[0]]
    curve = Curve(
        title="Cumulative energy",
        x_label="strongest concepts, % of all",
        y_label="Share of the energy in %",
        x=(100 * places).tolist(),
        y=lines,
        log_x=True,
    )
    return Panel(curve, x_ticks=tuple(ticks), y_range=(0.0, 100.0))


def _thinned(places_G: Floats, most: int = 160) -> Floats:
    """At most about `most` of the ascending places, evenly over their logarithm, both ends included."""
    if len(places_G) <= most:
        return places_G
    wanted = np.geomspace(places_G[0], places_G[-1], most)
    kept = np.unique(np.searchsorted(places_G, wanted).clip(max=len(places_G) - 1))
    thinned_G: Floats = places_G[np.union1d(kept, [0, len(places_G) - 1])]
    return thinned_G


def removal_panels(model: ModelDiagnosis) -> list[Panel]:
    """A panel for each direction and measure: a line for what is removed, a level for a row without r."""
    return [
        _removal_panel(model.name, direction, measure, rows)
        for (direction, measure), rows in grouped(
            model.removal, lambda row: (row.direction, row.measure)
        ).items()
    ]


def _removal_panel(model: str, direction: str, measure: str, rows: Sequence[RetrievalRow]) -> Panel:
    swept = [row for row in rows if row.rank is not None]
    ranks = sorted({row.rank for row in swept if row.rank is not None})
    by_place = {(row.name, row.rank): row for row in swept}
    names = list(dict.fromkeys(row.name for row in swept))

    def line(name: str, value: str) -> list[float]:
        return [
            100 * float(getattr(by_place[name, rank], value)) if (name, rank) in by_place else math.nan
            for rank in ranks
        ]

    curve = Curve(
        title=f"{model}, {arrows(direction)}",
        x_label="directions removed, r",
        y_label=f"{measure_name(measure).capitalize()} in %",
        x=ranks,
        y={name: line(name, "mean") for name in names},
        log_x=len(ranks) > 1 and min(ranks) > 0 and ranks[-1] / ranks[0] > 8,
    )
    return Panel(
        curve,
        low={name: line(name, "low") for name in names},
        high={name: line(name, "high") for name in names},
        # Only the base carries its interval: bands over bands can't be told apart.
        levels={
            row.name: Level(100 * row.mean, 100 * row.low, 100 * row.high)
            if row.name == BASE
            else Level(100 * row.mean)
            for row in rows
            if row.rank is None
        },
    )


def attention_panels(model: ModelDiagnosis) -> list[Panel]:
    """Attention per token by layer and token type, as published and corrected."""
    attention = model.attention
    if attention is None:
        return []
    sink = ""
    if len(attention.sink_L):
        low, high = float(np.nanmin(attention.sink_L)), float(np.nanmax(attention.sink_L))
        sink = f"The sink token, left out here, draws {percent(low)} to {percent(high)} % of all attention."
    figures = (
        ("as published", "Attention received per token of a type", attention.published_LT, ""),
        ("corrected", "Attention over the uniform share; 1 is chance", attention.corrected_LT, sink),
    )
    return [
        Panel(
            Curve(
                title=f"{model.name}, {name}",
                x_label="layer",
                y_label=y_label,
                x=[float(layer) for layer in attention.layers],
                y={kind: values_LT[:, t].tolist() for t, kind in enumerate(attention.types)},
                note=note,
            ),
            y_range=(0.0, 0.0),
            levels={"chance": Level(1.0)} if name == "corrected" else {},
        )
        for name, y_label, values_LT, note in figures
        if np.isfinite(values_LT).any()
    ]


def with_differences(rows: Sequence[RetrievalRow]) -> list[Tested]:
    """Rows with their difference from the base of the same direction and measure."""
    bases = {(row.direction, row.measure): row.mean for row in rows if row.name == BASE}
    return [
        Tested(
            row,
            math.nan if row.name == BASE else row.mean - bases.get((row.direction, row.measure), math.nan),
        )
        for row in rows
    ]
