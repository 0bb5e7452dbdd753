"""MMEB's sets and the wording of their instructions; text apart from instruction and image token.

V1 of the benchmark writes image token, instruction and words into one text. The instructions of V1 are known
(VLM2Vec, tables of its appendix, and the data): each is given here without its last full stop or colon, which
the data writes in one place and leaves out in another. What fits none of them stays in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from clearsight.errors import DataError
from clearsight.types import ImageSource, Item, Role

Place: TypeAlias = Literal["none", "first", "last", "inside"]

IMAGE_TOKEN = "<|image_1|>"  # of Phi-3-Vision, for which the data was written; every family has its own

_CLASSIFY = "Represent the given image for classification"
_OBJECT = "Identify the object shown in the image"
_SCENE = "Identify the scene shown in the image"
_QUESTION = "Represent the given image with the following question"
_IMAGE = "Represent the given image"
_WIKIPEDIA = "Represent the given Wikipedia image with related text information"
_CROP = "Represent the given cropped image of the object"
_EXPRESSION = "Select the portion of the image that follows the language expressions"


@dataclass(frozen=True, slots=True)
class MmebSet:
    """One set of MMEB.

    Attributes:
        name: of its configuration in MMEB-eval.
        kind: classification, VQA, retrieval or grounding.
        in_domain: whether MMEB-train has its training part.
        query, candidate: the instructions its texts may begin with.
    """

    name: str
    kind: str
    in_domain: bool
    query: tuple[str, ...]
    candidate: tuple[str, ...] = ()

    @property
    def candidate_role(self) -> Role:
        """How prompts word its candidates: as queries where they carry the queries' own instruction."""
        return "query" if self.candidate and self.candidate == self.query else "candidate"

    @property
    def train_name(self) -> str:
        """The name of its configuration in MMEB-train, which writes one set otherwise."""
        return {"ImageNet-1K": "ImageNet_1K"}.get(self.name, self.name)


def _rows(
    kind: str, in_domain: bool, rows: Sequence[tuple[str, str | tuple[str, ...], str | None]]
) -> list[MmebSet]:
    return [
        MmebSet(
            name,
            kind,
            in_domain,
            (query,) if isinstance(query, str) else query,
            () if candidate is None else (candidate,),
        )
        for name, query, candidate in rows
    ]


_IN_DOMAIN_VQA = ("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W")
_OUT_OF_DOMAIN_VQA = ("ScienceQA", "VizWiz", "GQA", "TextVQA")

SETS: dict[str, MmebSet] = {
    row.name: row
    for row in [
        *_rows(
            "classification",
            True,
            [
                ("ImageNet-1K", _CLASSIFY, None),
                (
                    "N24News",
                    "Represent the given news image with the following caption for domain classification",
                    None,
                ),
                (
                    "HatefulMemes",
                    "Represent the given image for binary classification to determine whether it constitutes "
                    "hateful speech or not",
                    None,
                ),
                ("VOC2007", _OBJECT, None),
                ("SUN397", _SCENE, None),
            ],
        ),
        *_rows(
            "classification",
            False,
            [
                ("Place365", _SCENE, None),
                ("ImageNet-A", _CLASSIFY, None),
                ("ImageNet-R", _CLASSIFY, None),
                ("ObjectNet", _OBJECT, None),
                ("Country211", "Identify the country depicted in the image", None),
            ],
        ),
        *_rows("VQA", True, [(name, _QUESTION, None) for name in _IN_DOMAIN_VQA]),
        *_rows("VQA", False, [(name, _QUESTION, None) for name in _OUT_OF_DOMAIN_VQA]),
        *_rows(
            "retrieval",
            True,
            [
                (
                    "VisDial",
                    "Represent the given dialogue about an image, which is used for image retrieval",
                    _IMAGE,
                ),
                (
                    "CIRR",
                    "Given an image, find a similar everyday image with the described changes",
                    _IMAGE,
                ),
                ("VisualNews_t2i", "Retrieve an image of this news caption", _IMAGE),
                ("VisualNews_i2t", "Find a caption for the news in the given photo", None),
                ("MSCOCO_t2i", "Find me an everyday image that matches the given caption", _IMAGE),
                ("MSCOCO_i2t", "Find an image caption describing the given everyday image", None),
                ("NIGHTS", "Find a day-to-day image that looks similar to the provided image", _IMAGE),
                ("WebQA", "Find a Wikipedia image that answers this question", _WIKIPEDIA),
            ],
        ),
        *_rows(
            "retrieval",
            False,
            [
                ("FashionIQ", "Find an image to match the fashion image and style note", _IMAGE),
                ("Wiki-SS-NQ", "Find the document image that can answer the given query", _IMAGE),
                (
                    "OVEN",
                    "Retrieve a Wikipedia image-description pair that provides evidence for the question of "
                    "this image",
                    _WIKIPEDIA,
                ),
                (
                    "EDIS",
                    "Find a news image that matches the provided caption",
                    "Represent the given image with related text information",
                ),
            ],
        ),
        *_rows(
            "grounding",
            True,
            [
                (
                    "MSCOCO",
                    (
                        "Crop the image to to isolate the object labeled as",  # as the evaluation data has it
                        "Select the portion of the image that isolates the object labeled as",
                    ),
                    _CROP,
                )
            ],
        ),
        *_rows(
            "grounding",
            False,
            [
                ("RefCOCO", _EXPRESSION, _CROP),
                ("RefCOCO-Matching", _EXPRESSION, _EXPRESSION),
                ("Visual7W-Pointing", "Select the portion of the image that answers the question", _CROP),
            ],
        ),
    ]
}

GROUPS: dict[str, tuple[str, ...]] = {
    **{
        kind: tuple(name for name, row in SETS.items() if row.kind == kind)
        for kind in ("classification", "VQA", "retrieval", "grounding")
    },
    "in-domain": tuple(name for name, row in SETS.items() if row.in_domain),
    "out-of-domain": tuple(name for name, row in SETS.items() if not row.in_domain),
    "all": tuple(SETS),
}
TRAIN_SETS: dict[str, MmebSet] = {row.train_name: row for row in SETS.values() if row.in_domain}

_OTHERWISE = {"infographicvqa": "InfographicsVQA", "places365": "Place365", "imagenet": "ImageNet-1K"}


def known_as(name: str) -> str | None:
    """The set a user means: letters' case, hyphens and underscores do not count."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return {**{re.sub(r"[^a-z0-9]", "", key.lower()): key for key in SETS}, **_OTHERWISE}.get(plain)


def image_place(text: str) -> Place:
    """Where a text has its image token: before all words, after them, between them, or nowhere."""
    before, token, after = text.partition(IMAGE_TOKEN)
    if not token:
        return "none"
    if not before.strip():
        return "first"
    return "inside" if after.strip() else "last"


def without_token(text: str | None) -> str | None:
    """The words without image token and without white space around them; None where no word is left.

    A token before or after the words goes: where the image stands is the prompt's to say (`Template.order`).
    One between words, as in the training data's diverse instructions, becomes "the image".
    """
    if text is None:
        return None
    spare = "the image" if image_place(text) == "inside" else ""
    return text.replace(IMAGE_TOKEN, spare, 1).replace(IMAGE_TOKEN, "").strip() or None


def split(text: str | None, instructions: tuple[str, ...]) -> tuple[str | None, str | None]:
    """(instruction, words) of a text without token; the instruction is None where the text has none known."""
    found = _beginning(instructions).match(text) if text is not None and instructions else None
    if found is None or text is None:
        return None, text
    return found[0], text[found.end() :].strip() or None


def make_item(
    item_id: str,
    text: str | None,
    image: ImageSource | None,
    instructions: tuple[str, ...],
    *,
    instruction: str | None = None,
) -> Item:
    """An item of one of MMEB's rows.

    Args:
        text: as the row has it, with token and (V1) instruction.
        instructions: what V1's text may begin with.
        instruction: V2's own column, where it has words; the text then is not split.

    Raises:
        DataError: neither words nor image.
    """
    given = without_token(instruction)
    words = without_token(text)
    if given is None:
        given, words = split(words, instructions)
    if words is None and image is None:
        if given is None:
            raise DataError(
                "There is neither text nor image (empty strings mean none).",
                where=item_id,
                do="Correct the row.",
            )
        given, words = None, given  # a text that is nothing but an instruction is what there is to embed
    return Item(item_id, words, image, given)


@cache
def _beginning(instructions: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(instructions, key=len, reverse=True)
    return re.compile(rf"(?:{'|'.join(map(re.escape, longest_first))})[.:]?(?=[\s\"'“]|$)")
