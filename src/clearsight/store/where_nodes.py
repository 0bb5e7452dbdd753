"""What a filter can say: a small closed set of conditions on single fields, joined by and, or, not.

Values are plain Python; a comparison with null is unknown, as in SQL, and a row is chosen where the whole is
true. There is no other kind of node: whatever is not here cannot reach a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["text", "integer", "real", "boolean", "date", "time", "instant", "other"]
"""time: without a time zone; instant: with one; other: can only be null or not."""

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]
Value: TypeAlias = str | int | float | bool | date | datetime


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the store.

    Attributes:
        column: its name in the store, with `META` before the name of a metadata column.
    """

    column: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Compare:
    field: Field
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Among:
    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """`pattern`: % for any text, _ for one character, a backslash before either (or itself) for the thing."""

    field: Field
    pattern: str

    def regex(self) -> str:
        """The pattern as a regular expression for the whole text, for engines where . may match a newline."""
        parts = []
        for escaped, plain in re.findall(r"\\(.)|(.)", self.pattern, re.DOTALL):
            parts.append({"%": ".*", "_": "."}.get(plain) or re.escape(escaped or plain))
        return rf"(?s)\A{''.join(parts)}\z"


@dataclass(frozen=True, slots=True)
class IsNull:
    field: Field


@dataclass(frozen=True, slots=True)
class Not:
    part: Node


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]


Node: TypeAlias = Compare | Among | Like | IsNull | Not | And | Or


def leaves(node: Node) -> Iterator[Compare | Among | Like | IsNull]:
    """The conditions on single fields."""
    if isinstance(node, Not):
        yield from leaves(node.part)
    elif isinstance(node, And | Or):
        for part in node.parts:
            yield from leaves(part)
    else:
        yield node
