"""The reranking page: coarse against reranked rows, what bounds them, and the judge's biases and reliability.

The job fills in `RerankingData`; `render_reranking` makes one HTML file of it, `write_reranking_figures` the
figures for a paper, both from the same panels.

Legend: B bins, P positions of options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.files import write_atomic
from clearsight.metrics.calibration import Estimate, OrderSwap, PositionBias, Reliability, YesBias
from clearsight.report import axis, text, view
from clearsight.report.axis import Panel
from clearsight.report.data import Curve, Example, ResultRow
from clearsight.report.page import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURED, TRUE, CHOSEN, CHANCE = "measured", "every score true", "chosen", "chance"
BOUND = "bound"
"""The note of a row that no fine stage can exceed at its depth."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgeRow:
    """What was measured of one scorer; None where it was not.

    Attributes:
        scorer: as in the rows of the table.
        judgements: answers asked for.
        unparsed: answers that could not be parsed.
        fell_back: queries that kept their coarse order for want of parsed answers.
        position: of listwise answers, in random orders.
        yes: of candidates under an empty query.
        swap: of label orders.
        reliability: of scores read as probabilities.
    """

    scorer: str
    judgements: int
    unparsed: int = 0
    fell_back: int = 0
    position: PositionBias | None = None
    yes: YesBias | None = None
    swap: OrderSwap | None = None
    reliability: Reliability | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RerankingData:
    """Everything on the page.

    Attributes:
        summary: one plain sentence: model, scorer, depth, on how many queries.
        rows: by task and coarse embedding, the coarse row first (without `against`); in `repair` stands the
            scorer and its depth, such as "likelihood, top 20". A row with the note `BOUND` is the oracle's.
        headline: the `repair` whose gain over the coarse row stands on top; "" for none.
        judges: one for each scorer that was measured.
        examples: results before and after.
    """

    title: str
    summary: str
    rows: tuple[ResultRow, ...] = ()
    headline: str = ""
    judges: tuple[JudgeRow, ...] = ()
    examples: tuple[Example, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def render_reranking(data: RerankingData) -> str:
    """The whole page as one HTML document that runs no script and asks nothing of the network.

    The same data gives the same page, byte for byte.
    """
    shown = [row for row in data.rows if row.against is None or row.repair == data.headline]
    html = (
        environment()
        .get_template("reranking.html.j2")
        .render(
            data=data,
            tables=view.task_tables(data.rows),
            headlines=view.headlines([row for row in shown if not row.note]) if data.headline else (),
            measures=view.measures_of(data.rows),
            scales=view.scales(data.rows),
            bias=bias_table(data.judges),
            reliability=[axis.chart(panel) for panel in reliability_panels(data.judges)],
            positions=[axis.chart(panel) for panel in position_panels(data.judges)],
            examples=view.examples_by_task(data.examples),
        )
    )
    return text.clean(html)


def reliability_panels(judges: Sequence[JudgeRow]) -> list[Panel]:
    """A panel for each scorer whose scores were read as probabilities: relevant share over score."""
    return [
        Panel(
            Curve(
                title=judge.scorer,
                x_label="mean score of the bin",
                y_label="Share of relevant candidates",
                x=measured.score_B.tolist(),
                y={MEASURED: measured.relevant_B.tolist(), TRUE: measured.score_B.tolist()},
                note=_reliability_note(measured),
            ),
            x_ticks=(0.0, 0.25, 0.5, 0.75, 1.0),
            low={MEASURED: measured.low_B.tolist()},
            high={MEASURED: measured.high_B.tolist()},
            y_range=(0.0, 1.0),
        )
        for judge in judges
        if (measured := judge.reliability) is not None
    ]


def position_panels(judges: Sequence[JudgeRow]) -> list[Panel]:
    """A panel for each scorer that chose among options: how often each position was chosen."""
    return [
        Panel(
            Curve(
                title=judge.scorer,
                x_label="position in the list",
                y_label="Chosen, % of the answers with this position",
                x=[float(p + 1) for p in range(len(bias.chosen_P))],
                y={
                    CHOSEN: (100 * bias.chosen_P / bias.offered_P).tolist(),
                    CHANCE: (100 * bias.expected_P / bias.offered_P).tolist(),
                },
                note=f"{bias.answers:,} answers; chi-square {text.figure(bias.chi_square)}, "
                f"{text.p_text(bias.p_value)}{' (simulated)' if bias.simulated else ''}.",
            ),
            y_range=(0.0, 0.0),
        )
        for judge in judges
        if (bias := judge.position) is not None
    ]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the bias table, and its interval in words; both empty where nothing was measured."""

    value: str = text.NONE
    range: str = ""


@dataclass(frozen=True, slots=True)
class BiasTable:
    """A line for each scorer; columns that none of them has are left out."""

    columns: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]


_COLUMNS = (
    ("unparsed", "answers that could not be parsed"),
    ("fell back", "queries left in coarse order for want of parsed answers"),
    ("empty query", "mean score of a candidate when there is no query, in %: a fair judge says no"),
    ("says yes", "share of such candidates scored above one half, in %"),
    ("flips", "decisions that change when the labels change places, in %"),
    ("swap difference", "mean absolute difference of the score when they do, in points"),
    ("position p", "chance of choices as uneven over positions, were there no bias"),
    ("calibration error", "mean gap between score and relevant share, in points"),
    ("error floor", "what is left of that gap were every score true, in points"),
    ("Brier", "mean squared distance of the score from the truth, 0 to 1"),
)


def bias_table(judges: Sequence[JudgeRow]) -> BiasTable | None:
    """The judges' figures in words; None without a judge."""
    lines = {judge.scorer: _cells(judge) for judge in judges}
    kept = [i for i in range(len(_COLUMNS)) if any(cells[i].value != text.NONE for cells in lines.values())]
    if not kept:
        return None
    return BiasTable(
        tuple(_COLUMNS[i] for i in kept),
        tuple((scorer, tuple(cells[i] for i in kept)) for scorer, cells in lines.items()),
    )


def _cells(judge: JudgeRow) -> tuple[Cell, ...]:
    yes, swap, measured, position = judge.yes, judge.swap, judge.reliability, judge.position
    return (
        Cell(f"{judge.unparsed:,}", f"of {judge.judgements:,}"),
        Cell(f"{judge.fell_back:,}"),
        _share(yes.mean if yes else None),
        _share(yes.above_half if yes else None),
        _share(swap.flipped if swap else None),
        _share(swap.difference if swap else None),
        Cell() if position is None else Cell(text.p_text(position.p_value)),
        _share(measured.ece if measured else None),
        Cell() if measured is None else Cell(text.percent(measured.ece_floor)),
        _plain(measured.brier if measured else None),
    )


def _share(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell()
    return Cell(text.percent(estimate.value), text.interval(estimate.low, estimate.high))


def _plain(estimate: Estimate | None) -> Cell:
    if estimate is None or not math.isfinite(estimate.value):
        return Cell()
    return Cell(f"{estimate.value:.3f}", f"{estimate.low:.3f}–{estimate.high:.3f}")


def _reliability_note(measured: Reliability) -> str:
    return (
        f"{measured.judgements:,} judgements, {text.percent(measured.base_rate)} % of them relevant; bins of "
        "equal counts, bars are 95% intervals. Below the dotted line the judge is too sure."
    )


def figure_reliability(judges: Sequence[JudgeRow]) -> Figure | None:
    """Reliability curves for a paper, a panel a scorer; None if unmeasured."""
    from clearsight.report.figure_style import draw_panel, panels_figure

    panels = reliability_panels(judges)

    def draw(axes: Any, place: int) -> None:
        draw_panel(axes, panels[place])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)

    return panels_figure(len(panels), draw, key=True)


def figure_positions(judges: Sequence[JudgeRow]) -> Figure | None:
    """Chosen positions against chance for a paper, a panel a scorer; None if unmeasured."""
    from clearsight.report.figure_style import draw_panel, panels_figure

    panels = position_panels(judges)

    def draw(axes: Any, place: int) -> None:
        draw_panel(axes, panels[place])
        axes.set_ylim(bottom=0)

    return panels_figure(len(panels), draw, key=True)


def write_reranking_figures(data: RerankingData, folder: Path) -> list[Path]:
    """Every figure that the data allows, as `<name>.svg` and `<name>.png` at 300 dpi, each written whole."""
    from clearsight.report.figure_style import to_png, to_svg

    written: list[Path] = []
    for name, draw in (("reliability", figure_reliability), ("positions", figure_positions)):
        figure = draw(data.judges)
        if figure is None:
            continue
        for ending, encoded in (("svg", to_svg(figure)), ("png", to_png(figure))):
            written.append(Path(folder) / f"{name}.{ending}")
            write_atomic(written[-1], encoded)
    return written
