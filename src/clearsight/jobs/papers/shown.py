"""A redone table for the terminal, and as a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clearsight.jobs.papers.base import Cell, Published, Redone, columns_of, rows_of

if TYPE_CHECKING:
    from rich.console import RenderableType

NONE = "–"
_GAP = 2


def lines_of(table: Published, cells: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """The lines below a row's name -> what they say of a cell; only those that say something somewhere."""
    digits = 1 if table.unit == "%" else 3

    def number(value: float) -> str:
        return NONE if math.isnan(value) else f"{value:.{digits}f}"

    def signed(value: float) -> str:
        return NONE if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")

    def between(cell: Cell) -> str:
        return NONE if math.isnan(cell.low) else f"{number(cell.low)}–{number(cell.high)}"

    def change(cell: Cell) -> str:
        from clearsight.report.text import stars

        return NONE if math.isnan(cell.change) else f"{signed(cell.change)} {stars(cell.p_value)}"

    lines: dict[str, Callable[[Cell], str]] = {
        "95% interval": between,
        "published": lambda cell: NONE if cell.published is None else f"{cell.published:g}",
        "ours − published": lambda cell: signed(cell.difference),
        "difference": change,
        "chance": lambda cell: number(cell.chance),
    }
    said = {name: say for name, say in lines.items() if any(say(cell) != NONE for cell in cells)}
    return {"": lambda cell: number(cell.ours), **said}


def terminal(table: Published, redone: Redone, width: int) -> RenderableType:
    """At most `width` columns: rows with their lines below, in as many blocks of columns as it takes."""
    from rich.console import Group
    from rich.text import Text

    from clearsight.report.text import STARS_LEGEND, one_line

    columns, rows = columns_of(redone.cells), rows_of(redone.cells)
    known = {(cell.row, cell.column): cell for cell in redone.cells}
    name_width = min(max(width - 3 * 14, 20), max(map(len, [*rows, "  ours − published"])))
    sizes = [max(11, len(column)) + _GAP for column in columns]
    shown: list[Text] = [Text(f"{table.title}. {table.paper}, {table.place}.", "bold")]
    for block in _blocks(columns, sizes, width - name_width):
        header = Text(" " * name_width)
        for column in block:
            header.append(one_line(column).rjust(max(11, len(column)) + _GAP), "bold")
        shown += [Text(), header]
        for row in rows:
            members = [known[row, column] for column in block if (row, column) in known]
            for label, say in lines_of(table, members).items():
                if label == "chance" and row != rows[-1]:
                    continue
                name = _line_name(label, row, members)
                line = Text(one_line(name)[:name_width].ljust(name_width) if not label else "  " + name)
                line.truncate(name_width, pad=True)
                for column in block:
                    cell = known.get((row, column))
                    line.append((say(cell) if cell else "").rjust(max(11, len(column)) + _GAP))
                line.stylize("bold" if not label else "dim")
                line.rstrip()
                shown.append(line)
    notes = [f"- {sentence}" for sentence in (*_unit(table), *redone.differs)]
    if any(not math.isnan(cell.p_value) for cell in redone.cells):
        notes.append(f"Differences between rows: paired tests over queries. {STARS_LEGEND}")
    return Group(*shown, Text(), Text("\n".join(notes), "dim"))


def markdown(table: Published, redone: Redone) -> str:
    """The page: one row of a table for every number."""
    from clearsight.report.text import one_line, p_text

    head = ["row", "column", "ours", "95% interval", "published", "ours − published", "against", "difference"]
    lines = [f"# {table.title}", "", f"{table.paper}, {table.place}.", ""]
    if table.missing:
        lines += [f"Not in the text at hand: {table.missing}.", ""]
    lines += [_joined([*head, "p", "chance", "queries", "note"]), _joined(["---"] * 12)]
    for cell in redone.cells:
        say = lines_of(table, [cell])

        def text(label: str, say: dict[str, Callable[[Cell], str]] = say, cell: Cell = cell) -> str:
            return say[label](cell) if label in say else ""

        tested = not math.isnan(cell.p_value)
        interval = f" [{cell.change_low:+.1f}, {cell.change_high:+.1f}]" if tested else ""
        lines.append(
            _joined(
                [
                    one_line(cell.row),
                    one_line(cell.column),
                    text(""),
                    text("95% interval"),
                    text("published"),
                    text("ours − published"),
                    one_line(cell.against),
                    text("difference").rpartition(" ")[0] + interval,
                    p_text(cell.p_value) if tested else "",
                    text("chance"),
                    str(cell.queries or ""),
                    one_line(cell.note),
                ]
            )
        )
    lines += ["", *(f"- {sentence}" for sentence in (*_unit(table), *redone.differs))]
    lines += ["", *(f"![{name}](figures/{name}.svg)" for name in redone.figures)]
    return "\n".join(lines) + "\n"


def _joined(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _line_name(label: str, row: str, members: Sequence[Cell]) -> str:
    if label == "difference":
        against = next((cell.against for cell in members if cell.against), "")
        shared = row.partition(", ")[0] + ", "
        return f"vs {against.removeprefix(shared)}"
    return label or row


def _unit(table: Published) -> tuple[str, ...]:
    return ("Per cent.",) if table.unit == "%" else ()


def _blocks(columns: Sequence[str], sizes: Sequence[int], room: int) -> list[list[str]]:
    """Columns in blocks that fit side by side; a column too wide for all has a block of its own."""
    blocks: list[list[str]] = []
    left = 0
    for column, size in zip(columns, sizes, strict=True):
        if not blocks or size > left:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= size
    return blocks
