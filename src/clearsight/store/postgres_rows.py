"""Rows between Arrow and PostgreSQL: metadata is one jsonb object by own names, vectors are pgvector's.

Legend of shapes: N rows, D width.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clearsight.store.columns import PLAIN, VECTORS, matrix, vector_column
from clearsight.store.door import COLUMNS, META

COPIED = ("id", "key", "source", "stamp", "modality", "text", "thumbnail", "meta", "raw", "vector")
TYPES = ("text", "text", "text", "text", "text", "text", "bytea", "jsonb", "vector", "vector")


def copied_rows(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows (`normal_rows`) as tuples in the order of `COPIED`."""
    from psycopg.types.json import Jsonb

    metadata = [name for name in rows.column_names if name.startswith(META)]
    for batch in rows.to_batches(max_chunksize=1024):
        vectors = {name: matrix(batch.column(name)) for name in VECTORS}
        plain = batch.drop_columns(list(VECTORS)).to_pylist()
        for i, row in enumerate(plain):
            meta = {name.removeprefix(META): _json(row[name]) for name in metadata if row[name] is not None}
            values = {**row, "meta": Jsonb(meta), **{name: vectors[name][i] for name in VECTORS}}
            yield tuple(values[name] for name in COPIED)


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value  # datetimes are dates


def selected(columns: Sequence[str]) -> list[str]:
    """The server's columns behind columns of the door; all metadata is one."""
    plain = [name for name in columns if name in COLUMNS]
    return [*plain, "meta"] if len(plain) < len(columns) else plain


def table_of(
    found: Sequence[tuple[Any, ...]],
    columns: Sequence[str],
    metadata: Mapping[str, pa.DataType],
    widths: Mapping[str, int],
) -> pa.Table:
    """Rows of the server, fetched as `selected` says, in columns of the door."""
    at = {name: place for place, name in enumerate(selected(columns))}
    arrays = {}
    for name in columns:
        if name in VECTORS:
            rows_ND = np.empty((len(found), widths[name]), np.float32)
            for i, row in enumerate(found):
                rows_ND[i] = row[at[name]].to_numpy()
            arrays[name] = vector_column(rows_ND)
        elif name in COLUMNS:
            arrays[name] = pa.array([row[at[name]] for row in found], PLAIN[name])
        else:
            own, kind = name.removeprefix(META), metadata[name]
            values = [_python(row[at["meta"]].get(own), kind) for row in found]
            arrays[name] = pa.array(values, kind)
    return pa.table(arrays)


def _python(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return float(value)  # 1e300 comes back as a whole number
    if pa.types.is_date(kind):
        return dt.date.fromisoformat(value)
    return dt.datetime.fromisoformat(value) if pa.types.is_timestamp(kind) else value
