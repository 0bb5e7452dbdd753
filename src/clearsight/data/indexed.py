"""Tables of millions of rows: parsed once, kept beside other caches, memory-mapped ever after.

A file that has not changed (size, time of change, first and last bytes) is not parsed again. What a table
holds is then in the page cache, not in the process. Images within parquet files stay there (`data.parquet`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.json

from clearsight.data.parquet import open_parquet, whole
from clearsight.data.tables import Faults, Row, check_file, need_columns, read_rows
from clearsight.errors import DataError

Shape = Callable[[pa.RecordBatch], pa.RecordBatch]
"""From a batch as the file has it to a batch as the table shall have it."""

_END_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 24
_LINES_AT_ONCE = 8192


def cache_folder() -> Path:
    """Where this user's parsed tables lie: `$CLEARSIGHT_CACHE`, else `$XDG_CACHE_HOME`/clearsight, else
    ~/.cache/clearsight; below it `tables`."""
    own = os.environ.get("CLEARSIGHT_CACHE")
    base = (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clearsight"
    )
    return base / "tables"


def indexed_jsonl(
    path: Path,
    columns: Sequence[str],
    shape: Shape,
    *,
    version: str,
    faults: Faults | None = None,
    cache: Path | None = None,
) -> pa.Table:
    """Columns of strings of a .jsonl file, shaped, as a memory-mapped table.

    The type is given, not guessed: a column that is null for a megabyte would be guessed wrong.

    Args:
        columns: those that are read; the first line must have them, later ones may leave out what is null.
        shape: makes the table's batches of the file's; `version` names what it does, and changes with it.
        faults: told of bad lines; without it the first raises. A table that lacks lines is not kept, so that
            they are told again the next time.
        cache: folder of parsed tables; None: the user's own.

    Raises:
        DataError: as `check_file`; the first line lacks a column; a line is no JSON object, or holds
            something else than a string or null in a column (its number is told; the last line: half a
            download); the cache cannot be written.
    """
    check_file(path)
    need_columns(_first_object(path, columns), columns, path.name)
    schema = pa.schema([(name, pa.string()) for name in columns])
    try:
        return _kept([path], lambda: map(shape, _json_batches(path, schema)), f"{version} {schema}", cache)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # which do not say in which line
        lines = _line_by_line(path, schema, faults or Faults())
        none = pa.RecordBatch.from_pylist([], schema)
        table = pa.Table.from_batches(map(shape, chain([none], lines)))
        if not len(table):
            raise _no_rows(path.name) from None
        return table


def indexed_parquet(
    paths: Sequence[Path], columns: Sequence[str], shape: Shape, *, version: str, cache: Path | None = None
) -> pa.Table:
    """The rows of parquet files, one after the other, shaped, as a memory-mapped table; as `indexed_jsonl`.

    Args:
        columns: those that are read: leave images out, and let `ParquetImages` find them by row.

    Raises:
        DataError: no files, a missing column, a file cut short, or a cache that cannot be written.
    """
    if not paths:
        raise DataError("There are no parquet files.", do="Correct the path.")
    for path in paths:
        with open_parquet(path) as file:
            need_columns(file.schema_arrow.names, columns, str(path))

    def batches() -> Iterator[pa.RecordBatch]:
        for path in paths:
            with open_parquet(path) as file, whole(path):
                for batch in file.iter_batches(columns=list(columns)):
                    yield shape(batch.select(list(columns)))

    return _kept(paths, batches, f"{version} {list(columns)}", cache)


def _json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    parse = pa.json.ParseOptions(
        explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
    )
    read = pa.json.ReadOptions(block_size=_BLOCK_BYTES)
    with pa.json.open_json(path, read_options=read, parse_options=parse) as reader:
        yield from reader


def _line_by_line(path: Path, schema: pa.Schema, faults: Faults) -> Iterator[pa.RecordBatch]:
    """The good lines; the others are told."""
    good = _good_lines(path, schema.names, faults)
    while lines := list(islice(good, _LINES_AT_ONCE)):
        yield pa.RecordBatch.from_pylist(lines, schema)


def _good_lines(path: Path, columns: Sequence[str], faults: Faults) -> Iterator[Mapping[str, Any]]:
    for row, after in pairwise(chain(read_rows(path), [None])):
        assert row is not None
        fault = row.fault or _not_strings(row, columns)
        if fault is None:
            yield {name: row.values.get(name) for name in columns}
            continue
        half = after is None and not _ends_with_a_line(path)
        do = "The file ends in the middle of a line: fetch it again." if half else "Correct the line."
        faults.meet(DataError(fault, where=row.where, do=do))


def _not_strings(row: Row, columns: Sequence[str]) -> str | None:
    for name in columns:
        value = row.values.get(name)
        if not isinstance(value, str | None):
            return f"The column '{name}' holds {type(value).__name__}."
    return None


def _ends_with_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _first_object(path: Path, columns: Sequence[str]) -> Iterable[str]:
    """The keys of the first line; where it cannot be read, reading the file will say so: all are there."""
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        keys = json.loads(first)
    except ValueError:
        return columns
    return keys if isinstance(keys, dict) else columns


def _kept(
    sources: Sequence[Path],
    batches: Callable[[], Iterable[pa.RecordBatch]],
    what: str,
    cache: Path | None,
) -> pa.Table:
    folder = cache or cache_folder()
    target = folder / f"{sources[0].stem[:40]}-{_fingerprint(sources, what)}.arrow"
    if (table := _mapped(target)) is not None:
        return table
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(target, batches())
    except OSError as fault:
        raise DataError(
            f"The parsed table cannot be kept ({fault}).",
            where=str(folder),
            do="Make room, or set CLEARSIGHT_CACHE to another folder.",
        ) from fault
    table = _mapped(target)
    assert table is not None
    return table


def _mapped(path: Path) -> pa.Table | None:
    """The table of a file; None where there is no file, or none that can be read."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid):
        return None


def _write(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """The batches as an Arrow file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    writer = None
    try:
        with pa.OSFile(str(temporary), "wb") as file:
            for batch in batches:
                writer = writer or pa.ipc.new_file(file, batch.schema)
                writer.write_batch(batch)
            if writer is None:
                raise _no_rows(path.name)
            writer.close()
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _no_rows(where: str) -> DataError:
    return DataError("The file has no rows.", where=where, do="Fetch it again.")


def _fingerprint(paths: Sequence[Path], what: str) -> str:
    """Changes with the files' contents (told by size, time, both ends) and with what is made of them."""
    digest = hashlib.sha256(what.encode())
    for path in paths:
        facts = path.stat()
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns} ".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, facts.st_size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    return digest.hexdigest()[:24]
