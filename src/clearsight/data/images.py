"""Any image a person may have, as 8-bit RGB; anything else is an error that names the item.

| given | becomes |
|---|---|
| CMYK, YCbCr, grayscale, 1-bit, palette | RGB by Pillow's conversion |
| 16-bit gray (`I;16`, `I` within 0..65535) | value / 257, rounded: the range is scaled, not clipped |
| other `I`, and `F` (no declared range) | its own range stretched to 0..255; a constant image is black |
| alpha of any kind (RGBA, LA, a transparent colour) | composited on white |
| animation | its first frame (a PIL image: the frame it stands on) |
| EXIF orientation | applied, so that up is up |
"""

from __future__ import annotations

import io
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from clearsight.errors import ItemError
from clearsight.types import ImageSource

MAX_PIXELS = 89_478_485
"""Pillow's own limit (a quarter of a GiB of RGB), where Pillow only warns."""

_ORIENTATION = 0x0112  # EXIF tag; its values 2..8, and the turn that undoes each (EXIF 2.32, 4.6.4)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: ImageSource,
    *,
    item_id: str | None = None,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> Image.Image:
    """The image of `source` in mode RGB, upright, fully decoded; no file stays open.

    Args:
        source: a path, the bytes of an encoded image, or a PIL image (left as it was).
        item_id: named in errors; without it the path is.
        max_pixels: width x height above this is refused before decoding. Pillow's own ceiling
            (twice `MAX_PIXELS`, unless the caller moved it) holds as well.
        at_least: pixels of the longer side that are enough: a JPEG may then be decoded at an eighth, a
            quarter or a half of its size, which takes as much less time. Other kinds come whole.

    Raises:
        ItemError: the file is missing, a folder, unreadable, empty, truncated, not an image, or too large.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the PIL image", item_id, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        what = f"the image ({len(source)} bytes)"
        return _decode_file(io.BytesIO(source), len(source), what, item_id, max_pixels, at_least)
    with open_file(source, item_id=item_id) as file:
        size = os.fstat(file.fileno()).st_size
        return _decode_file(file, size, f"'{file.name}'", item_id, max_pixels, at_least)


def open_file(path: str | os.PathLike[str], *, item_id: str | None = None) -> IO[bytes]:
    """The image file at `path`, opened for reading.

    Raises:
        ItemError: missing, a folder or another thing that is not a file, or not readable.
    """
    name = os.fspath(path)
    where = item_id or name
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        raise ItemError(
            f"The image '{name}' is an address.", where=where, do="Download it and give the file's path."
        )
    try:
        if os.path.exists(name) and not os.path.isfile(name):
            raise ItemError(f"'{name}' is not a file.", where=where, do="Give the path of an image file.")
        return open(name, "rb")
    except FileNotFoundError as fault:
        raise ItemError(
            f"The image file '{name}' does not exist.",
            where=where,
            do="Correct the path; relative paths start at the folder of the file that names them.",
        ) from fault
    except (OSError, ValueError) as fault:  # ValueError: a NUL in the path
        raise ItemError(
            f"The image file '{name}' cannot be read ({fault}).", where=where, do="Check its permissions."
        ) from fault


def _decode_file(
    file: IO[bytes], size: int, what: str, item_id: str | None, max_pixels: int, at_least: int | None
) -> Image.Image:
    where = item_id or what
    if size == 0:
        raise ItemError(f"{_capital(what)} is empty (0 bytes).", where=where, do="Replace or remove it.")
    with _pillow_quiet():
        try:
            image = Image.open(file)
        except UnidentifiedImageError as fault:
            raise ItemError(
                f"{_capital(what)} is not an image that Pillow knows.",
                where=where,
                do="Convert it to PNG or JPEG, or remove it.",
            ) from fault
        except Exception as fault:  # Pillow raises a dozen kinds on a broken header; each is the file's fault
            raise _undecodable(what, where, fault) from fault
        with image:
            width, height = image.size
            if at_least is not None and 0 < width * height <= max_pixels:
                scale = min(1.0, at_least / max(width, height))
                image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
            return _decode(image, what, item_id, max_pixels)


def _decode(image: Image.Image, what: str, item_id: str | None, max_pixels: int) -> Image.Image:
    where = item_id or what
    width, height = image.size
    if width * height > max_pixels:
        raise ItemError(
            f"{_capital(what)} has {width} x {height} pixels; at most {max_pixels:,} are decoded "
            "(a decompression bomb looks like this).",
            where=where,
            do="Make it smaller, or raise max_pixels if you trust it.",
        )
    if width * height == 0:
        raise ItemError(f"{_capital(what)} has no pixels.", where=where, do="Replace or remove it.")
    with _pillow_quiet():
        try:
            image.load()
            turn = _TURNS.get(_orientation(image))
            rgb = _rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
        except Exception as fault:  # as above: truncated and corrupt pixel data
            raise _undecodable(what, where, fault) from fault


def _rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of the same pixels; the table on top of the file says how."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(np.asarray(image)).convert("RGB")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    rgb = image.convert("RGB")  # of an RGB image: a copy
    rgb.info = {}
    return rgb


def _eight_bits(values_HW: np.ndarray[Any, Any]) -> Image.Image:
    """Grayscale of more than 8 bits scaled to 8."""
    values = values_HW.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("its pixels hold NaN or infinity")
    if values_HW.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * 255.0 / (high - low) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where the image has none or its EXIF block cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are good: a broken EXIF block is no reason to refuse them
        return 1


def _undecodable(what: str, where: str, fault: Exception) -> ItemError:
    return ItemError(
        f"{_capital(what)} cannot be decoded: truncated or corrupt ({type(fault).__name__}: {fault}).",
        where=where,
        do="Fetch it again, or remove it.",
    )


def _capital(what: str) -> str:
    return what[:1].upper() + what[1:]


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_quiet_lock = threading.Lock()
_quiet_users = 0


@contextmanager
def _pillow_quiet() -> Iterator[None]:
    """Pillow's warnings (malformed metadata, its size limit) are ignored while any decoder is inside.

    Not `warnings.catch_warnings`: that restores the filters of the whole process, so two decoding threads
    would undo each other's, and anybody else's. One entry goes in and the same entry comes out.
    """
    global _quiet_users
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    with _quiet_lock:
        _quiet_users += 1
        if _QUIET not in filters:
            filters.insert(0, _QUIET)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            filters = warnings.filters  # type: ignore[assignment]
            if _quiet_users == 0 and _QUIET in filters:
                filters.remove(_QUIET)
