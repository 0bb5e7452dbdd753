"""Which values a field compares with, and comparisons brought to the field's own type.

A comparison of a whole number with 2020.5 becomes one with whole numbers here, and not in three databases
with three rules; so does every other question of types.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from clearsight.store.where_nodes import And, Compare, Field, Kind, Node, Operator, Or, Value

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST = 2**63 - 1

WANTED: dict[Kind, str] = {
    "text": "text in 'single quotes'",
    "integer": "a number",
    "real": "a number",
    "boolean": "true or false",
    "date": "a date such as '2024-05-01'",
    "time": "a time such as '2024-05-01 18:30:00'",
    "instant": "a time such as '2024-05-01 18:30:00+02:00' (without a zone: UTC)",
    "other": "no comparison: ask whether it is null",
}

Raw = str | Decimal | bool
"""What can stand in a filter's text."""


class NoValueError(ValueError):
    """The value does not compare with the field; the message says what would."""


def kind_of(kind: pa.DataType) -> Kind:
    """How values of an Arrow type compare."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "real"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "time" if kind.tz is None else "instant"
    return "other"


def compared(field: Field, operator: Operator, raw: Raw) -> Node:
    """`field operator raw` in values of the field's type.

    Raises:
        NoValueError: they do not compare.
    """
    value: Value | Decimal = raw
    if field.kind == "text" and isinstance(raw, str):
        value = _storable(raw)
    elif field.kind == "boolean" and isinstance(raw, bool) and operator in ("=", "!="):
        value = raw
    elif field.kind == "integer" and isinstance(raw, Decimal):
        return _whole(field, operator, raw)
    elif field.kind == "real" and isinstance(raw, Decimal):
        value = _real(raw)
    elif field.kind in ("date", "time", "instant") and isinstance(raw, str):
        return _dated(field, operator, raw)
    else:
        raise NoValueError(f"takes {WANTED[field.kind]}")
    return Compare(field, operator, value)


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise NoValueError("cannot hold the character NUL or half of a surrogate pair")
    return text


def _whole(field: Field, operator: Operator, raw: Decimal) -> Node:
    if abs(raw) > LARGEST:
        raise NoValueError("holds whole numbers of 64 bits")
    floor = math.floor(raw)
    if raw == floor:
        return Compare(field, operator, floor)
    if operator in ("<", "<="):
        return Compare(field, "<=", floor)
    if operator in (">", ">="):
        return Compare(field, ">", floor)
    low, high = Compare(field, "<=", floor), Compare(field, ">", floor)
    return And((low, high)) if operator == "=" else Or((low, high))  # null stays unknown


def _real(raw: Decimal) -> float:
    value = float(raw) + 0.0  # no negative zero: engines disagree on whether it equals zero
    if not math.isfinite(value):
        raise NoValueError("holds numbers of 64 bits, at most 1.8e308")
    return value


def _dated(field: Field, operator: Operator, raw: str) -> Node:
    try:
        moment = datetime.fromisoformat(raw)
    except ValueError:
        raise NoValueError(f"takes {WANTED[field.kind]}") from None
    if field.kind == "instant":
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else _in_utc(moment)
        return Compare(field, operator, moment)
    if moment.tzinfo is not None:
        raise NoValueError("has no time zone; leave it out")
    if field.kind == "time":
        return Compare(field, operator, moment)
    if moment.time() != datetime.min.time():
        raise NoValueError(f"takes {WANTED['date']}, without a time of day")
    return Compare(field, operator, date(moment.year, moment.month, moment.day))


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise NoValueError("takes times from the year 1 to 9999") from None
