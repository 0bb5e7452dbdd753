"""From a question to token ids and pixels: as `prepare`, for prompts with several images and a text behind.

Legend of shapes: L tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clearsight.errors import ItemError, ModelError, UsageError
from clearsight.models.judge_questions import Question, Said
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import collapsed, expanded, process_image, shrunk
from clearsight.models.prompts import Span
from clearsight.models.wording import Wording
from clearsight.pooling import IMAGE, PROMPT, TEXT

Spans = tuple[Span, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image, ready for the model: shared by all questions that show it.

    Attributes:
        name: of its content, a number from 1.
        pixels: the image processor's outputs for it alone.
        expansion: what stands for it in the text, each run of placeholders as one.
        runs: how many placeholders each run is of.
    """

    name: int
    pixels: Mapping[str, Tensor]
    expansion: str
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """A question as one sequence of tokens.

    Attributes:
        ids_L: placeholders at full length, the text to be said behind the prompt.
        kinds_L: PROMPT, TEXT or IMAGE.
        prompt: tokens of the prompt; the others are said.
        pictures: its images, in their order.
        places: (first token, first token after) of each image.
        codes_L: ids, the placeholders of an image by the number that names it (below zero).
        question: where it comes from.
    """

    ids_L: NDArray[np.int64]
    kinds_L: NDArray[np.uint8]
    prompt: int
    pictures: tuple[Picture, ...]
    places: tuple[tuple[int, int], ...]
    codes_L: NDArray[np.int64]
    question: Question

    def __len__(self) -> int:
        return len(self.ids_L)

    @property
    def first_read(self) -> int:
        """The first position whose state is read: a shared prefix ends at it or before."""
        return self.prompt - 1


class Poser:
    """Questions to `Posed`.

    Args:
        loaded: a generative model.
        image_size: as for the encoder.
    """

    def __init__(self, loaded: LoadedModel, *, image_size: int | None = None) -> None:
        assert loaded.images is not None
        assert loaded.text is not None
        self._loaded, self._images, self._text = loaded, loaded.images, loaded.text
        self._image_size = image_size
        self._wording = Wording(loaded, generation_prompt=True)
        self._ids = lru_cache(maxsize=64)(self._tokens)

    def picture(self, image: Image.Image, name: int, where: str) -> Picture:
        """An opened image, processed.

        Raises:
            ItemError: the model's image processor refuses it.
        """
        if self._image_size is not None:
            image = shrunk(image, self._image_size)
        outputs = process_image(self._loaded.image_processor, image, self._images.settings, where)
        expansion, runs = collapsed(
            self._images.processor.replace_image_token(outputs, 0), self._images.placeholder
        )
        pixels = {field: outputs[field] for field in sorted(self._images.names)}
        return Picture(name, pixels, expansion, tuple(runs))

    def __call__(self, question: Question, pictures: Sequence[Picture]) -> Posed:
        """The question with its images.

        Raises:
            UsageError: several images for a family that was trained on one.
            ModelError: the chat template loses an image.
            ItemError: the sequence exceeds the model's context.
        """
        spans, special = self._worded(question, pictures)
        prompt_ids, prompt_own = self._ids(spans, special, question.where)
        ids_L, own_L, prompt = prompt_ids, prompt_own, len(prompt_ids)
        if isinstance(question.measure, Said):
            said = (Span(self._gap(spans)), Span(question.measure.text.strip(), own=True))
            ids_L, own_L = self._tokens((*spans, *said), special, question.where)
            # Where the text's first token takes the prompt's last characters with it, it counts as said.
            prompt = _common(prompt_ids, ids_L)
        runs = [run for picture in pictures for run in picture.runs]
        before = ids_L[:prompt]
        kinds_L = np.where(own_L, TEXT, PROMPT).astype(np.uint8)
        prompt = len(expanded(before, kinds_L[:prompt], self._images, runs)[0])
        ids_L, kinds_L = expanded(ids_L, kinds_L, self._images, runs)
        if len(ids_L) > self._loaded.context:
            raise ItemError(
                f"The prompt takes {len(ids_L)} tokens, the model's context has {self._loaded.context}.",
                where=question.where,
                do="Give shorter texts, fewer options, or a smaller image_size.",
            )
        places, codes_L = _places(ids_L, kinds_L, pictures)
        return Posed(ids_L, kinds_L, prompt, tuple(pictures), places, codes_L, question)

    def _worded(self, question: Question, pictures: Sequence[Picture]) -> tuple[Spans, bool]:
        """Spans with every image in place, and whether special tokens are added."""
        family = self._loaded.family
        if len(pictures) > 1 and not family.several_images:
            raise UsageError(
                f"Models of the family '{family.name}' read one image a prompt, not {len(pictures)}.",
                where=self._loaded.name,
                do="Choose a scorer that shows the model one image, or another model.",
            )
        spans, special = self._wording(question.turns)
        token = self._images.token
        if sum(span.text.count(token) for span in spans if not span.own) != len(pictures):
            raise ModelError(
                f"The chat template of this model (family '{family.name}') does not keep "
                f"{len(pictures)} images in one prompt.",
                where=self._loaded.name,
                do="Choose a scorer that shows the model one image, or another model.",
            )
        waiting = iter(pictures)
        return tuple(s if s.own else Span(_filled(s.text, token, waiting)) for s in spans), special

    def _tokens(self, spans: Spans, special: bool, where: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        tokens = self._text(spans, add_special_tokens=special, where=where)
        return tokens.ids_L, tokens.own_L

    def _gap(self, spans: Spans) -> str:
        """What a chat leaves between the assistant's header and its words: a space, where the header ends in
        neither white space nor a control token."""
        text = "".join(span.text for span in spans)
        control = any(
            text.endswith(token.content)
            for token in self._loaded.tokenizer.added_tokens_decoder.values()
            if token.special
        )
        return "" if text[-1:].isspace() or control else " "


def _filled(text: str, token: str, waiting: Any) -> str:
    """The text with each image token by its picture's expansion (which may hold that token itself)."""
    first, *rest = text.split(token)
    return first + "".join(next(waiting).expansion + part for part in rest)


def _places(
    ids_L: NDArray[np.int64], kinds_L: NDArray[np.uint8], pictures: Sequence[Picture]
) -> tuple[tuple[tuple[int, int], ...], NDArray[np.int64]]:
    shown = np.flatnonzero(kinds_L == IMAGE)
    codes_L = ids_L.copy()
    places = []
    bounds = pairwise(accumulate((sum(picture.runs) for picture in pictures), initial=0))
    for picture, (first, end) in zip(pictures, bounds, strict=True):
        codes_L[shown[first:end]] = -picture.name
        places.append((int(shown[first]), int(shown[end - 1]) + 1))
    return tuple(places), codes_L


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Tokens that both begin with; at least one of `other` is left."""
    length = min(len(one), len(other) - 1)
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length
