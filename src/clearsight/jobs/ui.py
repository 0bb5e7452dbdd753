"""How a job talks to whoever runs it. A job never prints."""

from __future__ import annotations

from typing import Any, Protocol

from clearsight.progress import Progress, Silent


class Ui(Protocol):
    """A progress bar, short remarks, and results to look at (texts, rich renderables) of `width` columns."""

    progress: Progress
    width: int

    def say(self, text: str) -> None: ...

    def show(self, renderable: Any) -> None: ...


class Quiet:
    """The library's default: nothing is shown."""

    def __init__(self) -> None:
        self.progress: Progress = Silent()
        self.width = 100

    def say(self, text: str) -> None:
        pass

    def show(self, renderable: Any) -> None:
        pass


class Labelled:
    """The same progress, under a name that says which piece of the job it is."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label
        self.advance, self.close = progress.advance, progress.close

    def start(self, total: int | None, label: str) -> None:
        self._progress.start(total, self._label)
