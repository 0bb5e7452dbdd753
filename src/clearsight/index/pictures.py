"""Pictures of a collection: small ones for the store, and originals read back from the indexed folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from clearsight.data.images import open_image
from clearsight.errors import DataError
from clearsight.types import ImageSource

SIDE = 256
"""Pixels of the longer side of a thumbnail."""
QUALITY = 85


def thumbnail_of(image: ImageSource, *, item_id: str) -> bytes:
    """A JPEG of at most `SIDE` pixels a side. Raises ItemError where the picture cannot be decoded."""
    small = open_image(image, item_id=item_id, at_least=2 * SIDE)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, subsampling=0)  # thin coloured lines stay what they are
    return file.getvalue()


def original_of(root: Path, source: str, *, item_id: str) -> bytes | None:
    """The bytes of a file in the indexed folder; None where it has gone.

    Raises:
        DataError: the file lies outside the folder, by its name or by a link.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, source))
    if os.path.commonpath([real_root, real]) != real_root:
        raise DataError(
            "The item's file lies outside the indexed folder.",
            where=item_id,
            do="Files are read from that folder alone; copy the file into it.",
        )
    try:
        with open(real, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        what = f"The item's file cannot be read ({fault.strerror})."
        raise DataError(what, where=item_id, do="Check its permissions.") from fault
