"""Axes and lines of the drawings: numbers in, places in a drawing out. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from clearsight.report.data import Curve
from clearsight.report.text import figure

WIDTH, HEIGHT = 360.0, 232.0
"""Size of a chart in its own units; it scales with its column."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 350.0, 12.0, 194.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Level:
    """A value that holds over the whole axis, such as the score before anything was done."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Panel:
    """A curve and what stands beside its lines.

    Attributes:
        x_ticks: round places for a curve of many points; its lines are then drawn without marks.
        low, high: line -> the ends of the interval at each place (NaN where there is none).
        levels: name -> a level line across the chart.
        y_range: the least range of the vertical axis.
        shaded: the line whose area is filled, and the name of the filling (a class of the style sheet).
    """

    curve: Curve
    x_ticks: tuple[float, ...] = ()
    low: Mapping[str, Sequence[float]] = field(default_factory=dict)
    high: Mapping[str, Sequence[float]] = field(default_factory=dict)
    levels: Mapping[str, Level] = field(default_factory=dict)
    y_range: tuple[float, float] | None = None
    shaded: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its pieces between gaps as SVG point lists, its marks, its whiskers (x, y, y)."""

    name: str
    pieces: tuple[str, ...]
    marks: tuple[tuple[float, float], ...]
    whiskers: tuple[tuple[float, float, float], ...] = ()
    area: str = ""
    filling: str = ""


@dataclass(frozen=True, slots=True)
class LevelLine:
    """A level line: its height in the drawing, its value in words, its band (top, height) if there is one."""

    name: str
    at: float
    label: str
    band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    curve: Curve
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chosen: Tick | None
    table: tuple[tuple[str, tuple[str, ...]], ...]
    levels: tuple[LevelLine, ...] = ()
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP
    bottom: float = _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def nice_ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """At most `most` + 1 round values that cover low..high, the outer ones included."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # flat as far as floats can tell: room on both sides
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    for step in (*(unit * s for s in _STEPS), unit * 20):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    digits = max(0, 2 - math.floor(math.log10(step)))
    return tuple(round(i * step, digits) for i in range(first, last + 1))


def chart(drawn: Curve | Panel) -> Chart:
    """The curve laid out; lines break where a value is NaN."""
    panel = drawn if isinstance(drawn, Panel) else Panel(drawn)
    curve = panel.curve

    def place_of(x: float) -> float:
        return math.log10(x) if curve.log_x else float(x)

    xs = [place_of(x) for x in curve.x]
    marked = [] if curve.chosen is None else [place_of(curve.chosen)]
    y_values = nice_ticks(*_y_range(panel))
    ends = [*xs, *marked, *map(place_of, panel.x_ticks)]
    x_low, x_high = min(ends, default=0.0), max(ends, default=1.0)
    if x_high == x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5

    def across(x: float) -> float:
        return round(_LEFT + 8 + (x - x_low) / (x_high - x_low) * (_RIGHT - _LEFT - 16), 1)

    def up(y: float) -> float:
        return round(_BOTTOM - (y - y_values[0]) / (y_values[-1] - y_values[0]) * (_BOTTOM - _TOP), 1)

    dense = bool(panel.x_ticks)
    return Chart(
        curve=curve,
        lines=tuple(
            _line(
                name,
                [
                    (round(across(x) + aside, 1), up(float(y)) if math.isfinite(y) else None)
                    for x, y in zip(xs, line, strict=True)
                ],
                marks=not dense,
                whiskers=_whiskers(panel, name, [round(across(x) + aside, 1) for x in xs], up),
                filling=panel.shaded[1] if panel.shaded and panel.shaded[0] == name else "",
            )
            for (name, line), aside in zip(curve.y.items(), _asides(panel), strict=True)
        ),
        x_ticks=(
            tuple(Tick(across(place_of(x)), figure(x)) for x in panel.x_ticks)
            if dense
            else _x_ticks(curve, [across(x) for x in xs])
        ),
        y_ticks=tuple(Tick(up(y), figure(y)) for y in y_values),
        chosen=Tick(across(marked[0]), figure(float(curve.chosen or 0.0))) if marked else None,
        table=tuple(
            (figure(float(curve.x[i])), tuple(figure(float(line[i])) for line in curve.y.values()))
            for i in _table_places(len(curve.x))
        ),
        levels=tuple(_level_line(name, level, up) for name, level in panel.levels.items()),
    )


def _y_range(panel: Panel) -> tuple[float, float]:
    """What the vertical axis has to show."""
    lines = [*panel.curve.y.values(), *panel.low.values(), *panel.high.values()]
    levels = [(level.value, level.low, level.high) for level in panel.levels.values()]
    ys = [y for line in [*lines, *levels, panel.y_range or ()] for y in map(float, line) if math.isfinite(y)]
    return min(ys, default=0.0), max(ys, default=1.0)


def _asides(panel: Panel, apart: float = 3.5) -> list[float]:
    """How far each line steps aside, so that whiskers at one place do not cover each other."""
    count = len(panel.curve.y)
    return [round(apart * (i - (count - 1) / 2), 2) if panel.low else 0.0 for i in range(count)]


def _whiskers(
    panel: Panel, name: str, places: Sequence[float], up: Callable[[float], float]
) -> tuple[tuple[float, float, float], ...]:
    lows, highs = panel.low.get(name, ()), panel.high.get(name, ())
    return tuple(
        (x, up(float(low)), up(float(high)))
        for x, low, high in zip(places, lows, highs, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    )


def _level_line(name: str, level: Level, up: Callable[[float], float]) -> LevelLine:
    banded = math.isfinite(level.low) and math.isfinite(level.high)
    band = (up(level.high), round(up(level.low) - up(level.high), 1)) if banded else None
    return LevelLine(name, up(level.value), figure(level.value), band)


def _table_places(count: int, most: int = 21) -> list[int]:
    """Every place of a short curve, evenly chosen ones of a long one; both ends included."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _line(
    name: str,
    places: Sequence[tuple[float, float | None]],
    *,
    marks: bool,
    whiskers: tuple[tuple[float, float, float], ...],
    filling: str,
) -> Line:
    pieces: list[list[str]] = [[]]
    marked: list[tuple[float, float]] = []
    for x, y in places:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x},{y}")
            marked.append((x, y))
    ends = f"{marked[0][0]},{_BOTTOM} " + "{} " + f"{marked[-1][0]},{_BOTTOM}" if marked else "{}"
    return Line(
        name,
        tuple(" ".join(piece) for piece in pieces if len(piece) > 1),
        tuple(marked) if marks else (),
        whiskers,
        ends.format(" ".join(f"{x},{y}" for x, y in marked)) if filling else "",
        filling,
    )


def _x_ticks(curve: Curve, places: Sequence[float], apart: float = 34.0) -> tuple[Tick, ...]:
    """The values themselves where they are far enough apart to be read, else every few of them."""
    ticks: list[Tick] = []
    for x, place in zip(curve.x, places, strict=True):
        if not ticks or place - ticks[-1].at >= apart:
            ticks.append(Tick(place, figure(float(x))))
    return tuple(ticks)
