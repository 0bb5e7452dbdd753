"""How figures for a paper look: sizes, colours, lines, and the bytes of a file. `figures` draws with these.

Figures are built with the object interface and the Agg canvas, so that nothing global is touched. Texts stay
texts in the SVG (searchable, set in the reader's sans serif); the files are byte-equal for equal data and one
version of matplotlib. Colours come from Okabe & Ito's set, which people who do not tell red from green can
tell apart; line style, hatching or shape says the same again.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clearsight.report import text
from clearsight.report.axis import Panel

IMAGE, TEXT, BOTH = "#0072B2", "#D55E00", "#666666"
"""Pictures, texts, and items of both."""
LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES: Final = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKS: Final = "os^Dvp"
GREY: Final = "#777777"
COLUMN: Final = 3.3
"""Inches: the width of a column of a two-column paper."""
HEIGHT: Final = 2.4
DPI: Final = 300
_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "clearsight",
    "text.parse_math": False,  # a `$` in a model's name is a `$`
    "figure.constrained_layout.use": True,
}


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, without the date and the name of the software: equal figures, equal bytes."""
    out = io.BytesIO()
    with mpl.rc_context(dict(_STYLE)):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG, without the name of the software."""
    out = io.BytesIO()
    with mpl.rc_context(dict(_STYLE)):
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def panels_figure(
    count: int,
    draw: Callable[[Any, int], None],
    *,
    across: int = 2,
    width: float | None = None,
    panel_width: float = COLUMN,
    height: float = HEIGHT,
    key: bool = False,
) -> Figure | None:
    """`count` panels, `across` in a row, each drawn by `draw(axes, place)`; None for no panel.

    `key` puts one legend, that of the first panel, below all of them.
    """
    if not count:
        return None
    columns, rows = min(count, across), -(-count // across)
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(width or panel_width * columns, height * rows))
        FigureCanvasAgg(figure)
        for place in range(count):
            axes = figure.add_subplot(rows, columns, place + 1)
            axes.grid(axis="y")
            draw(axes, place)
        if key:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def draw_panel(axes: Any, panel: Panel, *, colours: Sequence[str] = LINES, title: bool = True) -> None:
    """The lines, intervals and levels of a panel, with its axes named."""
    curve = panel.curve
    count = len(curve.y)
    x = np.asarray(curve.x, dtype=np.float64)
    for place, (name, values) in enumerate(curve.y.items()):
        look = line_look(place, colours) | ({"marker": ""} if panel.x_ticks else {})
        at = x
        if name in panel.low:
            low, high = np.asarray(panel.low[name]), np.asarray(panel.high[name])
            step = 1 + 0.012 * (place - (count - 1) / 2)  # aside, so that whiskers do not cover each other
            at = x * step if curve.log_x else x + (step - 1) * np.ptp(x)
            axes.vlines(at, low, high, color=look["color"], linewidth=0.7)
        axes.plot(at, np.asarray(values), label=one_line(name), **look)
    for place, (name, level) in enumerate(panel.levels.items()):
        axes.axhline(level.value, color=GREY, linewidth=0.9, linestyle=DASHES[(2, 3, 1)[place % 3]],
                     label=one_line(name))  # fmt: skip
        if math.isfinite(level.low) and math.isfinite(level.high):
            axes.axhspan(level.low, level.high, color=GREY, alpha=0.12, linewidth=0)
    if curve.log_x:
        axes.set_xscale("log")
    ticks = panel.x_ticks or (tuple(curve.x) if len(curve.x) <= 10 else ())
    if ticks:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(one_line(curve.x_label))
    axes.set_ylabel(textwrap.fill(one_line(curve.y_label), 30))
    if title:
        axes.set_title(one_line(curve.title))


def line_look(place: int, colours: Sequence[str] = LINES) -> dict[str, Any]:
    """Colour, dashes and marks of the line at a place: any one of them tells lines apart."""
    return {
        "color": colours[place % len(colours)],
        "linestyle": DASHES[place % len(DASHES)],
        "marker": MARKS[place % len(MARKS)],
    }


def one_line(label: str) -> str:
    """A foreign label as one printable line."""
    return text.one_line(text.arrows(label))
