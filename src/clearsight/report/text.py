"""How numbers and foreign texts are written, on the page and in the terminal alike."""

from __future__ import annotations

import math
import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: they break a terminal, or cannot be written as UTF-8."""

_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
STARS_LEGEND = "*** p < 0.001   ** p < 0.01   * p < 0.05   n.s. not significant"
NONE = "–"


def clean(text: str) -> str:
    """`text` without control characters and lone surrogates, each shown as the replacement character."""
    return _UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """`clean` text with every run of white space as one blank: a name in a terminal."""
    return " ".join(clean(text).split())


def shorten(text: str, limit: int = 320) -> str:
    """At most `limit` characters; what is cut ends in an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def arrows(name: str) -> str:
    """A task's name with real arrows: `image -> text` as `image → text`."""
    return name.replace("->", "→")


def measure_name(name: str) -> str:
    """`hit_rate@1` as `hit rate@1`."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share 0..1 in per cent with one decimal, such as `58.9`."""
    return f"{100 * share:.1f}" if math.isfinite(share) else NONE


def fine_percent(share: float) -> str:
    """A share 0..1 in per cent in whole numbers, below 10 to two digits: `0.05`."""
    if not math.isfinite(share):
        return NONE
    value = 100 * share
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def points(difference: float) -> str:
    """A signed difference of shares in percentage points, such as `+53.2`."""
    return f"{100 * difference:+.1f}".replace("-", "−") if math.isfinite(difference) else NONE


def interval(low: float, high: float, *, between: str = "–") -> str:
    """An interval of shares in per cent, such as `56.8–61.0`; empty where there is none."""
    return f"{percent(low)}{between}{percent(high)}" if math.isfinite(low) and math.isfinite(high) else ""


def p_text(p_value: float) -> str:
    """`p < 0.001`, `p = 0.012` or `p = 0.47`."""
    if not math.isfinite(p_value):
        return f"p {NONE}"
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def stars(p_value: float) -> str:
    """`***`, `**`, `*`, or `n.s.` as `STARS_LEGEND` says."""
    return next((mark for bound, mark in _STARS if p_value < bound), "n.s.")


def figure(value: float) -> str:
    """A plain number with three significant digits."""
    if not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
