"""The files that vectors come in and go to: arrays and labels, not yet checked.

| suffix | rows | ids, side, modality | origin |
|---|---|---|---|
| .parquet, .lance | column `vector`, lists of one length | columns `id`, `side`, `modality` | metadata |
| .safetensors | tensor `rows`, or the only matrix | `ids`, `side`, `modality`: JSON | metadata `origin` |
| .npz | array `rows`, or the only matrix | `ids`, `side`, `modality`: strings or JSON | `origin`: JSON |
| .npy | the array | beside it: `NAME.ids.json`, or ids in `NAME.ids.txt`, `.ids.parquet` | `NAME.ids.json` |

JSON in an array or tensor is UTF-8 in uint8; safetensors may hold it as metadata entries instead. A schema's
metadata entry is `clearsight.origin`. Nothing is ever unpickled. Legend of shapes: N rows, D width.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.files import write_atomic

ORIGIN_KEY = b"clearsight.origin"
"""Entry of a schema's metadata (parquet, Lance) that holds the origin as JSON; the store writes the same."""


@dataclass(frozen=True, slots=True, eq=False)
class RawVectors:
    """What a file holds. `labels` may have `ids`, `side` and `modality`, one string for each row."""

    rows: NDArray[Any]
    labels: Mapping[str, list[str]] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


class Format(NamedTuple):
    read: Callable[[Path, Mapping[str, str]], RawVectors]
    """Path, and documented name -> the file's own column name."""
    write: Callable[[Path, RawVectors], None]


LABELS = ("ids", "side", "modality")
_COLUMNS = {"ids": "id", "side": "side", "modality": "modality"}


def read_table(path: Path, table: Any, columns: Mapping[str, str]) -> RawVectors:
    """Rows and labels of an Arrow table.

    Raises:
        DataError: no vector column, or rows that are null or of other lengths than the first.
    """
    name = columns["vector"]
    if name not in table.column_names:
        raise DataError(
            f"There is no column '{name}'.",
            where=str(path),
            do=f"Columns: {', '.join(table.column_names)}. Name yours with columns={{'vector': ...}}.",
        )
    labels = {
        label: [None if v is None else str(v) for v in table.column(columns[column]).to_pylist()]
        for label, column in _COLUMNS.items()
        if columns[column] in table.column_names
    }
    origin = json.loads((table.schema.metadata or {}).get(ORIGIN_KEY, b"{}"))
    return RawVectors(_matrix(path, table.column(name)), labels, origin)  # type: ignore[arg-type]


def _matrix(path: Path, column: Any) -> NDArray[Any]:
    """The N x D array of a list column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # older pyarrow: more than fits one array
        lists = pa.concat_arrays(lists.chunks)
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DataError(f"The vector column is of type {kind}.", where=str(path), do="Give lists of numbers.")
    lengths_N = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    width = int(lengths_N.max(initial=-1))
    bad_N = np.flatnonzero(lengths_N != width)
    if len(bad_N):
        raise DataError(
            f"{len(bad_N)} of {len(lists)} vectors are null or not of width {width}.",
            where=f"{path}, rows {', '.join(str(i + 1) for i in bad_N[:5])}",
            do="All vectors of a file have one width.",
        )
    values = lists.flatten()  # a null number becomes NaN, which the caller refuses by name
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(lists), max(width, 0))


def _to_table(raw: RawVectors) -> Any:
    import pyarrow as pa

    rows = np.ascontiguousarray(raw.rows)
    vector = pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
    columns = {_COLUMNS[label]: pa.array(values, pa.string()) for label, values in raw.labels.items()}
    table = pa.table({**columns, "vector": vector})
    return table.replace_schema_metadata({ORIGIN_KEY: json.dumps(raw.origin)})


def _read_parquet(path: Path, columns: Mapping[str, str]) -> RawVectors:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        wanted = [name for name in columns.values() if name in file.schema_arrow.names]
        return read_table(
            path, file.read(columns=wanted) if columns["vector"] in wanted else file.read(), columns
        )


def _write_parquet(path: Path, raw: RawVectors) -> None:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    # Vectors do not compress; pages without a dictionary are written and read at the speed of the disk.
    pq.write_table(_to_table(raw), file, compression="none", use_dictionary=False)
    write_atomic(path, file.getvalue())


def _read_lance(path: Path, columns: Mapping[str, str]) -> RawVectors:
    import lance

    dataset = lance.dataset(str(path))
    wanted = [name for name in columns.values() if name in dataset.schema.names]
    table = dataset.to_table(columns=wanted or None)
    return read_table(path, table.replace_schema_metadata(dataset.schema.metadata), columns)


def _write_lance(path: Path, raw: RawVectors) -> None:
    import lance

    path.parent.mkdir(parents=True, exist_ok=True)
    lance.write_dataset(
        _to_table(raw), str(path), mode="overwrite"
    )  # a new version, visible at once or never


def _read_safetensors(path: Path, columns: Mapping[str, str]) -> RawVectors:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # torch knows bfloat16, numpy does not
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays = {k: (v.float() if v.is_floating_point() else v).numpy() for k, v in tensors.items()}
    return _of_arrays(path, arrays, columns, metadata)


def _write_safetensors(path: Path, raw: RawVectors) -> None:
    from safetensors.numpy import save

    arrays = {"rows": np.ascontiguousarray(raw.rows)}
    arrays |= {label: _json_bytes(values) for label, values in raw.labels.items()}
    write_atomic(path, save(arrays, metadata={"origin": json.dumps(raw.origin)}))


def _read_npz(path: Path, columns: Mapping[str, str]) -> RawVectors:
    # Not `np.load`: on a broken archive it leaves its file open, and it guesses the kind from the content.
    with open(path, "rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
        return _of_arrays(path, {name: file[name] for name in file.files}, columns, {})


def _write_npz(path: Path, raw: RawVectors) -> None:
    named: dict[str, Any] = {label: _json_bytes(values) for label, values in raw.labels.items()}
    file = io.BytesIO()
    np.savez(file, rows=raw.rows, origin=_json_bytes(dict(raw.origin)), **named)
    write_atomic(path, file.getvalue())


def _read_npy(path: Path, columns: Mapping[str, str]) -> RawVectors:
    with open(path, "rb") as file:
        rows = np.lib.format.read_array(file, allow_pickle=False)
    beside = [path.with_suffix(f".ids{kind}") for kind in (".json", ".txt", ".parquet")]
    found = next((p for p in beside if p.is_file()), None)
    if found is None:
        return RawVectors(rows)
    if found.suffix != ".json":
        return RawVectors(rows, {"ids": read_ids(found)})
    written = json.loads(found.read_text(encoding="utf-8"))
    if isinstance(written, list):
        return RawVectors(rows, {"ids": [str(v) for v in written]})
    if not isinstance(written, dict):
        raise DataError(
            "The ids are not a JSON list.", where=str(found), do='Write ["first", "second", ...].'
        )
    if written.get("rows_sha256") not in (None, _digest(rows)):
        raise DataError(
            f"'{path.name}' and '{found.name}' were not written together.",
            where=str(path),
            do="Save the vectors again; .npz, .safetensors and .parquet keep both in one file.",
        )
    return RawVectors(rows, {k: written[k] for k in LABELS if k in written}, written.get("origin", {}))


def _write_npy(path: Path, raw: RawVectors) -> None:
    beside = {**raw.labels, "origin": dict(raw.origin), "rows_sha256": _digest(raw.rows)}
    file = io.BytesIO()
    np.save(file, raw.rows, allow_pickle=False)
    write_atomic(path.with_suffix(".ids.json"), json.dumps(beside).encode())
    write_atomic(path, file.getvalue())


def read_ids(path: Path) -> list[str]:
    """Ids from a .json list, a .txt file (one a line), or the column `id` of a parquet file.

    Raises:
        DataError: another kind of file, or it cannot be read.
    """
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".json":
        ids = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(ids, list):
            return [str(v) for v in ids]
        raise DataError("The ids are not a JSON list.", where=str(path), do='Write ["first", "second", ...].')
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return [str(v) for v in pq.read_table(path, columns=["id"]).column("id").to_pylist()]
    raise DataError(
        f"Ids are not read from '{path.suffix}' files.", where=str(path), do="Give .txt, .json or .parquet."
    )


def _of_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, str], metadata: Mapping[str, str]
) -> RawVectors:
    wanted = columns["vector"] if columns["vector"] in arrays else "rows"
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if wanted not in arrays and len(matrices) != 1:
        raise DataError(
            f"There is no array 'rows' (and {len(matrices)} matrices).",
            where=str(path),
            do=f"Name the matrix 'rows'; here are {', '.join(arrays) or 'no arrays'}.",
        )
    rows = arrays[wanted if wanted in arrays else matrices[0]]
    labels = {k: _strings(arrays[k]) for k in LABELS if k in arrays}
    labels |= {k: json.loads(metadata[k]) for k in LABELS if k in metadata}
    given = bytes(arrays["origin"]).decode() if "origin" in arrays else metadata.get("origin", "{}")
    return RawVectors(rows, labels, json.loads(given))


def _strings(array: NDArray[Any]) -> list[str]:
    values = json.loads(bytes(array)) if array.dtype == np.uint8 else array.tolist()
    return [str(v) for v in values]


def _json_bytes(value: Any) -> NDArray[np.uint8]:
    # Not numpy strings: those drop trailing NULs and pad every id to the longest.
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _digest(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


@contextmanager
def file_faults(path: Path) -> Iterator[None]:
    """What the libraries raise on a file, as a `DataError` naming it."""
    import pyarrow as pa
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        pa.ArrowException,
        SafetensorError,
    ) as e:
        raise DataError(
            f"The vectors cannot be read or written ({type(e).__name__}: {e}).",
            where=str(path),
            do="Check the file and the disk; files that hold pickles are refused.",
        ) from e


FORMATS: dict[str, Format] = {
    ".parquet": Format(_read_parquet, _write_parquet),
    ".safetensors": Format(_read_safetensors, _write_safetensors),
    ".npz": Format(_read_npz, _write_npz),
    ".npy": Format(_read_npy, _write_npy),
    ".lance": Format(_read_lance, _write_lance),
}
