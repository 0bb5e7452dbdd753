"""Values of a user's TOML file, checked: what is unknown or of the wrong kind is named with what there is."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from clearsight.errors import DataError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table of an existing file; `what` names it in a message.

    Raises:
        DataError: it is not TOML, or not UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"The {what} is not TOML: {error}.", where=str(path), do="Correct the file."
        ) from None


def known_keys(table: Any, known: Iterable[str], where: str) -> None:
    """Raises DataError where it is no table, or holds an unknown key (the nearest known one is named)."""
    if not isinstance(table, Mapping):
        raise DataError(f"{table!r} is no table.", where=where, do="See the built-in ones.")
    there = sorted(known)
    for key in table:
        if key not in there:
            near = difflib.get_close_matches(key, there, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise DataError(f"Unknown key '{key}'.", where=where, do=f"{hint}There are: {', '.join(there)}.")


def string(table: Mapping[str, Any], key: str, where: str) -> str:
    """A string, "" where the key is absent. Raises DataError for another value."""
    value = table.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{key} is {value!r}.", where=where, do="Give a string.")
    return value


def choices(table: Mapping[str, Any], key: str, allowed: Collection[str], where: str) -> tuple[Any, ...]:
    """A filter: one value or a list of values, () where the key is absent. Raises DataError for others."""
    given = table.get(key, [])
    values = tuple(given) if isinstance(given, list) else (given,)
    for value in values:
        if value not in allowed:
            raise DataError(f"{key} is {value!r}.", where=where, do=f"There are: {', '.join(allowed)}.")
    return values
