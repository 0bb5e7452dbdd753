"""Names and values: what the commands that only look answer with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clearsight.jobs.ui import Quiet, Ui


@dataclass(frozen=True)
class Facts:
    """Names and values, as shown and as JSON; `text` replaces the table where the answer is a text."""

    values: dict[str, Any]
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        return self.values


def shown(facts: Facts, ui: Ui | None) -> Facts:
    """Show the facts, and give them back."""
    ui = ui or Quiet()
    if facts.text:
        ui.show(facts.text)
        return facts
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.values.items():
        table.add_row(f"[bold]{name}[/bold]", _cell(value))
    ui.show(table)
    return facts


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
