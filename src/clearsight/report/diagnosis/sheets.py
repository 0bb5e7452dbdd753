"""Thumbnails on shared sheets: each picture stands on the page once, however many concepts show it.

A sheet is a square of `ACROSS` x `ACROSS` cells of `CELL` pixels, encoded as WebP.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

from PIL import Image

from clearsight.errors import DataError

CELL: Final = 64
"""Pixels of a thumbnail's side."""
ACROSS: Final = 16
"""Cells on each side of a sheet: 1024 pixels, which every browser decodes at once."""
_QUALITY: Final = 82


def sheets(pictures: Sequence[tuple[str, bytes]]) -> tuple[str, ...]:
    """Data URIs of the sheets that hold the pictures, row by row, in their order.

    Args:
        pictures: (name for messages, encoded PNG or JPEG).

    Larger pictures are made smaller, none is made larger or cut; each stands in the middle of its cell. The
    last sheet is only as tall as its rows.

    Raises:
        DataError: a picture cannot be decoded.
    """
    per_sheet = ACROSS * ACROSS
    return tuple(_sheet(pictures[start : start + per_sheet]) for start in range(0, len(pictures), per_sheet))


def _sheet(pictures: Sequence[tuple[str, bytes]]) -> str:
    rows = -(-len(pictures) // ACROSS)
    sheet = Image.new("RGBA", (ACROSS * CELL, rows * CELL))
    for place, (name, encoded) in enumerate(pictures):
        thumbnail = _thumbnail(name, encoded)
        row, column = divmod(place, ACROSS)
        aside, down = (CELL - thumbnail.width) // 2, (CELL - thumbnail.height) // 2
        sheet.paste(thumbnail, (column * CELL + aside, row * CELL + down))
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _thumbnail(name: str, encoded: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            small = picture.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("A picture of the page cannot be decoded.", where=name, do=str(error)) from error
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small
