"""Where an index lies: found, or room made for a new one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clearsight.errors import DataError
from clearsight.index.settings import FILE, Settings
from clearsight.store.lock import LOCK, writer_lock

OWN_FOLDER = ".clearsight"
"""Where the index of a folder lies in it, unless told."""
ROWS = "items.lance"
"""The store in an index's folder."""
_OWN = {LOCK, ROWS, "captions.jsonl", "facts.json", "map", "queries", "repairs"}
SOON = 2.0
"""Seconds that long work waits for another writer."""


def find_index(folder: str | os.PathLike[str]) -> Path:
    """Where the index lies: the folder itself, or `.clearsight` in it.

    Raises:
        DataError: there is none.
    """
    place = Path(folder)
    for one in (place, place / OWN_FOLDER):
        if (one / FILE).is_file():
            return one
    raise DataError("There is no index here.", where=str(place), do="Make one: clearsight index PHOTOS/.")


def address_of(settings: Settings, folder: Path) -> str:
    """Of the store: in the index's folder, unless told."""
    return str(folder / ROWS) if settings.address is None else settings.address


def make_room(place: Path, *, overwrite: bool) -> None:
    """Make the folder of a new index; an index that lies there goes, where that is allowed, and so does what
    is left of one that was killed before it was one, or while it was removed. Rows go with `overwrite` alone,
    what an index does not write stays.

    Raises:
        DataError: other things lie there, an index without `overwrite`, or the folder cannot be made.
    """
    if place.exists() and not (place.is_dir() and (_is_index(place) or _left(os.listdir(place)))):
        raise DataError("The folder holds other things.", where=str(place), do="Give a new or empty folder.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        what = f"The folder cannot be made ({fault.strerror})."
        raise DataError(what, where=str(place), do="Check the path and its permissions.") from fault
    with writer_lock(place, wait=SOON):
        if _is_index(place):
            if not overwrite:
                raise DataError(
                    "There is an index already.", where=str(place), do="Open it, or give --overwrite."
                )
            (place / FILE).unlink()  # first: what is half removed is no index
        for one in place.iterdir():
            if not _own(one.name) or one.name == LOCK or (one.name == ROWS and not overwrite):
                continue
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()


def _is_index(place: Path) -> bool:
    return (place / FILE).exists()


def _left(names: list[str]) -> bool:
    """Whether these are what a kill left of an index: its lock was there first. A folder of somebody's own,
    such as `map`, is none."""
    return not names or (LOCK in names and all(map(_own, names)))


def _own(name: str) -> bool:
    """Whether an index writes a file or folder of that name."""
    return name in _OWN or (name.startswith(".") and name.endswith(".tmp"))
