"""Filters drawn at random, as text, and what they choose by a naive evaluation in SQL's three-valued logic.

A filter is a tuple: ("cmp", name, operator, value), ("in", name, values), ("between", name, low, high),
("like", name, pattern), ("null", name), ("flag", name), ("is", name, truth), ("not", f), ("and", fs),
("or", fs).
"""

from __future__ import annotations

import datetime as dt
import operator

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

UTC = dt.UTC
TEXTS = [
    "",
    "Bern",
    "bern",
    "O'Brien",
    'say "hi"',
    "100%",
    "a_b",
    "back\\slash",
    "line\nbreak",
    "日本 😀",
    "é",
    "';--",
]
WHOLE = [-3, 0, 1, 2, 2020, 2**53 + 1, 2**63 - 1, -(2**63) + 1]
REAL = [-2.5, 0.0, 0.1, 1.0, 2.0, 1e-7, 1e300]
DATES = [dt.date(1969, 12, 31), dt.date(2020, 2, 29), dt.date(2024, 1, 1)]
TIMES = [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(2020, 2, 29, 12), dt.datetime(2024, 1, 1)]
INSTANTS = [time.replace(tzinfo=UTC) for time in TIMES]
POOLS = {
    pa.string(): TEXTS,
    pa.int64(): WHOLE,
    pa.float64(): REAL,
    pa.bool_(): [True, False],
    pa.date32(): DATES,
    pa.timestamp("us"): TIMES,
    pa.timestamp("us", tz="UTC"): INSTANTS,
}
METADATA = {
    "year": pa.int64(),
    "Year": pa.int64(),
    "order": pa.int64(),
    "größe": pa.float64(),
    "年": pa.string(),
    "o'brien": pa.string(),
    'say "hi"': pa.string(),
    "a.b": pa.string(),
    "back`tick": pa.int64(),
    "per%2Ecent": pa.int64(),
    "shot at": pa.timestamp("us"),
    "instant": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "seen\\": pa.bool_(),
    "text": pa.string(),
}
OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def metadata_rows(count: int, seed: int = 0) -> pa.Table:
    """Metadata columns (with meta_) of every kind, a fifth of the values null."""
    random = np.random.default_rng(seed)
    columns = {}
    for name, kind in METADATA.items():
        pool = POOLS[kind]
        values = [
            None if random.random() < 0.2 else pool[i] for i in random.integers(0, len(pool), count).tolist()
        ]
        columns[f"meta_{name}"] = pa.array(values, kind)
    return pa.table(columns)


def evaluate(node, row):
    """True, False or None (unknown), of a row given as field -> value."""
    match node:
        case ("not", part):
            value = evaluate(part, row)
            return None if value is None else not value
        case ("and", parts):
            values = [evaluate(part, row) for part in parts]
            return False if False in values else None if None in values else True
        case ("or", parts):
            values = [evaluate(part, row) for part in parts]
            return True if True in values else None if None in values else False
        case ("null", name):
            return row[name] is None
        case ("is", name, truth):
            return row[name] is truth
    value = row[node[1]]
    if value is None:
        return None
    match node:
        case ("cmp", _, sign, other):
            return OPERATORS[sign](value, other)
        case ("in", _, others):
            return value in others
        case ("between", _, low, high):
            return low <= value <= high
        case ("like", _, pattern):
            return like(value, pattern)
        case ("flag", _):
            return value
    raise AssertionError(node)


def like(text, pattern):
    """Character by character; a backslash takes the next one as itself."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[i:], pattern[1:]) for i in range(len(text) + 1))
    if pattern[0] == "\\":
        return bool(text) and text[0] == pattern[1] and like(text[1:], pattern[2:])
    return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


def written(node):
    """The filter as text, in parentheses wherever it has parts."""
    match node:
        case ("cmp", name, sign, value):
            return f"{quoted(name)} {sign} {literal(value)}"
        case ("in", name, values):
            return f"{quoted(name)} in ({', '.join(map(literal, values))})"
        case ("between", name, low, high):
            return f"{quoted(name)} between {literal(low)} and {literal(high)}"
        case ("like", name, pattern):
            return f"{quoted(name)} LIKE {literal(pattern)}"
        case ("null", name):
            return f"{quoted(name)} is null"
        case ("is", name, truth):
            return f"{quoted(name)} is {literal(truth)}"
        case ("flag", name):
            return quoted(name)
        case ("not", part):
            return f"not ({written(part)})"
        case (word, parts):
            return f" {word} ".join(f"({written(part)})" for part in parts)
    raise AssertionError(node)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def literal(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def filters(fields):
    """A strategy of filters over fields: name -> (Arrow type, values worth comparing with)."""

    @st.composite
    def leaf(draw):
        name = draw(st.sampled_from(sorted(fields)))
        kind, pool = fields[name]
        if kind == pa.int64():
            pool = [*pool, 2020.5, -0.5]
        value = st.sampled_from(pool)
        choices = ["cmp", "in", "null"]
        choices += ["flag", "is"] if kind == pa.bool_() else ["between"]
        choices += ["like"] if kind == pa.string() else []
        match draw(st.sampled_from(choices)):
            case "cmp":
                signs = ["=", "!="] if kind == pa.bool_() else sorted(OPERATORS)
                return ("cmp", name, draw(st.sampled_from(signs)), draw(value))
            case "in":
                return ("in", name, draw(st.lists(value, min_size=1, max_size=3)))
            case "between":
                return ("between", name, draw(value), draw(value))
            case "like":
                part = st.sampled_from(["%", "_", "\\%", "\\_", "\\\\", "B", "e", "'", '"', "日", "\n", "b"])
                return ("like", name, "".join(draw(st.lists(part, max_size=4))))
            case "is":
                return ("is", name, draw(st.booleans()))
            case other:
                return (other, name)

    return st.recursive(
        leaf(),
        lambda inner: st.one_of(
            st.tuples(st.just("not"), inner),
            st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
        ),
        max_leaves=6,
    )
