"""M-BEIR's candidates and queries as Arrow tables, memory-mapped.

The pool of all sets has 5.6 million rows: nothing here makes a Python object of a row, unless the row is bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clearsight.data.indexed import indexed_jsonl, indexed_parquet
from clearsight.data.tables import Faults, need_columns
from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.types import Modality

HOLDS: Mapping[str, Modality] = {
    "text": "text",
    "image": "image",
    "image,text": "image+text",
    "text,image": "image+text",
}
"""The release's word for a modality -> ours."""

CANDIDATE = {"did": "id", "txt": "text", "img_path": "image", "modality": "modality"}
QUERY = {"qid": "id", "query_txt": "text", "query_img_path": "image", "query_modality": "modality"}
"""The file's column -> ours."""

_COLUMNS = ("id", "text", "image", "modality")
_MIRROR = ("id", "text", "modality")
_VERSION = "M-BEIR items 1"
_PIECES = 1000


def release_rows(path: Path, columns: Mapping[str, str], faults: Faults) -> pa.Table:
    """The rows of a jsonl file: columns id, text, image (a path) and modality, memory-mapped.

    Args:
        columns: the file's name -> ours.

    Raises:
        DataError: as `indexed_jsonl`.
    """

    def shape(batch: pa.RecordBatch) -> pa.RecordBatch:
        return _promised(batch.rename_columns([columns[name] for name in batch.schema.names]))

    return indexed_jsonl(path, tuple(columns), shape, version=_VERSION, faults=faults)


def mirror_rows(paths: Sequence[Path]) -> pa.Table:
    """The rows of parquet files: columns id, text and modality, memory-mapped.

    Raises:
        DataError: as `indexed_parquet`.
    """
    return indexed_parquet(paths, _MIRROR, _strings, version=_VERSION)


def table_rows(table: pa.Table, where: str) -> pa.Table:
    """The same of a table that is at hand, such as one of the `datasets` library.

    Raises:
        DataError: it lacks a column.
    """
    need_columns(table.column_names, _MIRROR, where)
    return pa.Table.from_batches(
        [_strings(batch) for batch in table.select(_MIRROR).to_batches()], _schema(_MIRROR)
    )


def item_table(rows: pa.Table, *, where: str, faults: Faults) -> pa.Table:
    """Checked rows as columns id, text, image: each holds what its modality says, and nothing else.

    A row that repeats another whole is that row; it is kept once.

    Args:
        rows: as above. Where they have no column image, it becomes the number of the row, from 0.
        where: the file's name in errors.

    Raises:
        DataError: an id is missing or means two different things, a modality is unknown, or what it promises
            is not there (rows are counted from 1).
    """
    kind = rows["modality"]
    text, image = (pc.is_in(kind, _words(side)) for side in ("text", "image"))
    lacks = {
        "has no id": _empty(rows["id"]),
        "is of an unknown modality": pc.invert(pc.or_(text, image)),
        "has no text": pc.and_(text, _empty(rows["text"])),
    }
    if "image" in rows.column_names:
        column = rows["image"]
        lacks["has no image"] = pc.and_(image, _empty(column))
    else:
        column = pc.if_else(image, pa.array(np.arange(len(rows))), pa.scalar(None, pa.int64()))
    table = pa.table({"id": rows["id"], "text": rows["text"], "image": column})
    good_N = np.ones(len(table), dtype=bool)
    for fault, mask in lacks.items():
        for row in np.flatnonzero(mask.to_numpy()):
            if good_N[row]:
                good_N[row] = False
                modality, name = kind[int(row)].as_py(), rows["id"][int(row)].as_py()
                faults.meet(
                    DataError(
                        f"An item of modality {modality!r} {fault}.",
                        where=f"{where} row {row + 1}, id {name!r}",
                        do=f"Modalities are {', '.join(HOLDS)}; each needs its own fields.",
                    )
                )
    return _once_each(_only(table, good_N), where, faults)


def _promised(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without texts and images that an item's modality does not name."""
    columns = {name: batch.column(name) for name in _COLUMNS}
    for side in ("text", "image"):
        columns[side] = _said(columns[side], columns["modality"], side)
    return pa.record_batch(columns, _schema(_COLUMNS))


def _strings(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The mirror's columns: one without a value has no type of its own, and others may be large strings."""
    columns = {name: batch.column(name).cast(pa.string()) for name in _MIRROR}
    columns["text"] = _said(columns["text"], columns["modality"], "text")
    return pa.record_batch(columns, _schema(_MIRROR))


def _said(column: pa.Array, modality: pa.Array, side: str) -> pa.Array:
    """The column, null where the modality does not name the side; not copied where it is so already."""
    said = pc.is_in(modality, _words(side))
    if not pc.any(pc.and_(pc.invert(said), pc.is_valid(column))).as_py():
        return column
    return pc.if_else(said, column, pa.scalar(None, pa.string()))


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _words(side: str) -> pa.Array:
    return pa.array([word for word, modality in HOLDS.items() if side in modality])


def _only(table: pa.Table, keep_N: NDArray[np.bool_]) -> pa.Table:
    """The rows to keep. Where few go, what stays is not copied: it may be memory-mapped."""
    gone = np.flatnonzero(~keep_N).tolist()
    if not gone:
        return table
    if len(gone) > _PIECES:
        return table.filter(pa.array(keep_N))
    bounds = zip([-1, *gone], [*gone, len(table)], strict=True)
    return pa.concat_tables([table.slice(before + 1, after - before - 1) for before, after in bounds])


def _empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.binary_length(column), 0), True)


def _once_each(table: pa.Table, where: str, faults: Faults) -> pa.Table:
    if Names(table["id"]).repeated() is None:
        return table
    codes = pc.dictionary_encode(table["id"]).unify_dictionaries().combine_chunks().indices.to_numpy()
    _, first_of_code, code_N = np.unique(codes, return_index=True, return_inverse=True)
    first_N = first_of_code[code_N]
    repeats = np.flatnonzero(first_N != np.arange(len(table)))
    strings = pa.types.is_string(table["image"].type)  # numbers of rows differ, whatever the rows hold
    what = table.select(["id", "text", *(["image"] if strings else [])])
    for row in repeats.tolist():
        again, before = (what.slice(at, 1).to_pylist() for at in (row, int(first_N[row])))
        if again != before:
            name = again[0]["id"]
            faults.meet(
                DataError(
                    f"The id '{name}' stands for two different items.", where=where, do="Ids must be unique."
                )
            )
    keep_N = np.ones(len(table), dtype=bool)
    keep_N[repeats] = False
    return _only(table, keep_N)
