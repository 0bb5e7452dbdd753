"""What benchmarks of loose files share: JSON, where the images lie, and which of them are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clearsight.data.tables import Faults, check_file
from clearsight.errors import DataError

_TRIED = 3
"""How many image names are looked for in each folder that may hold the images."""


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


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: as `check_file`; the file is no whole JSON.
    """
    check_file(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise DataError(
            f"The file is no whole JSON ({fault}).",
            where=str(path),
            do="The download may have broken off: fetch the file again.",
        ) from fault


def absent_files(names: Iterable[str], folder: Path) -> set[str]:
    """The names that are no file under `folder`."""
    return {name for name in set(names) if not os.path.isfile(os.path.join(folder, name))}


def tell_missing(missing: Sequence[str], wanted: int, where: str, faults: Faults) -> None:
    """Under "skip" each missing image is noted; else one error counts them all.

    Raises:
        DataError: images are missing and bad rows are not to be skipped.
    """
    if missing and not faults.skip:
        raise DataError(
            f"{len(missing):,} of {wanted:,} images are missing, such as '{missing[0]}'.",
            where=where,
            do="Unpack the benchmark's images there, or leave out what is missing: --on-error skip.",
        )
    for name in missing:
        faults.meet(DataError("The image is missing.", where=name))


def missing_images(names: Iterable[str], folder: Path, faults: Faults) -> set[str]:
    """The image names that are no file under `folder`, told as `tell_missing` does.

    Raises:
        DataError: as `tell_missing`.
    """
    wanted = dict.fromkeys(names)
    absent = absent_files(wanted, folder)
    tell_missing([name for name in wanted if name in absent], len(wanted), str(folder), faults)
    return absent
