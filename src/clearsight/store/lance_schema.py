"""The columns of a Lance table: names as the door knows them, and as they are stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from clearsight.errors import DataError
from clearsight.store.columns import PLAIN
from clearsight.store.door import COLUMNS, META
from clearsight.store.where_render import own_name, stored_name

_VECTOR = re.compile(r"vector(?:_([A-Za-z0-9_-]+))?")


# With this note Lance tells two writers that both insert an id from two that insert different ones.
_ID = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})


def vector_name(repair: str) -> str:
    """The column that holds the vectors of a repair."""
    return f"vector_{repair}" if repair else "vector"


def empty_schema(width: int, vector_width: int, repair: str, metadata: dict[str, pa.DataType]) -> pa.Schema:
    """The schema of a table without rows."""
    kinds = {**PLAIN, "raw": pa.list_(pa.float32(), width), "vector": pa.list_(pa.float32(), vector_width)}
    names = {name: vector_name(repair) if name == "vector" else name for name in COLUMNS}
    fields = [pa.field(names[name], kinds[name]) for name in COLUMNS if name != "id"]
    fields += [pa.field(stored_name(name), kind) for name, kind in metadata.items()]
    return pa.schema([_ID, *fields])


@dataclass(frozen=True)
class Layout:
    """What a version's schema says."""

    schema: pa.Schema

    def __post_init__(self) -> None:
        lost = [name for name in COLUMNS if name != "vector" and name not in self.schema.names]
        if lost or not self.vectors:
            raise DataError(
                f"The table lacks the column {(lost or ['vector'])[0]}.",
                do="This is no table of an index; choose another folder.",
            )

    @property
    def vectors(self) -> list[str]:
        """Columns of repaired vectors, the one in force last."""
        return [name for name in self.schema.names if _VECTOR.fullmatch(name)]

    @property
    def repair(self) -> str:
        found = _VECTOR.fullmatch(self.vectors[-1])
        return (found and found[1]) or ""

    @property
    def width(self) -> int:
        return int(self.schema.field("raw").type.list_size)

    @property
    def vector_width(self) -> int:
        return int(self.schema.field(self.vectors[-1]).type.list_size)

    @cached_property
    def metadata(self) -> dict[str, pa.DataType]:
        fields = [field for field in self.schema if field.name.startswith(META)]
        return {own_name(field.name): field.type for field in fields}

    def stored(self, column: str) -> str:
        """A column of the door, as it is stored."""
        return self.vectors[-1] if column == "vector" else stored_name(column)

    def shown(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Stored columns under the names of the door."""
        return table.select([self.stored(name) for name in columns]).rename_columns(list(columns))

    def kept(self, rows: pa.Table) -> pa.Table:
        """Rows of the door (`normal_rows`) in the columns of the table."""
        named = rows.rename_columns([self.stored(name) for name in rows.column_names])
        empty = [name for name in self.schema.names if name not in named.column_names]
        for name in empty:  # vectors of a repair that is no longer, or not yet, in force
            named = named.append_column(name, pa.nulls(len(rows), self.schema.field(name).type))
        return named.select(self.schema.names).cast(self.schema)
