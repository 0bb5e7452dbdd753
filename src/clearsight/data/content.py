"""A key for what an item holds: the same content has the same key wherever its file lies."""

from __future__ import annotations

import hashlib
from typing import IO

from PIL import Image

from clearsight.data.images import open_file, open_image
from clearsight.errors import ItemError
from clearsight.types import ImageSource, Item

_SCHEME = b"clearsight content 1"  # raised when the layout of the hashed bytes changes


def content_key(item: Item) -> str:
    """The sha256 of the item's text, instruction and image content, as 64 hexadecimal digits.

    Every field enters with its tag and length, so that no two items share a byte string: a text is never
    taken for an instruction, nor the end of one field for the start of the next. The image enters as the
    digest of its encoded bytes (a path and the same bytes have the same key: a moved file keeps it, a
    changed file changes it); a PIL image as the digest of the RGB pixels that the model would see.
    The id does not enter.

    Raises:
        ItemError: the text is empty or holds lone surrogates; the image cannot be read.
    """
    digest = hashlib.sha256()

    def enter(tag: bytes, payload: bytes) -> None:
        digest.update(b"%d:%s%d:" % (len(tag), tag, len(payload)))
        digest.update(payload)

    enter(b"scheme", _SCHEME)
    if item.text is not None:
        enter(b"text", check_text(item.text, item_id=item.id))
    if item.instruction is not None:
        enter(b"instruction", check_text(item.instruction, item_id=item.id, field="instruction"))
    if item.image is not None:
        enter(*_image_digest(item.image, item.id))
    return digest.hexdigest()


def check_text(text: str, *, item_id: str | None, field: str = "text") -> bytes:
    """The text as UTF-8.

    Raises:
        ItemError: nothing but white space, or a lone surrogate (half of a UTF-16 pair, which no tokenizer
            and no file format accepts).
    """
    if not text.strip():
        raise ItemError(f"The {field} is empty.", where=item_id, do=f"Give a {field} or leave it out (null).")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise ItemError(
            f"The {field} holds a lone surrogate (U+{ord(text[fault.start]):04X}) at position {fault.start}.",
            where=item_id,
            do="Decode the source as UTF-8 (or UTF-16 in pairs), or replace that character.",
        ) from fault


def _image_digest(image: ImageSource, item_id: str) -> tuple[bytes, bytes]:
    if isinstance(image, Image.Image):
        rgb = open_image(image, item_id=item_id)
        pixels = hashlib.sha256(b"%dx%d:" % rgb.size)
        pixels.update(rgb.tobytes())
        return b"pixels", pixels.digest()
    if isinstance(image, bytes | bytearray | memoryview):
        return b"file", hashlib.sha256(image).digest()
    file: IO[bytes]
    with open_file(image, item_id=item_id) as file:
        return b"file", hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
