"""Filters in the words of SQL, parsed into `where_nodes` and never pasted: `parse_where`.

year > 2020 and (place = 'Bern' or place is null)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearsight.store.where_nodes import Node, leaves

if TYPE_CHECKING:
    import pyarrow as pa

FIELDS = ("id", "text", "modality", "source")
"""The columns of the store itself that a filter may name; all other names are metadata."""

MOST_CHARACTERS = 4_000
MOST_CONDITIONS = 100
DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Where:
    """A filter that was understood.

    Attributes:
        text: as it was written.
    """

    text: str
    root: Node

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the store that it reads."""
        return frozenset(leaf.field.column for leaf in leaves(self.root))

    def lance(self) -> str:
        """The filter in the SQL of Lance (DataFusion)."""
        from clearsight.store.where_render import to_lance

        return to_lance(self.root)

    def postgres(self) -> tuple[str, list[Any]]:
        """The filter in PostgreSQL's SQL with %s for each parameter, and the parameters.

        Metadata is read from a jsonb column `meta` by own name; the text holds constants alone.
        """
        from clearsight.store.where_render import to_postgres

        return to_postgres(self.root)

    def arrow(self) -> Any:
        """The filter as a `pyarrow.compute.Expression`."""
        from clearsight.store.where_render import to_arrow

        return to_arrow(self.root)


def parse_where(text: str, fields: Mapping[str, pa.DataType]) -> Where:
    """A filter from its text.

    Conditions compare one field with values: =, !=, <, <=, >, >=, in, between, like, is null, a boolean field
    by itself, and any of these with not, and, or, parentheses. Text stands in 'single quotes', and so do
    dates ('2024-05-01', '2024-05-01 18:30'); names that are no plain words stand in "double quotes".

    Args:
        fields: what may be named, with its type: `View.fields`. Case decides only where two names differ in
            nothing else.

    Raises:
        UsageError: the text does not parse, names another field, compares what does not compare, or holds
            anything else (functions, queries, arithmetic); the message names the place.
    """
    from clearsight.store.where_parse import parse

    return Where(text, parse(text, fields))
