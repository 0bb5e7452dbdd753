"""Names to things: one small registry for every door (families, prompts, repairs, task sources ...).

Built-ins register by decorator or call; strangers' plug-ins are found through entry points of the group
`clearsight.<door>`, loaded on first use. An unknown name answers with what exists and the nearest match.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from clearsight.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to values, open to plug-ins.

    Args:
        door: the singular noun used in messages and in the entry-point group `clearsight.<door>`.
    """

    def __init__(self, door: str) -> None:
        self.door = door
        self._values: dict[str, T] = {}
        self._plugins_read = False

    def add(self, name: str, value: T) -> T:
        """Register `value`; a second value under one name is an error (names are never overridden)."""
        if name in self._values:
            raise UsageError(f"{self.door} '{name}' is already registered.", do="Choose another name.")
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """The value under `name`.

        Raises:
            UsageError: no such name; the message lists the names and the nearest match.
        """
        if name not in self._values:
            self._read_plugins()
        if name not in self._values:
            near = difflib.get_close_matches(name, self._values, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            known = ", ".join(sorted(self._values))
            raise UsageError(f"Unknown {self.door} '{name}'.", do=f"{hint}There are: {known}.")
        return self._values[name]

    def names(self) -> list[str]:
        self._read_plugins()
        return sorted(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=f"clearsight.{self.door}"):
            if point.name not in self._values:
                self._values[point.name] = point.load()
