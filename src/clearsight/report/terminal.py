"""The table for the terminal: the page's numbers in as many columns as there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from clearsight.report.data import ResultRow, plain
from clearsight.report.text import (
    NONE,
    STARS_LEGEND,
    interval,
    measure_name,
    one_line,
    percent,
    points,
    stars,
)
from clearsight.report.view import measures_of, task_tables
from clearsight.types import Score

_GAP = 2
_SMALLEST_NAME = 12


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is shown: the first `shown` measures, the first `intervals` of them with their interval; `room` is
    that of a blank and the widest interval, such as ` [56.8–61.0]`."""

    name: int
    shown: int
    intervals: int
    difference: int
    room: int

    def room_at(self, place: int) -> int:
        """Of the interval of a measure; 0 where it is not shown."""
        return self.room if place < self.intervals else 0

    def column(self, title: str, place: int) -> int:
        return max(cell_len(title), 5 + self.room_at(place))

    def width(self, titles: Sequence[str]) -> int:
        columns = [self.column(title, place) for place, title in enumerate(titles[: self.shown])]
        return self.name + sum(_GAP + column for column in (*columns, self.difference) if column)


def render_table(rows: Sequence[ResultRow], width: int = 100) -> RenderableType:
    """The rows as a rich renderable of at most `width` columns, grouped by task and embedding.

    Scores are in per cent with their 95% interval. Where `width` is too small for all of it, intervals go
    first (the headline's last), then measures from the right, then the ends of names; what went is said below
    the table. Colour says nothing that words do not.
    """
    titles = _titles(measures_of(rows))
    common = _common_reference(rows)
    layout = _fit(rows, titles, common, width)
    lines: list[Text] = []
    for table in task_tables(rows):
        lines += [
            Text(),
            _heading(table.task, table.facts),
            Text("─" * min(layout.width(list(titles.values())), width), "dim"),
        ]
        for place, group in enumerate(table.groups):
            if place:
                lines.append(Text())
            lines.append(
                _header(group.embedding, titles, layout, common) if place == 0 else _subhead(group.embedding)
            )
            if group.facts:
                lines.append(Text(f"  {group.facts}", "dim"))
            lines += [_line(row, titles, layout, common) for row in group.rows]
    return Group(*lines, Text(), _legend(rows, titles, layout))


def rows_to_json(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The rows as JSON values: shares 0..1, NaN as null, the scores' `values_Q` left out."""
    return [plain(row) for row in rows]


def _titles(measures: Sequence[str]) -> dict[str, str]:
    """Measure -> title; a title that repeats the stem of the one before keeps its cutoff alone: `@5`."""
    titles = {}
    before = ""
    for measure in measures:
        stem, at, cutoff = measure.partition("@")
        titles[measure] = f"@{cutoff}" if at and stem == before else one_line(measure_name(measure))
        before = stem
    return titles


def _common_reference(rows: Sequence[ResultRow]) -> str | None:
    """The one repair that every test compares with; None where they differ: each row then names its own."""
    names = {row.against for row in rows if row.test is not None}
    return one_line(next(iter(names)) or "") if len(names) == 1 else None


def _fit(rows: Sequence[ResultRow], titles: dict[str, str], common: str | None, width: int) -> _Layout:
    """The richest layout that fits; at the end the name column takes what is left."""
    shown = list(titles.values())
    names = [_name(row) for row in rows] + [one_line(row.embedding) for row in rows]
    name = max((cell_len(text) for text in names), default=0)
    tested = [_difference(row, common) for row in rows if row.test is not None]
    difference = max((cell_len(text) for text in (*tested, _reference(common))), default=0) if tested else 0
    room = max((len(_interval(score)) for row in rows for score in row.scores.values()), default=0)
    layout = _Layout(name, len(shown), 0, difference, room)
    for count, intervals in _choices(len(shown)):
        layout = _Layout(name, count, intervals, difference, room)
        if layout.width(shown) <= width:
            return layout
    spare = width - (layout.width(shown) - name)
    return _Layout(max(_SMALLEST_NAME, spare), layout.shown, layout.intervals, difference, room)


def _choices(measures: int) -> Iterator[tuple[int, int]]:
    """(measures, intervals) shown, from the widest to the narrowest."""
    for intervals in range(measures, -1, -1):
        yield measures, intervals
    for shown in range(measures - 1, 0, -1):
        yield shown, 0


def _heading(task: str, facts: str) -> Text:
    return Text.assemble((one_line(task), "bold"), (f"   {facts}" if facts else "", "dim"))


def _subhead(embedding: str) -> Text:
    return Text(one_line(embedding), "italic")


def _header(embedding: str, titles: dict[str, str], layout: _Layout, common: str | None) -> Text:
    line = _padded(_subhead(embedding), layout.name)
    for place, title in enumerate(list(titles.values())[: layout.shown]):
        # The title stands over the number, not over the interval to its right.
        room = layout.room_at(place)
        line.append(
            " " * _GAP + title.rjust(layout.column(title, place) - room).ljust(layout.column(title, place))
        )
    if layout.difference:
        line.append(" " * _GAP + _reference(common))
    line.stylize("bold", layout.name)
    return line


def _line(row: ResultRow, titles: dict[str, str], layout: _Layout, common: str | None) -> Text:
    line = _padded(Text(_name(row)), layout.name)
    for place, (measure, title) in enumerate(list(titles.items())[: layout.shown]):
        score = row.scores.get(measure)
        room = layout.room_at(place)
        number = NONE if score is None else percent(score.mean)
        line.append(" " * _GAP + number.rjust(layout.column(title, place) - room), "" if place else "bold")
        if room:
            line.append(("" if score is None else _interval(score)).ljust(room), "dim")
    if row.test is not None:
        line.append(" " * _GAP + _difference(row, common))
    line.rstrip()
    return line


def _interval(score: Score) -> str:
    bounds = interval(score.low, score.high)
    return f" [{bounds}]" if bounds else ""


def _padded(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def _name(row: ResultRow) -> str:
    return "  " + one_line(f"{row.repair} ({row.note})" if row.note else row.repair)


def _reference(common: str | None) -> str:
    return f"vs {common}" if common else "difference"


def _difference(row: ResultRow, common: str | None) -> str:
    if row.test is None:
        return ""
    named = f" vs {one_line(row.against)}" if row.against and not common else ""
    return f"{points(row.test.difference):>6} {stars(row.test.p_value):<4}{named}".rstrip()


def _legend(rows: Sequence[ResultRow], titles: dict[str, str], layout: _Layout) -> Text:
    lines = ["Per cent" + (", in brackets the 95% bootstrap interval" if layout.intervals else "") + "."]
    if any(row.test is not None for row in rows):
        lines += [
            f"Differences: points of {next(iter(titles.values()), 'the score')}, paired test.",
            STARS_LEGEND,
        ]
    if hidden := list(titles)[layout.shown :]:
        lines.append(f"No room for: {', '.join(one_line(measure_name(name)) for name in hidden)}.")
    return Text("\n".join(lines), "dim")
