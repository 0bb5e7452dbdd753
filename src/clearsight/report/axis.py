"""Axes and lines of the drawings: numbers in, places in a drawing out. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
class Line:
    """One line of a chart: its pieces between gaps as SVG point lists, and its marks."""

    name: str
    pieces: tuple[str, ...]
    marks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    curve: Curve
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chosen: Tick | None
    table: tuple[tuple[str, tuple[str, ...]], ...]
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


def chart(curve: Curve) -> Chart:
    """The curve laid out; lines break where a value is NaN."""
    xs = [math.log10(x) if curve.log_x else float(x) for x in curve.x]
    ys = [y for line in curve.y.values() for y in map(float, line) if math.isfinite(y)]
    marked = (
        [] if curve.chosen is None else [math.log10(curve.chosen) if curve.log_x else float(curve.chosen)]
    )
    y_values = nice_ticks(min(ys, default=0.0), max(ys, default=1.0))
    x_low, x_high = min([*xs, *marked], default=0.0), max([*xs, *marked], default=1.0)
    if x_high == x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5

    def across(x: float) -> float:
        return round(_LEFT + 8 + (x - x_low) / (x_high - x_low) * (_RIGHT - _LEFT - 16), 1)

    def up(y: float) -> float:
        return round(_BOTTOM - (y - y_values[0]) / (y_values[-1] - y_values[0]) * (_BOTTOM - _TOP), 1)

    return Chart(
        curve=curve,
        lines=tuple(
            _line(
                name,
                [
                    (across(x), up(float(y)) if math.isfinite(y) else None)
                    for x, y in zip(xs, line, strict=True)
                ],
            )
            for name, line in curve.y.items()
        ),
        x_ticks=_x_ticks(curve, [across(x) for x in xs]),
        y_ticks=tuple(Tick(up(y), figure(y)) for y in y_values),
        chosen=Tick(across(marked[0]), figure(float(curve.chosen or 0.0))) if marked else None,
        table=tuple(
            (figure(float(x)), tuple(figure(float(line[i])) for line in curve.y.values()))
            for i, x in enumerate(curve.x)
        ),
    )


def _line(name: str, places: Sequence[tuple[float, float | None]]) -> Line:
    pieces: list[list[str]] = [[]]
    marks: list[tuple[float, float]] = []
    for x, y in places:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x},{y}")
            marks.append((x, y))
    return Line(name, tuple(" ".join(piece) for piece in pieces if len(piece) > 1), tuple(marks))


def _x_ticks(curve: Curve, places: Sequence[float], apart: float = 34.0) -> tuple[Tick, ...]:
    """The values themselves where they are far enough apart to be read, else every few of them."""
    ticks: list[Tick] = []
    for x, place in zip(curve.x, places, strict=True):
        if not ticks or place - ticks[-1].at >= apart:
            ticks.append(Tick(place, figure(float(x))))
    return tuple(ticks)
