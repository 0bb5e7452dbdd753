"""What a person sees: bars with rate and time left on stderr, results on stdout."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LABEL, LABEL_NARROW = 37, 25
WIDE = 96
"""Columns of a terminal in which a bar with a long label fits."""


class _Rate(ProgressColumn):
    """Units a second, over the recent past."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed:.1f}/s" if speed else "")


class Bar:
    """A `clearsight.progress.Progress` on the terminal; finished bars stay as a record of what was done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, total: int | None, label: str) -> None:
        self.close()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        wide = LABEL if self._console.width >= WIDE else LABEL_NARROW
        self._task = self._progress.add_task(f"{label:<{wide}}"[:wide], total=total)
        self._progress.start()

    def advance(self, n: int = 1) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


class Terminal:
    """The `clearsight.jobs.ui.Ui` of the command line: everything a person reads goes to stderr, except the
    result, which goes to stdout; with `--json` stdout holds the JSON alone.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.err = Console(stderr=True)
        self.out = Console()
        if not self.out.is_terminal:  # a file or a pipe has no width of its own
            self.out.width = 100
        self.width = self.out.width
        self.progress = Bar(self.err)

    def say(self, text: str) -> None:
        self.err.print(text, highlight=False, soft_wrap=True)  # addresses and commands stay whole

    def show(self, renderable: Any) -> None:
        if not self.as_json:
            self.out.print(renderable, highlight=False)

    def result(self, text: str) -> None:
        """The machine-readable result, to stdout as it is."""
        sys.stdout.write(text + "\n")
