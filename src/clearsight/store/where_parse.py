"""From the text of a filter to its nodes, by sqlglot's parser; what is not in the closed set is refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from clearsight.errors import UsageError
from clearsight.store.door import META
from clearsight.store.where import DEEPEST, FIELDS, MOST_CHARACTERS, MOST_CONDITIONS
from clearsight.store.where_mark import marked, one_line
from clearsight.store.where_nodes import (
    Among,
    And,
    Compare,
    Field,
    IsNull,
    Like,
    Node,
    Not,
    Operator,
    Or,
    Value,
    leaves,
)
from clearsight.store.where_values import NoValueError, Raw, compared, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "Such as: year > 2020 and (place = 'Bern' or place is null)."
_MOST_TOKENS = 2_000


def parse(text: str, fields: Mapping[str, pa.DataType]) -> Node:
    """The nodes of a filter; see `parse_where`."""
    node = _Reader(text, fields).read()
    count = sum(1 for _ in leaves(node))
    if count > MOST_CONDITIONS:
        raise UsageError(f"The filter has {count} conditions.", do=f"Give at most {MOST_CONDITIONS}; use in.")
    return node


class _Reader:
    """One parse. Methods that read take sqlglot's nodes; a refusal names the place in the text."""

    def __init__(self, text: str, fields: Mapping[str, pa.DataType]) -> None:
        self.text, self.fields = text, fields
        self.folded: dict[str, list[str]] = {}
        for name in fields:
            self.folded.setdefault(name.casefold(), []).append(name)

    def read(self) -> Node:
        if not self.text.strip():
            raise UsageError("The filter is empty.", do=EXAMPLE)
        if len(self.text) > MOST_CHARACTERS:
            raise UsageError(
                f"The filter has {len(self.text)} characters.", do=f"Give at most {MOST_CHARACTERS}."
            )
        return self.condition(self._tree(), 1)

    def _tree(self) -> Any:
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import ParseError, SqlglotError

        try:
            tokens = sqlglot.tokenize(self.text)
            if len(tokens) > _MOST_TOKENS:
                raise UsageError(f"The filter has {len(tokens)} words.", do=f"Give at most {_MOST_TOKENS}.")
            tree = sqlglot.parse_one(self.text, into=exp.Condition)
        except ParseError as fault:
            raise self._unparsed(fault.errors[0] if fault.errors else {}) from None
        except RecursionError:
            raise UsageError(
                "The filter is nested too deeply.", do=f"Nest at most {DEEPEST} levels."
            ) from None
        except (SqlglotError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
            # An unclosed quote, and whatever else the parser of a hundred dialects trips over.
            raise self._unparsed({}) from None
        if any(node.comments for node in tree.walk()):
            raise UsageError("The filter holds a comment.", do="Leave it out.")
        return tree

    def _unparsed(self, error: Mapping[str, Any]) -> UsageError:
        found = str(error.get("highlight") or "")
        before, after = (str(error.get(name) or "") for name in ("start_context", "end_context"))
        at = self.text.find(before + found + after) + len(before) if found else len(self.text)
        return self._refused(
            "The filter cannot be understood.",
            f"Text goes in 'single quotes', unusual names in \"double quotes\". {EXAMPLE}",
            at,
            at + len(found),
        )

    def refuse(self, node: Any, what: str, do: str) -> UsageError:
        """An error that shows where in the text a node stands."""
        parts = [part.meta for part in node.walk() if "start" in part.meta]
        at = min((part["start"] for part in parts), default=0)
        return self._refused(what, do, at, max((part["end"] + 1 for part in parts), default=at))

    def _refused(self, what: str, do: str, at: int, end: int) -> UsageError:
        place = f"character {at + 1}: {one_line(self.text[at : at + 40])}" if self.text[at:] else "the end"
        return UsageError(what, where=place, do=do, shown=marked(self.text, at, end))

    def condition(self, node: Any, depth: int) -> Node:
        from sqlglot import exp

        if depth > DEEPEST:
            raise self.refuse(node, "The filter is nested too deeply.", f"Nest at most {DEEPEST} levels.")
        if isinstance(node, exp.Paren):
            return self.condition(node.this, depth)
        if isinstance(node, exp.Not):
            return Not(self.condition(node.this, depth + 1))
        if isinstance(node, exp.And | exp.Or):
            parts = tuple(self.condition(part, depth + 1) for part in node.flatten(unnest=False))
            return And(parts) if isinstance(node, exp.And) else Or(parts)
        reader = _CONDITIONS.get(type(node).__name__)
        if reader is None:
            raise self._no_condition(node)
        return reader(self, node)

    def _no_condition(self, node: Any) -> UsageError:
        from sqlglot import exp

        if node.find(exp.Query) is not None:
            what = "The filter asks a query of its own."
        elif isinstance(node, exp.Func):
            what = "The filter calls a function."
        else:
            what = "This is no condition that a filter may hold."
        allowed = "=, !=, <, <=, >, >=, in, between, like, is null, and, or, not"
        return self.refuse(node, what, f"Compare a field with a value, by {allowed}.")

    def compare(self, node: Any) -> Node:
        left, right, operator = node.this, node.expression, _OPERATORS[type(node).__name__]
        if not self._is_column(left) and self._is_column(right):
            left, right, operator = right, left, _FLIPPED[operator]
        return self._compared(node, self.field(left), operator, right)

    def flag(self, node: Any) -> Node:
        return self._compare(node, self.field(node), "=", True)

    def between(self, node: Any) -> Node:
        if node.args.get("symmetric"):
            raise self.refuse(node, "'between symmetric' is not known here.", "Give the lower end first.")
        field = self.field(node.this)
        low = self._compared(node, field, ">=", node.args["low"])
        return And((low, self._compared(node, field, "<=", node.args["high"])))

    def among(self, node: Any) -> Node:
        members = node.args.get("expressions")
        others = [name for name, value in node.args.items() if value and name not in ("this", "expressions")]
        if not members or others:
            raise self.refuse(node, "'in' needs a list of values.", "Such as: place in ('Bern', 'Basel').")
        field = self.field(node.this)
        values: list[Value] = []
        exact = True
        for member in members:
            one = self._compared(member, field, "=", member, at=node)
            if isinstance(one, Compare):
                values.append(one.value)
            else:
                exact = False  # 2.5 among whole numbers: never equal
        if values:
            return Among(field, tuple(values))
        assert not exact
        return one

    def like(self, node: Any) -> Node:
        field, pattern = self.field(node.this), self.value(node.expression)
        if any(value for name, value in node.args.items() if name not in ("this", "expression")):
            raise self._no_condition(node)
        if field.kind != "text" or not isinstance(pattern, str):
            raise self.refuse(node, "'like' compares a field of text with a pattern.", "Such as: 'B_rn%'.")
        try:
            compared(field, "=", pattern)
            return Like(field, _canonical(pattern))
        except NoValueError as fault:
            raise self.refuse(node, f"The pattern {fault}.", "Correct the pattern.") from None

    def is_(self, node: Any) -> Node:
        from sqlglot import exp

        if isinstance(node.expression, exp.Null):
            return IsNull(self.field(node.this))
        if isinstance(node.expression, exp.Boolean):
            field = self.field(node.this)
            return And((Not(IsNull(field)), self._compare(node, field, "=", bool(node.expression.this))))
        raise self.refuse(node, "'is' asks for null, true or false.", "Compare values with =.")

    def field(self, node: Any) -> Field:
        """The field that a node names."""
        if not self._is_column(node):
            raise self._no_condition(node)
        parts = [*node.parts]
        name = ".".join(part.name for part in parts)
        names = [name]
        if name not in self.fields and not any(part.args.get("quoted") for part in parts):
            names = self.folded.get(name.casefold(), [])
        if len(names) != 1 or names[0] not in self.fields:
            raise self._unknown(node, name)
        known = names[0]
        kind = kind_of(self.fields[known])
        reserved = known in FIELDS or (known.startswith(META) and known.removeprefix(META) in FIELDS)
        return Field(known if reserved else META + known, kind)

    def _unknown(self, node: Any, name: str) -> UsageError:
        near = difflib.get_close_matches(name, self.fields, n=3, cutoff=0.5)
        near += [known for known in self.folded.get(name.casefold(), []) if known not in near]
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        quoted = any(part.args.get("quoted") for part in node.parts)
        words = f"If '{name}' is a value, give it single quotes. " if quoted else ""
        shown = sorted(self.fields)
        more = f" and {len(shown) - 30} more" if len(shown) > 30 else ""
        return self.refuse(
            node, f"There is no field '{name}'.", f"{hint}{words}There are: {', '.join(shown[:30])}{more}."
        )

    @staticmethod
    def _is_column(node: Any) -> bool:
        from sqlglot import exp

        return isinstance(node, exp.Column | exp.Dot) and all(
            isinstance(p, exp.Identifier) for p in node.parts
        )

    def _compared(self, node: Any, field: Field, operator: Operator, value: Any, *, at: Any = None) -> Node:
        from sqlglot import exp

        if isinstance(value, exp.Null):
            raise self.refuse(at or node, "Nothing equals null.", "Ask: is null, or: is not null.")
        if self._is_column(value):
            raise self.refuse(
                value,
                "The filter compares a field with a name.",
                "Give a value; text goes in 'single quotes'.",
            )
        return self._compare(at or node, field, operator, self.value(value))

    def _compare(self, node: Any, field: Field, operator: Operator, raw: Raw) -> Node:
        try:
            return compared(field, operator, raw)
        except NoValueError as fault:
            own = field.column.removeprefix(META)
            raise self.refuse(
                node, f"The field '{own}' {fault}.", "Correct the value, or name another field."
            ) from None

    def value(self, node: Any) -> Raw:
        """A literal: text, a number with its sign, true or false, a date or time in quotes."""
        from sqlglot import exp

        if isinstance(node, exp.Paren):
            return self.value(node.this)
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Literal):
            return str(node.this) if node.is_string else self._number(node)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return -self._number(node.this)
        if isinstance(node, exp.Cast) and node.to.sql() in ("DATE", "TIMESTAMP", "TIMESTAMPTZ"):
            inner = node.this
            if isinstance(inner, exp.Literal) and inner.is_string:
                return str(inner.this)
        raise self._no_condition(node)

    def _number(self, node: Any) -> Decimal:
        try:
            number = Decimal(node.this)
        except ArithmeticError:
            raise self.refuse(node, f"'{node.this}' is no number.", "Write numbers as 2020 or 0.5.") from None
        if not number.is_finite() or abs(number.adjusted()) > 400:
            raise self.refuse(node, f"'{node.this}' is beyond every number kept.", "Give a smaller one.")
        return number


def _canonical(pattern: str) -> str:
    """The pattern with a backslash only where it changes the meaning.

    Raises:
        NoValueError: it ends in a backslash.
    """
    parts, escaped = [], False
    for character in pattern:
        if escaped:
            parts.append("\\" + character if character in "%_\\" else character)
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            parts.append(character)
    if escaped:
        raise NoValueError("ends in a backslash, which takes the next character as itself")
    return "".join(parts)


_OPERATORS: dict[str, Operator] = {"EQ": "=", "NEQ": "!=", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_FLIPPED: dict[Operator, Operator] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONDITIONS = {
    **dict.fromkeys(_OPERATORS, _Reader.compare),
    "Column": _Reader.flag,
    "Dot": _Reader.flag,
    "Between": _Reader.between,
    "In": _Reader.among,
    "Like": _Reader.like,
    "Is": _Reader.is_,
}
