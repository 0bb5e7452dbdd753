"""Drawings of the published figures, in the look of `clearsight.report.figure_style`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.jobs.papers.base import Cell, columns_of, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER = "#e6e6e6", "#16181d"
"""Of the dark version."""


def bars(cells: Sequence[Cell], title: str) -> Figure:
    """A group of bars a column, a bar a row, with intervals and, where there are, the published values."""
    from clearsight.report.figure_style import COLUMN, LINES, one_line, panels_figure

    rows, columns = rows_of(cells), columns_of(cells)
    wide = 0.8 / len(rows)

    def draw(axes: Any, _: int) -> None:
        for cell in cells:
            at = rows.index(cell.row)
            x = columns.index(cell.column) + (at - (len(rows) - 1) / 2) * wide
            first = cell.column == next(c.column for c in cells if c.row == cell.row)
            axes.bar(
                x,
                cell.ours,
                wide * 0.92,
                color=LINES[at % len(LINES)],
                hatch=("", "///", "...", "xxx")[at // len(LINES) % 4],
                label=one_line(cell.row) if first else None,
            )
            if math.isfinite(cell.low) and math.isfinite(cell.high):
                axes.plot([x, x], [cell.low, cell.high], color="#444444", linewidth=0.8)
        axes.set_xticks(range(len(columns)), [one_line(name) for name in columns])
        axes.set_ylabel("%")
        axes.set_title(one_line(title))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(panels_figure(1, draw, width=2.2 * COLUMN))


def lines(
    curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], x: str, y: str, *, log_x: bool = False
) -> Figure:
    """name -> (x, y) as lines of one panel."""
    from clearsight.report.figure_style import COLUMN, line_look, one_line, panels_figure

    def draw(axes: Any, _: int) -> None:
        for place, (name, (at, values)) in enumerate(curves.items()):
            axes.plot(at, values, label=one_line(name), **{**line_look(place), "marker": ""})
        if log_x:
            axes.set_xscale("log")
        elif all(np.array_equal(at, np.round(at)) for at, _ in curves.values()):  # layers: there is no half
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # no line passes below a name

    return _drawn(panels_figure(1, draw, width=1.7 * COLUMN))


def maps(views: Mapping[str, tuple[NDArray[Any], int, NDArray[np.int64]]], sides: tuple[str, str]) -> Figure:
    """Panels of points; the first so many are queries; a line joins every pair (query, candidate).

    Args:
        views: title -> (points_N2, number of queries, pairs_P2 as rows of each side).
        sides: what queries and candidates are called.
    """
    from clearsight.report.figure_style import COLUMN, IMAGE, TEXT, one_line, panels_figure

    titles = list(views)

    def draw(axes: Any, place: int) -> None:
        points_N2, queries, pairs_P2 = views[titles[place]]
        left, right = points_N2[:queries], points_N2[queries:]
        for query, candidate in pairs_P2:
            ends = np.stack([left[query], right[candidate]])
            axes.plot(*ends.T, color="#777777", linewidth=0.2, alpha=0.5, zorder=1)
        for side, colour, mark, name in ((left, IMAGE, "o", sides[0]), (right, TEXT, "^", sides[1])):
            axes.scatter(*side.T, s=4, c=colour, marker=mark, linewidths=0, label=name, zorder=2)
        axes.set_title(one_line(titles[place]))
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        if place == 0:
            axes.legend(markerscale=2, handletextpad=0.2)

    return _drawn(panels_figure(len(views), draw, across=min(3, len(views)), height=0.85 * COLUMN))


def darken(figure: Figure) -> None:
    """The same figure on a dark page."""
    from matplotlib.text import Text

    figure.set_facecolor(PAPER)
    for text in figure.findobj(Text):
        text.set_color(INK)
    for axes in figure.axes:
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=INK)
        axes.grid(axis="y", color="#33363d")
        for spine in axes.spines.values():
            spine.set_color(INK)
        for line in axes.get_lines():
            if line.get_color() == "#444444":
                line.set_color(INK)


def _drawn(figure: Figure | None) -> Figure:
    assert figure is not None, "a table has at least one row"
    return figure
