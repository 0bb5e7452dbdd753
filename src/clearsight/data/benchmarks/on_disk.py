"""What the benchmarks' readers share: headers of parquet files, and where the images lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from clearsight.data.tables import Faults
from clearsight.errors import DataError

_TRIED = 3
"""How many image names are looked for in each folder that may hold the images."""


def columns_of(path: Path) -> list[str]:
    """The column names of a parquet file; only its footer is read.

    Raises:
        DataError: the file is not a whole parquet file, such as a download that broke off.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as fault:
        raise DataError(
            f"The parquet file cannot be read ({fault}).",
            where=str(path),
            do="The download may have broken off: fetch the file again.",
        ) from fault


def has_columns(path: Path, wanted: Iterable[str]) -> bool:
    """Whether a parquet file can be read and has all the columns: for looking, never raises DataError."""
    try:
        return set(wanted).issubset(columns_of(path))
    except DataError:
        return False


def image_folder(folder: Path, names: Iterable[str], usual: Sequence[str] = ()) -> Path:
    """The folder at which relative image names start.

    Looked for, in this order: `folder`, its subfolders `usual`, every other subfolder by name; the first that
    holds one of the first three names. `folder` itself where none does (the images are missing then, and
    `missing_images` says so).
    """
    tried = list(islice(names, _TRIED))
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for place in (folder, *(folder / name for name in usual), *subfolders):
        if any((place / name).is_file() for name in tried):
            return place
    return folder


def missing_images(names: Iterable[str], folder: Path, faults: Faults) -> set[str]:
    """The image names that are no file under `folder`.

    Under "skip" each is noted; else one error counts them all.

    Raises:
        DataError: images are missing and bad rows are not to be skipped.
    """
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if not os.path.isfile(os.path.join(folder, name))]
    if missing and not faults.skip:
        raise DataError(
            f"{len(missing):,} of {len(wanted):,} images are missing, such as '{missing[0]}'.",
            where=str(folder),
            do="Unpack the benchmark's images there, or leave out what is missing: on_error 'skip'.",
        )
    for name in missing:
        faults.meet(DataError("The image is missing.", where=name))
    return set(missing)
