"""Vectors one already has, straight to repair, ranking and measures; `vector_files` says how files look.

Legend of shapes: N rows, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.tables import name_columns, read_rows
from clearsight.data.vector_files import FORMATS, Format, RawVectors, file_faults, read_ids
from clearsight.errors import DataError, UsageError
from clearsight.types import MODALITIES, ROLES, Embeddings, Modality, Role

_FIELDS = ("id", "vector", "side", "modality")


def load_vectors(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[str] | str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    side: Role | None = None,
    modality: Modality | None = None,
    columns: Mapping[str, str] | None = None,
) -> Embeddings:
    """The vectors of a .npy, .npz, .parquet or .safetensors file, or a .lance table, with their names.

    float16, bfloat16, float64 and whole numbers are converted to float32.

    Args:
        ids: the rows' ids, or a file of them (.txt one a line, .json list, .parquet column `id`); None: the
            ids in the file, or beside it; where there are none, the rows' numbers from 0.
        groups: a table (.jsonl, .csv, .parquet) with `id` and one or both of `side`, `modality`: the labels
            of the rows it names.
        side, modality: the label of all rows; None: the file's own, else "candidate" and "text".
        columns: for parquet and Lance, `id`, `vector`, `side`, `modality` -> the file's own column.

    Raises:
        DataError: no such file, an unknown kind, pickled content, not a matrix of numbers, rows with NaN or
            infinity (named; also beyond float32), ids that repeat or are too few, labels that do not exist.
    """
    place = Path(path)
    if not place.exists():
        raise DataError("The file of vectors does not exist.", where=str(place), do="Correct the path.")
    names = name_columns(columns, _FIELDS, str(place))
    with file_faults(place):
        raw = _format(place).read(place, names)
        given = read_ids(Path(ids)) if isinstance(ids, str | os.PathLike) else ids
    rows_ND = _float32(raw.rows, str(place))
    found = given if given is not None else raw.labels.get("ids")
    row_ids = [str(i) for i in range(len(rows_ND))] if found is None else list(found)
    if len(row_ids) != len(rows_ND):
        raise DataError(
            f"{len(row_ids)} ids for {len(rows_ND)} rows.", where=str(place), do="Give one id for each row."
        )
    if not all(isinstance(name, str) and name for name in row_ids):
        at = next(i for i, name in enumerate(row_ids) if not (isinstance(name, str) and name))
        raise DataError(
            f"The id of row {at} is {row_ids[at]!r}.", where=str(place), do="Give every row a name."
        )
    table = _groups(Path(groups), row_ids) if groups is not None else {}
    return Embeddings(
        tuple(row_ids),
        rows_ND,
        _labels("side", side or "candidate", ROLES, raw, row_ids, side is not None, table),
        _labels("modality", modality or "text", MODALITIES, raw, row_ids, modality is not None, table),
        raw.origin,
    )


def save_vectors(path: str | os.PathLike[str], embeddings: Embeddings) -> None:
    """Write all of `embeddings`, so that `load_vectors(path)` gives the same, bit by bit.

    The kind is the path's suffix: .parquet, .safetensors, .npz, .npy (labels in NAME.ids.json) or .lance.
    A reader sees the old file or the new one, never a part.

    Raises:
        UsageError: the origin does not fit into JSON. DataError: unknown kind, or the disk refuses.
    """
    place = Path(path)
    kind = _format(place)
    try:
        origin = json.loads(json.dumps(dict(embeddings.origin)))
    except (TypeError, ValueError) as fault:
        raise UsageError(f"The origin is not JSON ({fault}).", do="Use names, numbers and lists.") from fault
    labels = {
        "ids": list(embeddings.ids),
        "side": [str(v) for v in embeddings.side_N],
        "modality": [str(v) for v in embeddings.modality_N],
    }
    with file_faults(place):
        kind.write(place, RawVectors(embeddings.rows_ND, labels, origin))


def _format(path: Path) -> Format:
    if path.suffix.lower() not in FORMATS:
        raise DataError(
            f"Vectors are not kept in files of kind '{path.suffix}'.",
            where=str(path),
            do=f"Use one of {', '.join(FORMATS)}.",
        )
    return FORMATS[path.suffix.lower()]


def _float32(rows: NDArray[Any], where: str) -> NDArray[np.float32]:
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or 0 in rows.shape:
        raise DataError(
            f"The vectors have shape {rows.shape} and type {rows.dtype}.",
            where=where,
            do="Give a matrix of numbers, one row for each item.",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by name
        return np.ascontiguousarray(rows, dtype=np.float32)


def _groups(path: Path, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    known, table = set(ids), {}
    for row in read_rows(path):
        name = str(row.values.get("id"))
        if row.fault is not None or name not in known or not {"side", "modality"} & row.values.keys():
            raise DataError(
                row.fault or f"The row labels '{name}'.",
                where=row.where,
                do="Give an id of the vectors, and side or modality.",
            )
        table[name] = row.values
    return table


def _labels(
    name: str,
    default: str,
    allowed: Sequence[str],
    raw: RawVectors,
    ids: Sequence[str],
    fixed: bool,
    table: Mapping[str, Mapping[str, Any]],
) -> NDArray[np.str_]:
    """One label for each row: from the table of groups, the argument, the file, or the default."""
    own = None if fixed else raw.labels.get(name)
    values = [default] * len(ids) if own is None else [v or default for v in own]
    values = [table.get(i, {}).get(name) or value for i, value in zip(ids, values, strict=True)]
    wrong = sorted(set(values) - set(allowed))
    if wrong:
        raise DataError(f"There is no {name} '{wrong[0]}'.", do=f"Allowed are {', '.join(allowed)}.")
    return np.array(values, dtype=str)
