"""Rows of people's own files, one at a time, each with the place it came from.

| suffix | read as |
|---|---|
| .jsonl, .ndjson | one JSON object a line; blank lines are ignored |
| .csv, .tsv | a header, then one row a record; UTF-8 (with or without a mark); an empty cell is null |
| .parquet | any columns; image structs {bytes, path} as the `datasets` library writes them |
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from clearsight.errors import DataError

OnError: TypeAlias = Literal["raise", "skip"]


_POINTER = b"version https://git-lfs.github.com/spec/"
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what the error handler `surrogateescape` makes of a bad byte


class Row(NamedTuple):
    """One row of a file. `fault` says why it cannot be read; `values` is empty then."""

    where: str
    values: Mapping[str, Any]
    fault: str | None = None


class Skipped(NamedTuple):
    """What was left out on request: an item's id or a place in a file, and why."""

    where: str
    reason: str


class Faults:
    """Where bad rows go: raised as they come, or collected on request.

    Args:
        on_error: "raise" or "skip".
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise DataError(f"on_error is '{on_error}'.", do="Allowed are 'raise' and 'skip'.")
        self.skip = on_error == "skip"
        self.skipped: list[Skipped] = []

    def meet(self, fault: DataError) -> None:
        """Raise `fault`, or note it and go on."""
        if not self.skip:
            raise fault
        self.skipped.append(Skipped(fault.where or "", fault.what))


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


def need_columns(found: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Check that a table has its columns.

    Raises:
        DataError: names every missing column with the nearest one that is there.
    """
    there = list(found)
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    near = {name: difflib.get_close_matches(name, there, n=1) for name in missing}
    hints = ", ".join(
        f"'{name}'" + (f" (nearest: '{close[0]}')" if close else "") for name, close in near.items()
    )
    raise DataError(
        f"The table lacks the columns {hints}; it has {', '.join(there)}.",
        where=where,
        do="Give the benchmark's own file, or rename the columns.",
    )


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of `path`, in order, read as they are asked for.

    Raises:
        DataError: the file is missing, of another kind, or broken as a whole. A broken row is a `Row`
            with a fault.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"Files of kind '{path.suffix}' are not read.",
            where=str(path),
            do=f"Give one of {', '.join(READERS)}.",
        )
    if not path.is_file():
        raise DataError("The file does not exist.", where=str(path), do="Correct the path.")
    return reader(path)


def table_in(folder: Path, stem: str, suffixes: Iterable[str] | None = None) -> Path:
    """The one file `stem`.* in `folder` of a kind that is read.

    Raises:
        DataError: there is none, or more than one.
    """
    kinds = tuple(suffixes or READERS)
    found = [folder / f"{stem}{suffix}" for suffix in kinds if (folder / f"{stem}{suffix}").exists()]
    if len(found) != 1:
        what = "has no" if not found else "has more than one"
        raise DataError(
            f"The folder {what} file of {stem}.",
            where=str(folder),
            do=f"Give exactly one of {', '.join(stem + kind for kind in kinds)}.",
        )
    return found[0]


def name_columns(given: Mapping[str, str] | None, fields: Iterable[str], where: str) -> dict[str, str]:
    """For each documented field, the file's column for it.

    Args:
        given: field -> column, where they differ.

    Raises:
        DataError: `given` names something that is no field.
    """
    names = {field: field for field in fields}
    for field, column in (given or {}).items():
        if field not in names:
            near = difflib.get_close_matches(field, names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise DataError(
                f"There is no field '{field}' to map a column to.",
                where=where,
                do=f"{hint}Fields: {', '.join(names)}.",
            )
        names[field] = column
    return names


def _json_lines(path: Path) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name} line {number}"
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                values = json.loads(text.decode("utf-8"))
            except UnicodeDecodeError as fault:
                yield Row(where, {}, f"The line is not UTF-8 (byte {fault.start}).")
            except (ValueError, RecursionError) as fault:
                yield Row(where, {}, f"The line is not JSON ({fault}).")
            else:
                if isinstance(values, dict):
                    yield Row(where, values)
                else:
                    yield Row(where, {}, f"The line holds {type(values).__name__}, not an object {{...}}.")


def _delimited(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        csv.field_size_limit(
            2**31 - 1
        )  # the module's limit of 128 KiB is a process-wide one; texts are longer
        # Bytes that are not UTF-8 come through as surrogates, so that the fault can name its line.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                header = next(reader, [])
            except csv.Error as fault:
                raise DataError(
                    f"The header cannot be read ({fault}).", where=f"{path.name} line 1"
                ) from fault
            if len(set(header)) != len(header) or not header:
                raise DataError(
                    f"The header {header} is empty or repeats a name.",
                    where=f"{path.name} line 1",
                    do="Give every column its own name in the first line.",
                )
            while True:
                where = f"{path.name} line {reader.line_num + 1}"
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as fault:
                    yield Row(where, {}, f"The row cannot be read ({fault}).")
                    continue
                if cells:
                    yield _delimited_row(where, header, cells)

    return read


def _delimited_row(where: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return Row(where, {}, f"The row has {len(cells)} cells, the header {len(header)}.")
    if any(_NOT_UTF8.search(cell) for cell in cells):
        return Row(where, {}, "The row is not UTF-8.")
    return Row(where, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _parquet(path: Path) -> Iterator[Row]:
    from clearsight.data.parquet import open_parquet, whole

    number = 0
    with open_parquet(path) as file, whole(path):
        for batch in file.iter_batches(batch_size=256):  # rows may hold images: few at a time
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path.name} row {number}", values)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
