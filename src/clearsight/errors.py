"""Errors say what happened, where, and what to do next.

Every error that Clearsight raises on purpose derives from `ClearsightError`; the command line prints its
message without a traceback and leaves with the exit code of its class.
"""

from __future__ import annotations


class ClearsightError(Exception):
    """What happened, where, and what to do about it.

    Args:
        what: the fault in one sentence.
        where: the item, file, row or flag that is at fault.
        do: the next step for the user.
        shown: the place drawn in lines of one width, which a terminal shows as `where`.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str | None = None, do: str | None = None, shown: str | None = None
    ) -> None:
        self.what, self.where, self.do, self.shown = what, where, do, shown
        place = f" [{where}]" if where else ""
        advice = f" {do}" if do else ""
        super().__init__(f"{what}{place}{advice}")


class UsageError(ClearsightError):
    """A flag, name or argument that does not fit (exit code 2)."""

    exit_code = 2


class DataError(ClearsightError):
    """Input data that cannot be used: files, items, vectors, relevance (exit code 3)."""

    exit_code = 3


class ItemError(DataError):
    """One item that cannot be embedded. `where` is its id; `--on-error skip` reports it and goes on."""


class ModelError(ClearsightError):
    """A model folder that is missing, of the wrong kind, or needs something that was not allowed (exit 4)."""

    exit_code = 4
