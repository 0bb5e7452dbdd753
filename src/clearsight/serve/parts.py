"""Content parts, in which OpenAI's and Cohere's clients write texts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from clearsight.errors import ItemError
from clearsight.serve.inputs import Reader
from clearsight.serve.schemas import Body
from clearsight.types import Item


class ImageUrl(Body):
    url: Annotated[str, Field(description="a data URL; none is fetched")]
    detail: Annotated[str | None, Field(max_length=20, description="looked at by nobody here")] = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Content(Body):
    """One item of several parts: its words, its picture, or both."""

    content: Annotated[list[Part], Field(min_length=1, max_length=16)]


def item_of(reader: Reader, place: str, parts: Sequence[TextPart | ImagePart]) -> Item:
    """One item of its parts; several texts are joined by line breaks.

    Raises:
        ItemError: several pictures, or what `Reader.item` refuses.
    """
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(images) > 1:
        raise ItemError(
            f"An item may have one picture; this one has {len(images)}.",
            where=place,
            do="Send one item for each picture.",
        )
    if not parts:
        raise ItemError("The item is empty.", where=place, do="Give a text, a picture, or both.")
    return reader.item(place, "\n".join(texts) if texts else None, images[0] if images else None)
