"""The reranking page: coarse against reranked rows, what bounds them, and the judge's biases and reliability.

The job fills in `RerankingData`; `render_reranking` makes one HTML file of it, `reranking_figures` the
figures for a paper, both from the same panels.

Legend: B bins, P positions of options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clearsight.metrics.calibration import Estimate, OrderSwap, PositionBias, Reliability, YesBias
from clearsight.report import axis, text, view
from clearsight.report.axis import Panel
from clearsight.report.data import Curve, Example, ResultRow
from clearsight.report.page import environment

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MEASURED, TRUE, CHOSEN, CHANCE = "measured", "every score true", "chosen", "chance"
BOUND = "bound"
"""The note of a row that no fine stage can exceed at its depth."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgeRow:
    """What was measured of one scorer on one task; None where it was not.

    Attributes:
        scorer, task: as in the rows of the table.
        written: answers that the model wrote, which had to be parsed; 0 where scores are read off the model.
        unparsed: how many of them could not be.
        fell_back: queries that kept their coarse order for want of parsed answers.
        position: of listwise answers, in random orders.
        yes: of candidates under an empty query.
        swap: of label orders.
        reliability: of scores read as probabilities.
    """

    scorer: str
    task: str = ""
    written: int = 0
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
        rows: by task and coarse stage. `embedding` names the stage and how many candidates were judged,
            `repair` the scorer; the first row of each is the coarse one (without `against`), with which all
            others are compared on the same queries. A row with the note `BOUND` is the oracle's.
        headline: the `repair` whose gain over the coarse row stands on top; "" for none.
        judges: one for each scorer and task that was measured.
        examples: results before and after.
        skipped: (query and candidate, reason) of each pair that was not judged.
        warnings, manifest, commands: as in `ReportData`.
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
            reliability=_charts(data.judges, reliability_panels),
            positions=_charts(data.judges, position_panels),
            examples=view.examples_by_task(data.examples),
        )
    )
    return text.clean(html)


def _charts(
    judges: Sequence[JudgeRow], panels: Callable[[Sequence[JudgeRow]], list[Panel]]
) -> dict[str, list[axis.Chart]]:
    """By task, those that have any."""
    charts = {task: [axis.chart(panel) for panel in panels(some)] for task, some in _by_task(judges).items()}
    return {task: some for task, some in charts.items() if some}


def _by_task(judges: Sequence[JudgeRow]) -> dict[str, list[JudgeRow]]:
    return view.grouped(judges, lambda judge: judge.task)


def reliability_panels(judges: Sequence[JudgeRow]) -> list[Panel]:
    """A panel for each scorer whose scores were read as probabilities: relevant share over score."""
    return [
        _reliability_panel(judge.scorer, judge.reliability)
        for judge in judges
        if judge.reliability is not None
    ]


def _reliability_panel(title: str, measured: Reliability) -> Panel:
    def inner(values_B: NDArray[np.float64]) -> list[float]:
        return [math.nan, *values_B.tolist(), math.nan]

    # The line of true scores goes from corner to corner, wherever the bins lie.
    places = [0.0, *measured.score_B.tolist(), 1.0]
    return Panel(
        Curve(
            title=title,
            x_label="mean score of the bin",
            y_label="Share of relevant candidates",
            x=places,
            y={MEASURED: inner(measured.relevant_B), TRUE: places},
            note=f"{measured.judgements:,} judgements, {text.percent(measured.base_rate)} % relevant.",
        ),
        x_ticks=(0.0, 0.25, 0.5, 0.75, 1.0),
        low={MEASURED: inner(measured.low_B)},
        high={MEASURED: inner(measured.high_B)},
        y_range=(0.0, 1.0),
    )


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
    """Lines by task, one for each scorer; lines and columns without a figure are left out."""

    columns: tuple[tuple[str, str], ...]
    lines: Mapping[str, tuple[tuple[str, tuple[Cell, ...]], ...]]


_COLUMNS = (
    ("unparsed", "written answers that could not be parsed"),
    ("fell back", "queries left in coarse order for want of parsed answers"),
    ("position p", "chance of choices as uneven over the places of a list as these, were there no bias"),
    (
        "empty query",
        "mean score of candidates under a query of which nothing is shown, in %; 50 favours neither",
    ),
    ("says yes", "share of those candidates scored above one half, in %"),
    ("flips", "decisions that change when the labels change places, in %"),
    ("swap difference", "mean absolute difference of the score when they do, in points"),
    ("calibration error", "mean gap between score and relevant share, in points"),
    ("error floor", "what chance would leave of that gap were every score true, in points"),
    ("Brier", "mean squared distance of the score from the truth, 0 to 1; lower is better"),
)


def bias_table(judges: Sequence[JudgeRow]) -> BiasTable | None:
    """The judges' figures in words; None where there are none."""
    told = [(judge, _cells(judge)) for judge in judges]
    told = [(judge, cells) for judge, cells in told if any(cell.value != text.NONE for cell in cells)]
    if not told:
        return None
    kept = [i for i in range(len(_COLUMNS)) if any(cells[i].value != text.NONE for _, cells in told)]
    lines = {
        task: tuple((judge.scorer, tuple(cells[i] for i in kept)) for judge, cells in some)
        for task, some in view.grouped(told, lambda line: line[0].task).items()
    }
    return BiasTable(tuple(_COLUMNS[i] for i in kept), lines)


def _cells(judge: JudgeRow) -> tuple[Cell, ...]:
    yes, swap, measured, position = judge.yes, judge.swap, judge.reliability, judge.position
    return (
        Cell(f"{judge.unparsed:,}", f"of {judge.written:,}") if judge.written else Cell(),
        Cell(f"{judge.fell_back:,}") if judge.written or judge.fell_back else Cell(),
        Cell() if position is None else Cell(_p_value(position.p_value)),
        _share(yes.mean if yes else None),
        _share(yes.above_half if yes else None),
        _share(swap.flipped if swap else None),
        _share(swap.difference if swap else None),
        _share(measured.ece if measured else None),
        Cell() if measured is None else Cell(text.percent(measured.ece_floor)),
        _plain(measured.brier if measured else None),
    )


def _p_value(value: float) -> str:
    return text.p_text(value).removeprefix("p = ").removeprefix("p ")


def _share(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell()
    return Cell(text.percent(estimate.value), text.interval(estimate.low, estimate.high))


def _plain(estimate: Estimate | None) -> Cell:
    if estimate is None or not math.isfinite(estimate.value):
        return Cell()
    return Cell(f"{estimate.value:.3f}", f"{estimate.low:.3f}–{estimate.high:.3f}")


def _told_apart(judges: Sequence[JudgeRow]) -> list[JudgeRow]:
    """With the task in their names, where there are several: a figure has no headings."""
    if len(_by_task(judges)) < 2:
        return list(judges)
    return [replace(judge, scorer=f"{judge.scorer}, {judge.task}") for judge in judges]


def figure_reliability(judges: Sequence[JudgeRow]) -> Figure | None:
    """Reliability curves for a paper, a panel a scorer; None if unmeasured."""
    from clearsight.report.figure_style import draw_panel, panels_figure

    panels = reliability_panels(_told_apart(judges))

    def draw(axes: Any, place: int) -> None:
        draw_panel(axes, panels[place])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)

    return panels_figure(len(panels), draw, key=True)


def figure_positions(judges: Sequence[JudgeRow]) -> Figure | None:
    """Chosen positions against chance for a paper, a panel a scorer; None if unmeasured."""
    from clearsight.report.figure_style import draw_panel, panels_figure

    panels = position_panels(_told_apart(judges))

    def draw(axes: Any, place: int) -> None:
        draw_panel(axes, panels[place])
        axes.set_ylim(bottom=0)

    return panels_figure(len(panels), draw, key=True)


def reranking_figures(data: RerankingData) -> dict[str, bytes]:
    """Every figure that the data allows: `<name>.svg` and `<name>.png` at 300 dpi -> its bytes."""
    from clearsight.report.figure_style import to_png, to_svg

    drawn: dict[str, bytes] = {}
    for name, draw in (("reliability", figure_reliability), ("positions", figure_positions)):
        figure = draw(data.judges)
        if figure is not None:
            drawn |= {f"{name}.svg": to_svg(figure), f"{name}.png": to_png(figure)}
    return drawn
