"""M-BEIR's files as Arrow tables: candidates and queries.

A pool has millions of rows: nothing here makes a Python object of a row, unless the row is bad.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from clearsight.data.benchmarks.base import need_columns
from clearsight.data.tables import Faults, read_rows
from clearsight.errors import DataError
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

_BLOCK = 4 << 20  # bytes read at once; no line may be longer
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_file(path: Path) -> None:
    """Refuse what a broken download leaves.

    Raises:
        DataError: the file is missing, empty, or Git LFS's pointer to the content instead of the content.
    """
    if not path.is_file():
        raise DataError("The file does not exist.", where=str(path), do="Fetch it, or correct the path.")
    with open(path, "rb") as file:
        start = file.read(len(_POINTER))
    if not start:
        raise DataError("The file is empty.", where=str(path), do="Fetch it again.")
    if start == _POINTER:
        raise DataError(
            "The file is Git LFS's pointer, not the content.", where=str(path), do="Run `git lfs pull`."
        )


def read_jsonl(path: Path, columns: Mapping[str, str], faults: Faults) -> pa.Table:
    """The columns of a jsonl file as strings, under our names; a key that a line lacks is null.

    The types are given, not guessed: a column whose first block holds nothing but null would be guessed
    wrong. 1 million lines take 1.4 s and 0.3 GB.

    Args:
        columns: the file's name -> ours.

    Raises:
        DataError: see `check_file`; the first line lacks a column; a line is no JSON object, or holds
            something else than text or null in a column (it is named; or left out, as `faults` says).
    """
    check_file(path)
    _check_first_line(path, columns)
    schema = pa.schema([(name, pa.string()) for name in columns])
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        with pj.open_json(path, pj.ReadOptions(block_size=_BLOCK), options) as reader:
            table = pa.Table.from_batches(list(reader), schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # it does not say in which line
        table = _read_slowly(path, columns, schema, faults)
    return table.rename_columns([columns[name] for name in schema.names])


def item_table(rows: pa.Table, *, where: str, faults: Faults, embedded: bool = False) -> pa.Table:
    """Checked rows as columns id, text, image: each holds what its modality says, and nothing else.

    A row that repeats another whole is that row; it is kept once.

    Args:
        rows: columns id, text, image and modality.
        where: the file's name in errors.
        embedded: there is no column of images; `image` holds the number of the row that has one, from 0.

    Raises:
        DataError: an id is missing or means two different things, a modality is unknown, or what it promises
            is not there (rows are counted from 1).
    """
    kind = rows["modality"]
    text, image = (
        pc.is_in(kind, pa.array([word for word, ours in HOLDS.items() if side in ours]))
        for side in ("text", "image")
    )
    lacks = {
        "has no id": _empty(rows["id"]),
        "is of an unknown modality": pc.invert(pc.or_(text, image)),
        "has no text": pc.and_(text, _empty(rows["text"])),
    }
    if not embedded:
        lacks["has no image"] = pc.and_(image, _empty(rows["image"]))
    columns = {"id": rows["id"], "text": _only(text, rows["text"])}
    if not embedded:
        columns["image"] = _only(image, rows["image"])
    else:
        row = pa.array(np.arange(len(rows)))
        columns["image"] = pc.if_else(image, row, pa.scalar(None, pa.int64()))
    table = pa.table(columns)
    good = np.ones(len(table), dtype=bool)
    for fault, mask in lacks.items():
        for row in np.flatnonzero(mask.to_numpy()):
            if good[row]:
                good[row] = False
                modality = kind[int(row)].as_py()
                faults.meet(
                    DataError(
                        f"An item of modality {modality!r} {fault}.",
                        where=f"{where} row {row + 1}, id {rows['id'][int(row)].as_py()!r}",
                        do=f"Modalities are {', '.join(HOLDS)}; each needs its own fields.",
                    )
                )
    if not good.all():
        table = table.filter(pa.array(good))
    return _once_each(table, where, faults, embedded)


def _check_first_line(path: Path, columns: Mapping[str, str]) -> None:
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        keys = json.loads(first)
    except ValueError:
        return  # reading names the line
    if isinstance(keys, dict):
        need_columns(keys, columns, path.name)


def _read_slowly(path: Path, columns: Mapping[str, str], schema: pa.Schema, faults: Faults) -> pa.Table:
    def rows() -> Iterator[Mapping[str, Any]]:
        for row in read_rows(path):
            wrong = [name for name in columns if not isinstance(row.values.get(name), str | None)]
            if row.fault is None and not wrong:
                yield {name: row.values.get(name) for name in columns}
                continue
            fault = row.fault or f"The column '{wrong[0]}' holds {type(row.values[wrong[0]]).__name__}."
            faults.meet(DataError(fault, where=row.where, do="Correct the line, or fetch the file again."))

    return pa.Table.from_pylist(list(rows()), schema)


def _only(mask: pa.ChunkedArray, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, null where the mask is false; not copied where it is so already."""
    if not pc.any(pc.and_(pc.invert(mask), pc.is_valid(column))).as_py():
        return column
    return pc.if_else(mask, column, pa.scalar(None, pa.string()))


def _empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.binary_length(column), 0), True)


def _once_each(table: pa.Table, where: str, faults: Faults, embedded: bool) -> pa.Table:
    if pc.count_distinct(table["id"]).as_py() == len(table):
        return table
    codes = pc.dictionary_encode(table["id"]).unify_dictionaries().combine_chunks().indices.to_numpy()
    _, first_of_code, code_N = np.unique(codes, return_index=True, return_inverse=True)
    first_N = first_of_code[code_N]
    repeats = np.flatnonzero(first_N != np.arange(len(table)))
    what = table.select(["id", "text"] if embedded else ["id", "text", "image"])
    for row in repeats.tolist():
        again, before = (what.slice(at, 1).to_pylist() for at in (row, int(first_N[row])))
        if again != before:
            name = again[0]["id"]
            faults.meet(
                DataError(
                    f"The id '{name}' stands for two different items.", where=where, do="Ids must be unique."
                )
            )
    keep = np.ones(len(table), dtype=bool)
    keep[repeats] = False
    return table.filter(pa.array(keep))
