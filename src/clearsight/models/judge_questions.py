"""What a judge is asked: a prompt with its images, and what to measure behind it. Values, no model.

Legend of shapes: S answer sets, T tokens written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from clearsight.data.content import check_text, content_key
from clearsight.errors import ItemError
from clearsight.models.prompts import Turn
from clearsight.types import ImageSource, Item

_SCHEME = "clearsight question 1"  # raised when the key's layout, or the meaning of a measure's row, changes


@dataclass(frozen=True, slots=True)
class Next:
    """The next token after the prompt.

    Row, S + 1 wide: log p of each set of tokens (natural logarithm, over the whole vocabulary), then the
    entropy of the next token over the whole vocabulary, in nats.

    Attributes:
        sets: token ids of each answer; an answer may be written in several ways.
    """

    sets: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        return len(self.sets) + 1


@dataclass(frozen=True, slots=True)
class Said:
    """How likely the model is to answer with a text.

    Row, 2 wide: log p of the text's tokens (natural logarithm, summed; with `end` also of ending there, by
    any token that ends the model's texts), then how many tokens that is.

    Attributes:
        text: white space around it does not count.
    """

    text: str
    end: bool = True

    @property
    def width(self) -> int:
        return 2


@dataclass(frozen=True, slots=True)
class Written:
    """What the model writes, the most likely token at every step.

    Row, T wide: token ids, -1 after the end.

    Attributes:
        tokens: at most so many.
    """

    tokens: int

    @property
    def width(self) -> int:
        return self.tokens


Measure: TypeAlias = "Next | Said | Written"


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A prompt and a measure.

    Attributes:
        turns: chat turns; items' own words are spans of their own (`prompts.Span`).
        images: one for each image part of the turns, in their order.
        measure: what to measure behind the prompt.
        where: ids of the items concerned, for messages.
    """

    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...]
    measure: Measure
    where: str = ""


class Digests:
    """Keys of images, read once for as long as this lives."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[ImageSource, str]] = {}

    def __call__(self, image: ImageSource, where: str) -> str:
        """The key of the image's content.

        Raises:
            ItemError: it cannot be read.
        """
        handle = image if isinstance(image, str) else id(image)
        if handle not in self._known:  # the source is kept, so that its id names nothing else
            self._known[handle] = (image, content_key(Item(where, image=image)))
        return self._known[handle][1]


def question_key(question: Question, images: Mapping[int, str] | tuple[str, ...]) -> str:
    """The sha256 of everything in a question that changes its answer; `images` are its images' digests.

    Raises:
        ItemError: an item's own words, or the text to be said, are empty or hold lone surrogates.
    """
    measure = question.measure
    for turn in question.turns:
        for part in turn.parts:
            for span in part.spans:
                if span.own:
                    check_text(span.text, item_id=question.where)
    if isinstance(measure, Said):
        check_text(measure.text, item_id=question.where)
    words = [
        [turn.role, [[part.kind, *([s.text, s.own] for s in part.spans)] for part in turn.parts]]
        for turn in question.turns
    ]
    what = [type(measure).__name__, *(getattr(measure, name) for name in measure.__slots__)]
    return hashlib.sha256(
        json.dumps([_SCHEME, words, list(images), what], ensure_ascii=False).encode()
    ).hexdigest()


def reading_order(question: Question, images: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """A sort key under which questions that begin alike stand together."""
    names = iter(images)
    return tuple(
        ("image", next(names)) if part.kind == "image" else ("text", "".join(s.text for s in part.spans))
        for turn in question.turns
        for part in turn.parts
    )


def refused(error: ItemError, where: str) -> ItemError:
    """The same fault, named by all items concerned."""
    return ItemError(error.what, where=where, do=error.do)
