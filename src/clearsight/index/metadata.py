"""Columns beside id, text and image: what type their values have, and the values in it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clearsight.errors import DataError, ItemError

if TYPE_CHECKING:
    import pyarrow as pa

_WORDS = {"true": True, "false": False}


def fits_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Column -> the types that all its values fit; columns without a value are left out."""
    fits: dict[str, frozenset[str]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                left = fits.get(name, _ALL)
                fits[name] = frozenset(kind for kind in left if _converted(value, kind) is not None)
    return fits


def narrowest(parts: Iterable[Mapping[str, frozenset[str]]]) -> dict[str, str]:
    """Column -> the most special type that all parts fit."""
    fits: dict[str, frozenset[str]] = {}
    for part in parts:
        for name, kinds in part.items():
            fits[name] = fits.get(name, kinds) & kinds
    return {name: next(kind for kind in KINDS if kind in kinds) for name, kinds in fits.items()}


def typed_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Column -> the most special type that all its values fit; columns without a value are left out."""
    return narrowest([fits_of(rows)])


def converted(values: Mapping[str, Any], kinds: Mapping[str, str], *, item_id: str) -> dict[str, Any]:
    """Values in the types of their columns; without columns that have no type (they hold nothing).

    Raises:
        ItemError: a value does not fit its column.
    """
    out: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = values.get(name)
        out[name] = None if value is None else _converted(value, kind)
        if value is not None and out[name] is None:
            raise ItemError(
                f"'{name}' is {value!r}, and the column holds {KINDS[kind]}.",
                where=item_id,
                do="Correct the value, or build the index again (--overwrite), which finds the type anew.",
            )
    return out


def columns_of(fields: Mapping[str, pa.DataType]) -> list[str]:
    """A store's metadata columns, of what its filters may name (`View.fields`)."""
    from clearsight.store.door import META
    from clearsight.store.where import FIELDS

    return [name if name.startswith(META) else META + name for name in fields if name not in FIELDS]


def kinds_of(fields: Mapping[str, pa.DataType]) -> dict[str, str]:
    """Metadata column by its own name -> type, of what a store's filters may name."""
    from clearsight.store.door import META

    names = {arrow_type(kind): kind for kind in KINDS}
    return {
        column.removeprefix(META): names.get(
            fields.get(column.removeprefix(META), fields.get(column)), "timestamp"
        )
        for column in columns_of(fields)
    }


def arrow_type(kind: str) -> pa.DataType:
    """The type of a column in the store. Raises DataError for a name that is none."""
    import pyarrow as pa

    types = {
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "string": pa.string(),
    }
    if kind not in types:
        raise DataError(f"'{kind}' is no type of a metadata column.", do=f"There are: {', '.join(types)}.")
    return types[kind]


KINDS = {
    "bool": "true or false",
    "int64": "whole numbers",
    "double": "numbers",
    "date": "dates such as 2024-05-01",
    "timestamp": "times such as 2024-05-01 18:30",
    "string": "texts",
}
"""Types of metadata columns, most special first, in words."""
_ALL = frozenset(KINDS)


def _converted(value: Any, kind: str) -> Any:
    """The value in a type, or None where it does not fit."""
    if kind == "string":
        return value if isinstance(value, str) else _text(value)
    if isinstance(value, str):
        return _spelled(value.strip(), kind)
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind in ("int64", "double"):
        return _number(value, kind)
    if isinstance(value, dt.datetime):
        whole = value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
        return whole if kind == "timestamp" else None
    if isinstance(value, dt.date):
        return value if kind == "date" else dt.datetime(value.year, value.month, value.day)
    return None


def _number(value: Any, kind: str) -> Any:
    if isinstance(value, int):
        fits = -(2**63) <= value < 2**63
        return (value if kind == "int64" else float(value)) if fits else None
    return value if isinstance(value, float) and kind == "double" and value == value else None


def _spelled(text: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return _WORDS.get(text.lower())
        if kind == "int64":  # 007 is a name, and so is +49
            return _number(int(text), kind) if str(int(text)) == text else None
        if kind == "double":
            plain = text.isascii() and not text.startswith("+") and text.lower() not in ("inf", "-inf")
            return _number(float(text), kind) if plain and not _padded(text) else None
        if kind == "date":
            return dt.date.fromisoformat(text) if len(text) == 10 else None
        given = dt.datetime.fromisoformat(text) if "-" in text and len(text) >= 10 else None
        return None if given is None or given.tzinfo is not None else given
    except ValueError:
        return None


def _padded(text: str) -> bool:
    digits = text.lstrip("-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


def _text(value: Any) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str)
