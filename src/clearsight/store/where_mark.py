"""A place in the text of a filter, drawn for a terminal."""

from __future__ import annotations

AROUND = 32
"""Characters that are shown before the place, and behind."""


def marked(text: str, at: int, end: int) -> str:
    """A text, cut to a line of a terminal, over a line of ^ under its characters from `at` to `end`."""
    from rich.cells import cell_len

    line = one_line(text)
    first, last = max(0, at - AROUND), at + AROUND
    end = min(max(end, at + 1), last)
    lead, tail = "…" if first else "", "…" if line[last:] else ""
    before, under = lead + line[first:at], line[at:end] or " "
    return f"{lead}{line[first:last]}{tail}\n{' ' * cell_len(before)}{'^' * max(1, cell_len(under))}"


def one_line(text: str) -> str:
    """A text whose ends of lines and control characters are spaces."""
    return "".join(char if char.isprintable() else " " for char in text)
