"""The diagnosis as figures for a paper: SVG and PNG by matplotlib, from the same curves that the page draws.

Each `figure_*` takes the data and returns a matplotlib Figure, or None where nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from clearsight.files import write_atomic
from clearsight.report.diagnosis.panels import (
    attention_panels,
    energy_panel,
    modality_panels,
    removal_panels,
)
from clearsight.report.diagnosis.payload import KINDS, kind_of
from clearsight.report.diagnosis.view import compositions, masking_rows, measure_table, overlap_points
from clearsight.report.figure_style import (
    BOTH,
    COLUMN,
    GREY,
    IMAGE,
    LINES,
    MARKS,
    TEXT,
    draw_panel,
    line_look,
    one_line,
    panels_figure,
    to_png,
    to_svg,
)
from clearsight.report.text import measure_name
from clearsight.report.view import grouped, measures_of

if TYPE_CHECKING:
    from clearsight.report.diagnosis.data import DiagnosisData

RASTER_FROM: Final = 1000
"""Points of a map beyond which an SVG holds them as one picture: as shapes they would take megabytes."""


def write_figures(data: DiagnosisData, folder: Path) -> list[Path]:
    """Every figure that the data allows, as `<name>.svg` and `<name>.png` at 300 dpi, each written whole.

    Returns:
        the files, in the order of the page.
    """
    written: list[Path] = []
    for name, draw in FIGURES.items():
        figure = draw(data)
        if figure is None:
            continue
        for ending, encoded in (("svg", to_svg(figure)), ("png", to_png(figure))):
            path = Path(folder) / f"{name}.{ending}"
            write_atomic(path, encoded)
            written.append(path)
    return written


def figure_composition(data: DiagnosisData) -> Figure | None:
    """Concepts by side, a bar a model; None without models."""
    bars = compositions(data.models)
    if not bars:
        return None
    looks = {
        "image": {"color": IMAGE},
        "shared": {"color": "#b8b8b8"},
        "text": {"color": TEXT},
        "silent": {"facecolor": "white", "edgecolor": GREY, "hatch": "////"},
        "dead": {"facecolor": "white", "edgecolor": GREY},
    }

    def draw(axes: Any, _: int) -> None:
        for place, bar in enumerate(bars):
            left = 0.0
            for side in bar.sides:
                label = side.name if place == 0 else None
                axes.barh(place, 100 * side.share, left=left, height=0.6, linewidth=0.6, label=label,
                          **looks[side.name])  # fmt: skip
                left += 100 * side.share
        axes.set_yticks(range(len(bars)), [one_line(bar.model) for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("concepts, %")
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=5, columnspacing=1, handlelength=1.2
        )

    return panels_figure(1, draw, width=2 * COLUMN, height=0.9 + 0.35 * len(bars))


def figure_modality(data: DiagnosisData) -> Figure | None:
    """Density of the modality scores (Figure 2 of Generative Giants), a panel a model; None if unmeasured."""
    panels = modality_panels(data.models)

    def draw(axes: Any, place: int) -> None:
        panel = panels[place]
        x, plain = np.asarray(panel.curve.x), np.asarray(next(iter(panel.curve.y.values())))
        axes.fill_between(x, plain, where=x <= 0.5, color=IMAGE, alpha=0.25, linewidth=0)
        axes.fill_between(x, plain, where=x >= 0.5, color=TEXT, alpha=0.25, linewidth=0)
        draw_panel(axes, panel, colours=("#222222", "#222222"))
        axes.set_ylim(0, 1.05 * (panel.y_range or (0, 1))[1])
        if place == 0:
            axes.legend()

    return panels_figure(len(panels), draw)


def figure_energy(data: DiagnosisData) -> Figure | None:
    """Cumulative energy (Figure 3 of Generative Giants), a line a model; None if unmeasured."""
    panel = energy_panel(data.models)
    if panel is None:
        return None
    drawn = panel

    def draw(axes: Any, _: int) -> None:
        draw_panel(axes, drawn, title=False)
        axes.set_ylim(0, 101)
        axes.legend()

    return panels_figure(1, draw)


def figure_overlap(data: DiagnosisData) -> Figure | None:
    """Jaccard figures of the top sets (Table 1 of Generative Giants): ours filled, the paper's hollow."""
    rows = overlap_points(data.models)
    if not rows:
        return None
    columns = ("energy and\nattribution", "energy and\nbridge", "attribution\nand bridge", "all three")

    def draw(axes: Any, _: int) -> None:
        for place, row in enumerate(rows):
            aside = (place - (len(rows) - 1) / 2) * 0.7 / len(rows)
            colour = GREY if row.aside else LINES[row.model % len(LINES)]
            axes.plot(
                np.arange(4) + aside, row.values, MARKS[row.shape % len(MARKS)], color=colour,
                fillstyle="none" if row.aside else "full", label=one_line(row.label),
            )  # fmt: skip
        axes.set_xticks(range(4), columns)
        axes.set_ylim(0, 1)
        axes.set_ylabel("Jaccard similarity")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return panels_figure(1, draw, width=2 * COLUMN, height=max(2.6, 0.17 * len(rows) + 0.6))


def figure_geometry(data: DiagnosisData) -> Figure | None:
    """Every geometry measure before and after repair: a panel a measure, a line a model."""
    table = measure_table([(model.name, model.geometry) for model in data.models])
    if table is None:
        return None
    names = [name for name, _, _ in table.lines]

    def draw(axes: Any, place: int) -> None:
        stages: dict[str, int] = {}
        for model in data.models:
            for row in model.geometry:
                stages.setdefault(row.label, len(stages))
        for at, model in enumerate(data.models):
            rows = [row for row in model.geometry if names[place] in row.values]
            axes.plot([stages[row.label] for row in rows], [row.values[names[place]] for row in rows],
                      label=one_line(model.name), **line_look(at))  # fmt: skip
        axes.set_xticks(range(len(stages)), [one_line(label) for label in stages], rotation=25, ha="right")
        axes.set_title(measure_name(names[place]))
        axes.margins(x=0.15)
        if place == 0:
            axes.legend()

    return panels_figure(len(names), draw, across=4, width=None, panel_width=1.75, height=1.9)


def figure_removal(data: DiagnosisData) -> Figure | None:
    """Retrieval over the number of removed directions, with controls and 95% intervals."""
    panels = [panel for model in data.models for panel in removal_panels(model)]
    return panels_figure(len(panels), lambda axes, place: draw_panel(axes, panels[place]), key=True)


def figure_attention(data: DiagnosisData) -> Figure | None:
    """Attention a token by layer and type (From Generator to Embedder, Figure 1), published and corrected."""
    panels = [panel for model in data.models for panel in attention_panels(model)]
    return panels_figure(len(panels), lambda axes, place: draw_panel(axes, panels[place]), key=True)


def figure_masking(data: DiagnosisData) -> Figure | None:
    """The masking ablation (Figure 4 of Generative Giants): bars with 95% intervals; None if unmeasured."""
    rows = masking_rows(data.models)
    if not rows:
        return None
    measure = measures_of(rows)[0]
    directions = list(grouped((row for row in rows if measure in row.scores), lambda row: row.task).items())
    names = list(dict.fromkeys(row.repair for row in rows))
    models = list(dict.fromkeys(row.embedding for row in rows))
    wide = 0.8 / len(names)

    def draw(axes: Any, place: int) -> None:
        direction, members = directions[place]
        for row in members:
            at, score = names.index(row.repair), row.scores[measure]
            x = models.index(row.embedding) + (at - (len(names) - 1) / 2) * wide
            label = one_line(row.repair) if row.embedding == members[0].embedding else None
            axes.bar(
                x, 100 * score.mean, wide * 0.92, color=LINES[at % len(LINES)] if at else "#b8b8b8",
                hatch=("", "///", "...", "xxx")[at % 4], edgecolor="white", linewidth=0.3, label=label,
            )  # fmt: skip
            if math.isfinite(score.low) and math.isfinite(score.high):
                axes.plot([x, x], [100 * score.low, 100 * score.high], color="black", linewidth=0.8)
        axes.set_xticks(range(len(models)), [one_line(model) for model in models])
        axes.set_title(one_line(direction))
        axes.set_ylabel(f"{measure_name(measure)}, %")

    return panels_figure(len(directions), draw, key=True)


def figure_maps(data: DiagnosisData) -> Figure | None:
    """Maps of pictures and texts, a row a model and a column a stage; None without maps."""
    views = [(model, view) for model in data.models for view in model.maps]
    across = max((len(model.maps) for model in data.models), default=1)
    kinds = np.array([KINDS.index(kind_of(item)) for item in data.items], dtype=np.int64)

    def draw(axes: Any, place: int) -> None:
        model, view = views[place]
        kind_P = kinds[view.items_P]
        # In turns, so that no kind lies wholly above another.
        for turn in range(3):
            for kind, (colour, mark) in enumerate(((IMAGE, "o"), (TEXT, "^"), (BOTH, "s"))):
                chosen = (kind_P == kind) & (np.arange(len(kind_P)) % 3 == turn)
                label = ("picture", "text", "picture and text")[kind] if turn == 0 and chosen.any() else None
                axes.scatter(*view.points_P2[chosen].T, s=4, c=colour, marker=mark, alpha=0.55, linewidths=0,
                             label=label, rasterized=len(kind_P) > RASTER_FROM)  # fmt: skip
        axes.set_title(one_line(f"{model.name}, {view.label}"))
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color("#cccccc")
        axes.grid(False)
        if place == 0:
            axes.legend(markerscale=2, handletextpad=0.2)

    return panels_figure(len(views), draw, across=max(across, 1), height=COLUMN * 0.85)


FIGURES: Final[Mapping[str, Callable[[DiagnosisData], Figure | None]]] = {
    "concepts": figure_composition,
    "modality": figure_modality,
    "energy": figure_energy,
    "overlap": figure_overlap,
    "maps": figure_maps,
    "geometry": figure_geometry,
    "removal": figure_removal,
    "masking": figure_masking,
    "attention": figure_attention,
}
"""Name of the file -> what draws it."""
