"""The columns of an index store: what rows must look like before any store keeps them.

Legend of shapes: N rows, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.names import Names
from clearsight.store.door import COLUMNS, META
from clearsight.store.where import FIELDS, Where
from clearsight.types import MODALITIES

PLAIN = {name: pa.binary() if name == "thumbnail" else pa.string() for name in COLUMNS}
"""Types of the columns that are no vectors (and, meaning nothing, of the two that are)."""
VECTORS = ("raw", "vector")
NEEDED = ("id", "key", "modality", *VECTORS)

Metadata = Mapping[str, pa.DataType]
"""Types of metadata columns, by their names in the store (with `META`)."""


def fields_of(metadata: Metadata) -> dict[str, pa.DataType]:
    """What a filter may name: see `View.fields`. A metadata column named as a column of the store itself
    goes by its name with `META`."""
    fields: dict[str, pa.DataType] = dict.fromkeys(FIELDS, pa.string())
    for column, kind in metadata.items():
        own = column.removeprefix(META)
        fields.setdefault(column if own in FIELDS else own, kind)
    return fields


def known_columns(columns: Sequence[str], metadata: Metadata) -> list[str]:
    """`columns`, each once.

    Raises:
        UsageError: one is not in the store.
    """
    unknown = [name for name in columns if name not in COLUMNS and name not in metadata]
    if unknown:
        known = ", ".join([*COLUMNS, *metadata])
        raise UsageError(f"The store has no column '{unknown[0]}'.", do=f"There are: {known}.")
    return list(dict.fromkeys(columns))


def known_where(where: Where, metadata: Metadata) -> None:
    """Nothing, where the store has every column of the filter.

    Raises:
        UsageError: the filter was parsed against another store, or a later version.
    """
    unknown = [name for name in sorted(where.columns) if name not in FIELDS and name not in metadata]
    if unknown:
        raise UsageError(
            f"There is no field '{unknown[0].removeprefix(META)}' in this version of the store.",
            where=where.text,
            do="Parse the filter against the fields of the view that is searched.",
        )


def normal_rows(rows: pa.Table, width: int, vector_width: int | None, metadata: Metadata) -> pa.Table:
    """Rows as stores keep them: the columns of `COLUMNS` in their order, then metadata by name.

    Columns that may be null may be missing. Metadata is text, whole or real numbers of 64 bits, booleans,
    dates, times, or times with a zone (kept in UTC); a number that is NaN or infinite becomes null.

    Args:
        width, vector_width: D and E of the store; E is None before the first row.
        metadata: columns that are there already; the answer has them too.

    Raises:
        DataError: as `VectorStore.add`.
    """
    names = rows.column_names
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"The column '{name}' is there twice.", do="Give it once.")
        if name not in COLUMNS and not (name.startswith(META) and len(name) > len(META)):
            raise DataError(
                f"The store has no column '{name}'.",
                do=f"Metadata columns begin with '{META}'; the others are {', '.join(COLUMNS)}.",
            )
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise DataError(f"The rows lack the column {', '.join(missing)}.", do="Give every row these.")
    columns: dict[str, pa.Array] = {}
    for name in COLUMNS:
        if name not in VECTORS:
            columns[name] = _plain(rows, name)
    _check_ids(columns)
    columns["raw"] = _vectors(rows, "raw", width, columns["id"])
    columns["vector"] = _vectors(rows, "vector", vector_width, columns["id"])
    columns = {name: columns[name] for name in COLUMNS}
    for name in sorted({*metadata, *(name for name in names if name not in COLUMNS)}):
        column = _metadata(rows, name, metadata.get(name))
        if column is not None:
            columns[name] = column
    return pa.table(columns)


def _plain(rows: pa.Table, name: str) -> pa.Array:
    if name not in rows.column_names:
        return pa.nulls(len(rows), PLAIN[name])
    column = _one(rows.column(name))
    try:
        column = column.cast(PLAIN[name])
    except pa.ArrowInvalid as fault:
        raise DataError(f"The column '{name}' does not fit ({fault}).", do=f"Give {COLUMNS[name]}.") from None
    except pa.ArrowNotImplementedError:
        raise DataError(f"The column '{name}' holds {column.type}.", do=f"Give {COLUMNS[name]}.") from None
    if name in NEEDED and column.null_count:
        raise DataError(f"{column.null_count} rows have no {name}.", do="Give every row one.")
    return column


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _check_ids(columns: Mapping[str, pa.Array]) -> None:
    twice = Names(columns["id"]).repeated()
    if twice is not None:
        raise DataError(f"The id '{twice}' is there twice.", do="Give each row an id of its own.")
    for name in ("id", "key", "text", "source", "stamp"):
        if pc.any(pc.match_substring(columns[name], "\0")).as_py():
            raise DataError(f"A value of '{name}' holds the character NUL.", do="Remove it.")
    others = set(pc.unique(columns["modality"]).to_pylist()) - set(MODALITIES)
    if others:
        raise DataError(f"'{others.pop()}' is no modality.", do=f"There are: {', '.join(MODALITIES)}.")


def _vectors(rows: pa.Table, name: str, width: int | None, ids: pa.Array) -> pa.Array:
    column = _one(rows.column(name))
    kind = column.type
    size = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    if size is None or not pa.types.is_floating(kind.value_type):
        raise DataError(f"The column '{name}' holds {kind}.", do=f"Give {COLUMNS[name]}.")
    if size == 0 or (width is not None and size != width):
        raise DataError(
            f"Vectors of width {size} do not fit a store of width {width}.",
            where=name,
            do="Embed with the store's own model and repair, or make a new store.",
        )
    rows_ND = matrix(column)
    bad = np.flatnonzero(~np.isfinite(rows_ND).all(axis=1))
    if column.null_count or len(bad):
        where = ", ".join(ids.take(bad[:5]).to_pylist())
        raise DataError(
            f"{column.null_count or len(bad)} vectors of '{name}' are null or hold NaN or infinity.",
            where=where or None,
            do="Embed these items again (float32 instead of float16 often helps).",
        )
    return vector_column(rows_ND)


def matrix(column: pa.Array) -> NDArray[np.float32]:
    """The rows (N, D) of a column of vectors; no copy where they are float32."""
    width = column.type.list_size
    # `values` would ignore the slice; `flatten` leaves out null rows, which callers refuse.
    flat = column.flatten().to_numpy(zero_copy_only=False)
    rows: NDArray[np.float32] = flat.reshape(-1, width).astype(np.float32, copy=False)
    return rows


def vector_column(rows_ND: NDArray[np.float32]) -> pa.Array:
    """Rows as a column of vectors."""
    flat = pa.array(np.ascontiguousarray(rows_ND, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows_ND.shape[1])


def _metadata(rows: pa.Table, name: str, wanted: pa.DataType | None) -> pa.Array | None:
    """The column in the type that the store keeps it in; None where it is new and says nothing yet."""
    own = name.removeprefix(META)
    if name not in rows.column_names:
        return pa.nulls(len(rows), wanted)
    column = _one(rows.column(name))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return None if wanted is None else pa.nulls(len(rows), wanted)
    kind = kept_type(column.type)
    if kind is None:
        raise DataError(
            f"Metadata of the type {column.type} is not kept.",
            where=own,
            do="Give text, numbers, booleans, dates or times; lists and records may be written as JSON text.",
        )
    try:
        column = column.cast(kind)
        if wanted is not None and kind != wanted:
            if (kind, wanted) != (pa.int64(), pa.float64()):
                raise pa.ArrowInvalid(f"{kind} is not {wanted}")
            column = column.cast(wanted)
    except pa.ArrowInvalid as fault:
        raise DataError(
            f"The metadata '{own}' does not fit its column ({fault}).",
            where=own,
            do=f"Give {wanted or kind}, or use another name.",
        ) from None
    return _settled(column, own)


def kept_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which metadata of an Arrow type is kept, None where it is not."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_boolean(kind):
        return pa.bool_()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=None if kind.tz is None else "UTC")
    return None


def _settled(column: pa.Array, own: str) -> pa.Array:
    if pa.types.is_floating(column.type):  # no NaN, no infinity, no negative zero: engines disagree on them
        column = pc.if_else(pc.is_finite(column), pc.add(column, 0.0), pa.scalar(None, column.type))
    elif pa.types.is_string(column.type) and pc.any(pc.match_substring(column, "\0")).as_py():
        raise DataError("A value of the metadata holds the character NUL.", where=own, do="Remove it.")
    elif pa.types.is_integer(column.type) and pc.any(pc.equal(column, -(2**63))).as_py():
        raise DataError("A number of the metadata is beyond 64 bits.", where=own, do="Give it as text.")
    return column


def check_width(own: int, wanted: int | None, address: str) -> None:
    """Nothing, where a store's width is the one wanted.

    Raises:
        DataError: it is another.
    """
    if wanted is not None and own != wanted:
        raise DataError(
            f"The store holds vectors of width {own}, not {wanted}.",
            where=address,
            do="Use the model that the store was made with, or make a new store.",
        )


def needed_width(width: int | None) -> int:
    """`width`, for a store to be made.

    Raises:
        UsageError: it is not given, or below 1.
    """
    if width is None or width < 1:
        raise UsageError("A new store needs the width of its vectors.", do="Give the model's width.")
    return width
