"""Tables of millions of rows: parsed once, kept beside other caches, memory-mapped ever after.

A file that has not changed (size, time of change, first and last bytes) is not parsed again. What a table
holds is then in the page cache, not in the process. Images within parquet files are read where they lie.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet

from clearsight.errors import DataError
from clearsight.types import ImageSource

Shape = Callable[[pa.RecordBatch], pa.RecordBatch]
"""From a batch as the file has it to a batch as the table shall have it."""

_END_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 24


def cache_folder() -> Path:
    """Where this user's parsed tables lie: `$CLEARSIGHT_CACHE`, else `$XDG_CACHE_HOME`/clearsight, else
    ~/.cache/clearsight; below it `tables`."""
    own = os.environ.get("CLEARSIGHT_CACHE")
    base = (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clearsight"
    )
    return base / "tables"


def indexed_jsonl(
    path: Path, schema: pa.Schema, shape: Shape, *, version: str, cache: Path | None = None
) -> pa.Table:
    """The rows of a .jsonl file, shaped, as a memory-mapped table.

    Args:
        schema: the columns to read and their types (a column that is null for a megabyte has no type of its
            own); others are passed over, absent ones are null.
        shape: makes the table's batches of the file's; `version` names what it does, and changes with it.
        cache: folder of parsed tables; None: the user's own.

    Raises:
        DataError: no such file, a line that is no JSON object of this schema (its number is told; the last
            line: half a download), or a cache that cannot be written.
    """
    if not path.is_file():
        raise DataError("The file does not exist.", where=str(path), do="Correct the path.")
    return _indexed(path, lambda: map(shape, _json_batches(path, schema)), f"{version} {schema}", cache)


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
        with _opened(path) as file:
            absent = [name for name in columns if name not in file.schema_arrow.names]
            if absent:
                raise DataError(
                    f"There is no column '{absent[0]}'.",
                    where=str(path),
                    do=f"Columns: {', '.join(file.schema_arrow.names)}.",
                )

    def batches() -> Iterator[pa.RecordBatch]:
        for path in paths:
            with _opened(path) as file:
                yield from map(shape, file.iter_batches(columns=list(columns)))

    return _indexed(paths, batches, f"{version} {list(columns)}", cache)


class ParquetImages:
    """Images in a column of parquet files, numbered by row through all files; one row group is held.

    Args:
        column: structs {bytes, path} (the `datasets` library's images) or encoded bytes.

    Raises:
        DataError: a file cut short, or without that column.
    """

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in paths:
            with _opened(path) as file:
                if column not in file.schema_arrow.names:
                    raise DataError(
                        f"There is no column '{column}'.",
                        where=str(path),
                        do=f"Columns: {', '.join(file.schema_arrow.names)}.",
                    )
                for group in range(file.num_row_groups):
                    self._groups.append((path, group))
                    sizes.append(file.metadata.row_group(group).num_rows)
        self._firsts = [0, *accumulate(sizes)]
        self._column = column
        self._held = lru_cache(maxsize=1)(self._read_group)

    def __len__(self) -> int:
        return self._firsts[-1]

    def read(self, numbers: Sequence[int]) -> list[ImageSource | None]:
        """The images of these rows, in that order; encoded bytes, or None."""
        found: dict[int, ImageSource | None] = {}
        for number in sorted(set(numbers)):  # so that each row group is read once
            if not 0 <= number < len(self):
                raise IndexError(number)
            group = bisect_right(self._firsts, number) - 1
            value = self._held(group)[number - self._firsts[group]].as_py()
            if isinstance(value, dict):
                value = value.get("bytes") or value.get("path")
            found[number] = value
        return [found[number] for number in numbers]

    def _read_group(self, group: int) -> Any:
        path, place = self._groups[group]
        with _opened(path) as file:
            return file.read_row_group(place, columns=[self._column]).column(0)


def _opened(path: Path) -> Any:
    try:
        return pa.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError("The file does not exist.", where=str(path), do="Correct the path.") from None
    except (pa.ArrowInvalid, OSError) as fault:
        raise DataError(
            f"The parquet file cannot be read ({fault}).", where=str(path), do="Download it again."
        ) from fault


def _json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with pa.json.open_json(
            path,
            read_options=pa.json.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa.json.ParseOptions(
                explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
            ),
        ) as reader:
            for batch in reader:
                yield batch
                rows += batch.num_rows
    except pa.ArrowInvalid as fault:
        line, last = _broken_line(path)
        raise DataError(
            f"A line cannot be read ({fault}).",
            where=f"{path}, line {line}" if line else str(path),
            do="The file ends in the middle of a line: download it again." if last else "Correct that line.",
        ) from fault


def _broken_line(path: Path) -> tuple[int | None, bool]:
    """The first line that is no JSON object, and whether it is the last."""
    import json

    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                good = not line.strip() or isinstance(json.loads(line), dict)
            except ValueError:
                good = False
            if not good:
                return number, not line.endswith("\n")
    return None, False


def _indexed(
    paths: Path | Sequence[Path],
    batches: Callable[[], Iterable[pa.RecordBatch]],
    what: str,
    cache: Path | None,
) -> pa.Table:
    folder = cache or cache_folder()
    sources = [paths] if isinstance(paths, Path) else list(paths)
    target = folder / f"{sources[0].stem[:40]}-{_fingerprint(sources, what)}.arrow"
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(target, batches())
        except OSError as fault:
            raise DataError(
                f"The parsed table cannot be kept ({fault}).",
                where=str(folder),
                do="Make room, or set CLEARSIGHT_CACHE to another folder.",
            ) from fault
    return pa.ipc.open_file(pa.memory_map(str(target))).read_all()


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
                raise DataError("The file has no rows.", where=path.name, do="Download it again.")
            writer.close()
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
