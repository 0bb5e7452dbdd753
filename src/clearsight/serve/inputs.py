"""From what a request holds to items: texts within limits, pictures out of data URLs; nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from clearsight.data.content import check_text
from clearsight.data.images import open_image
from clearsight.errors import ItemError
from clearsight.serve.faults import RefusedError
from clearsight.serve.limits import Limits
from clearsight.types import ImageSource, Item

KEPT_PIXELS = 2_000_000
"""Smaller pictures wait for the model decoded, larger ones as they came: a queue of photographs is small."""

_DATA = re.compile(
    r"data:(?P<kind>image/[\w.+-]{1,60})?(?P<options>(?:;[\w=.+-]{1,80}){0,4}),", re.ASCII | re.I
)


@dataclass
class Reader:
    """Reads one request's texts and pictures, and counts them against the limits."""

    limits: Limits
    _pixels: int = field(default=0, init=False)
    _characters: int = field(default=0, init=False)

    def item(self, place: str, text: str | None, image: str | None) -> Item:
        """An item of a text, a data URL, or both.

        Args:
            place: names it in errors, such as "input.3".

        Raises:
            ItemError: an empty or unreadable text or picture, an address, nothing at all. RefusedError: too
                large.
        """
        return Item(
            place,
            None if text is None else self.text(place, text),
            None if image is None else self.image(place, image),
        )

    def text(self, place: str, text: str) -> str:
        """The text, if it is one, within the limits."""
        check_text(text, item_id=place)
        self._characters += len(text)
        most = self.limits.characters if len(text) > self.limits.characters else self.limits.all_characters
        if len(text) > self.limits.characters or self._characters > self.limits.all_characters:
            what = f"A text may have {most:,} characters, those of a request together as many."
            if most == self.limits.all_characters:
                what = f"The texts of one request may have {most:,} characters together."
            raise RefusedError(413, what, where=place, do="Shorten it, or ask in several requests.")
        return text

    def image(self, place: str, url: str) -> ImageSource:
        """The picture of a data URL, decoded once to know that it can be."""
        data = from_data_url(url, place)
        left = self.limits.pixels - self._pixels
        picture = open_image(data, item_id=place, max_pixels=max(left, 0))
        pixels = picture.width * picture.height
        self._pixels += pixels
        return picture if pixels <= KEPT_PIXELS else data


def from_data_url(url: str, place: str) -> bytes:
    """The bytes of a data URL (RFC 2397).

    Raises:
        ItemError: an address of another kind, which is never fetched; not an image; broken base64.
    """
    found = _DATA.match(url[:500])
    if found is None:
        if re.match(r"(https?|ftp|file)://?", url[:10], re.IGNORECASE):
            raise ItemError(
                "This server fetches no addresses: it would reach places that the asker may not see.",
                where=place,
                do="Send the picture itself as a data URL: data:image/png;base64,...",
            )
        raise ItemError(
            "This is no data URL of an image.",
            where=place,
            do="Send data:image/png;base64,... (or jpeg, webp).",
        )
    payload = url[found.end() :]
    if "base64" not in found["options"].lower().split(";"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as fault:
        raise ItemError("The data URL holds broken base64.", where=place, do="Encode it again.") from fault
