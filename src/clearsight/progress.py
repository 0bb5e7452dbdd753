"""How long work tells how far it is: a door of three methods. Terminal bars live in the command line."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of one piece of work at a time. `advance` is called only for what is done and will not be lost."""

    def start(self, total: int | None, label: str) -> None:
        """A piece of work begins: `total` units, None where unknown."""

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""

    def close(self) -> None:
        """The piece of work has ended, or was interrupted."""


class Silent:
    """Says nothing: the default of the library."""

    def start(self, total: int | None, label: str) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def close(self) -> None:
        pass
