"""The same filter in three languages. Each is tested to choose the rows that a naive evaluation chooses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from clearsight.store.door import META
from clearsight.store.where_nodes import Among, And, Compare, Field, IsNull, Kind, Like, Node, Not, Or, Value


def to_lance(node: Node, *, negated: bool = False) -> str:
    """The filter with every `not` carried down to the single conditions, and unknown told as false there.

    DataFusion (in pylance 14) takes unknown for false at places: `x in (1) and x in (2)` becomes false, and
    under a `not` would choose the rows where x is null. So written it cannot matter.
    """
    no = "not " if negated else ""
    match node:
        case Compare(field, operator, value):
            sign = _OPPOSITE[operator] if negated else operator
            return _known(field, f"{sign} {_lance_value(value)}")
        case Among(field, values):
            return _known(field, f"{no}in ({', '.join(map(_lance_value, values))})")
        case Like(field, pattern):
            return _known(field, f"{no}like {_quoted(pattern)}")
        case IsNull(field):
            return f"{_lance_name(field)} is {no}null"
        case Not(part):
            return to_lance(part, negated=not negated)
        case And(parts) | Or(parts):
            word = " and " if isinstance(node, And) != negated else " or "
            return word.join(f"({to_lance(part, negated=negated)})" for part in parts)


_OPPOSITE: dict[str, str] = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def _known(field: Field, condition: str) -> str:
    name = _lance_name(field)
    return f"{name} is not null and {name} {condition}"


def stored_name(column: str) -> str:
    """The column's name in a Lance table, which allows no dot and in filters no backtick."""
    return column.replace("%", "%25").replace(".", "%2E").replace("`", "%60")


def own_name(stored: str) -> str:
    """The inverse of `stored_name`."""
    return stored.replace("%60", "`").replace("%2E", ".").replace("%25", "%")


def _lance_name(field: Field) -> str:
    return f"`{stored_name(field.column)}`"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lance_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, datetime):
        return f"timestamp '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    return repr(value)


_POSTGRES: dict[Kind, str] = {
    "text": "text",
    "integer": "bigint",
    "real": "double precision",
    "boolean": "boolean",
    "date": "date",
    "time": "timestamp",
    "instant": "timestamptz",
    "other": "text",
}


def to_postgres(node: Node) -> tuple[str, list[Any]]:
    match node:
        case Compare(field, operator, value):
            left, right = _postgres_sides(field)
            return f"{left[0]} {operator} {right}", [*left[1], value]
        case Among(field, values):
            left, right = _postgres_sides(field)
            return f"{left[0]} in ({', '.join([right] * len(values))})", [*left[1], *values]
        case Like(field, pattern):
            left, right = _postgres_sides(field)
            return f"{left[0]} like {right}", [*left[1], pattern]
        case IsNull(field):
            left, _ = _postgres_sides(field)
            return f"{left[0]} is null", left[1]
        case Not(part):
            text, parameters = to_postgres(part)
            return f"not ({text})", parameters
        case And(parts) | Or(parts):
            rendered = [to_postgres(part) for part in parts]
            word = " and " if isinstance(node, And) else " or "
            return word.join(f"({text})" for text, _ in rendered), [
                one for _, more in rendered for one in more
            ]


def _postgres_sides(field: Field) -> tuple[tuple[str, list[Any]], str]:
    kind = _POSTGRES[field.kind]
    collation = ' collate "C"' if kind == "text" else ""  # by code points, as in the other stores
    if field.column.startswith(META):
        left = (f"(meta ->> %s)::{kind}{collation}", [field.column.removeprefix(META)])
    else:
        left = (f"{field.column}{collation}", [])
    return left, f"%s::{kind}"


def to_arrow(node: Node) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    match node:
        case Compare(field, operator, value):
            return _OPERATORS[operator](pc.field(field.column), pc.scalar(value))
        case Among(field, values):
            found = pc.field(field.column).isin(list(values))
            unknown = pc.scalar(pa.scalar(None, pa.bool_()))
            return pc.if_else(pc.field(field.column).is_null(), unknown, found)
        case Like(field, _):
            return pc.match_substring_regex(pc.field(field.column), node.regex())
        case IsNull(field):
            return pc.field(field.column).is_null()
        case Not(part):
            return ~to_arrow(part)
        case And(parts):
            return _balanced([to_arrow(part) for part in parts], lambda left, right: left & right)
        case Or(parts):
            return _balanced([to_arrow(part) for part in parts], lambda left, right: left | right)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def _balanced(parts: Sequence[Any], join: Callable[[Any, Any], Any]) -> Any:
    if len(parts) <= 2:
        return functools.reduce(join, parts)
    middle = len(parts) // 2
    return join(_balanced(parts[:middle], join), _balanced(parts[middle:], join))
