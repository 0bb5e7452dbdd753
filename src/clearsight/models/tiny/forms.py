"""Training examples of the generative model: every prompt form that the product later asks of it.

A *document* is a shared prefix (a user turn up to its content: an image, a caption, or nothing) and several
*branches*: the rest of the user turn, the assistant header, and the answer. Branches of a document do not see
each other, so each one reads exactly like its own conversation in the chat template, while the image is paid
for once.

The loss is on answers only; the content of text documents is learned too, at a low weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from clearsight.data.scenes import Scene, draw, pick, random_edit, random_scene
from clearsight.data.scenes_read import consistent
from clearsight.data.scenes_text import QUESTION_KINDS, caption, contradiction, edit_text, one_words, question

HEADER = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
USER = "<|im_start|>user\n"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"

SHORT_PROMPTS = (
    "Describe the image.",
    "Describe the image.",
    "Describe this image.",
    "What is in the image?",
    "Write a caption for the image.",
    "Describe the image in one sentence.",
)
DETAILED_PROMPTS = (
    "Describe the image in detail.",
    "Describe the image in detail.",
    "Describe this image in detail.",
    "Write a detailed caption for the image.",
)
ONE_WORD = {
    "text": "\nSummarize the above sentence in one word: ",
    "image": "\nSummarize the above image in one word: ",
    "question": "\nSummarize the above image with the question in one word: ",
    "image+text": "\nSummarize above image and sentence in one word: ",
    "composed": "\nSummarize the above image and the sentence in one word: ",
}
HIERARCHY = (
    "Given an image, summarize the provided image in one word. "
    "Given only text, describe the text in one word."
)
REPRESENT_IMAGE = "\nRepresent the given text/image in one word."
REPRESENT_TEXT = "\nRepresent the given text in one word."
FREE = (
    "\nYou are required to assess if A is related to B. Capture the semantics of {x}. "
    "Do not use function words, prepositions or symbols. Based on {x}, output one word:"
)
TRUE_FALSE = "Does the {what} match the caption: {caption}? Please directly output True or False"
CANDIDATE = "{query}\nDoes the candidate match the query, True or False"
YES, NO = "Yes, fully matches", "No, does not match or only partially matches"
CHOICE = "Does the {what} match the caption: {caption}?\nA. {a}\nB. {b}"
FIND = "Find me an image that matches the given caption: "
LISTWISE = "What is in this picture? Choose the most relevant sentence from the following options"

ANSWER_WEIGHT = 3.0
"""Weight of a token of a short answer; a caption's token counts 1."""
CONTENT_WEIGHT = 0.3
"""Weight of a token of a text document's content."""
WORDS_AT_ONCE = 4
"""A one-word prompt is answered by this many of the scene's words at once: the same loss as so many examples.
"""


@dataclass(frozen=True)
class Branch:
    """One conversation: ``prompt`` (after the shared prefix), the ``answer``, its weight, further first
    words.
    """

    prompt: str
    answer: str
    weight: float = ANSWER_WEIGHT
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A shared prefix with an optional image, and its branches. ``learned`` puts a loss on the prefix's
    content.
    """

    content: str
    branches: tuple[Branch, ...]
    scene: Scene | None = None
    system: str = ""
    learned: bool = False
    image: np.ndarray | None = field(default=None, compare=False)

    @property
    def prefix(self) -> str:
        """The text of the shared part in the chat template."""
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        return f"{system}{USER}{IMAGE if self.image is not None else ''}"


STATED_KINDS = ("count", "color", "shape", "place", "at", "relation", "exists")
"""Questions that every caption answers: sizes and backgrounds may be left out of a short one."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Diet:
    """What a phase is fed.

    Attributes:
        documents: shares of image, text and hierarchical documents.
        kinds: question kinds about images, drawn uniformly (a kind named twice is drawn twice as often).
        parts: share of matching statements about a single object.
        retries: how often a kind without an answer in the scene is drawn again.
    """

    documents: tuple[float, float, float]
    kinds: tuple[str, ...]
    parts: float
    retries: int = 0


JOINT = Diet((0.56, 0.26, 0.18), QUESTION_KINDS, 0.4)
"""Everything evenly."""
FOCUS = Diet(
    (0.66, 0.18, 0.16),
    ("place",) * 5 + ("color",) * 4 + ("shape",) * 3 + ("size",) * 3 + ("exists",) * 4 + ("relation",) * 3
    + ("at",) * 2 + ("count", "tint", "texture"),
    0.6,
    retries=3,
)  # fmt: skip
"""More of what must find one object among several; counts and backgrounds are known by then."""


def training_texts(rng: Rng, count: int) -> list[str]:
    """Texts for the tokenizer: the world's own sentences and every prompt wording."""
    texts: list[str] = []
    for _ in range(count):
        scene = random_scene(rng, "train")
        texts += [
            caption(scene, rng),
            caption(scene, rng, "detailed"),
            edit_text(scene, random_edit(rng, scene), rng),
        ]
        asked = question(scene, rng)
        texts += [asked.text, asked.answer, *one_words(scene)]
    prompts = [
        *SHORT_PROMPTS,
        *DETAILED_PROMPTS,
        *ONE_WORD.values(),
        HIERARCHY,
        REPRESENT_IMAGE,
        REPRESENT_TEXT,
        FREE.format(x="the image"),
        FREE.format(x="the sentence"),
        TRUE_FALSE.format(what="image", caption="a"),
        TRUE_FALSE.format(what="sentence", caption="a"),
        CANDIDATE.format(query="Query: "),
        CHOICE.format(what="image", caption="a", a=YES, b=NO),
        FIND,
        LISTWISE,
        "True",
        "False",
        "A",
        "B",
        "user\n",
        "assistant\n",
        "system\n",
        "Rephrase the sentence.",
        "Query: ",
        "Candidate: ",
    ]
    return texts + prompts * max(1, count // 20)


def _words(scene: Scene, rng: Rng) -> tuple[str, ...]:
    words = one_words(scene)
    return tuple(pick(rng, words) for _ in range(WORDS_AT_ONCE))


def _one_word(prompt: str, scene: Scene, rng: Rng) -> Branch:
    words = _words(scene, rng)
    return Branch(prompt, words[0], words=words[1:])


def _caption(scene: Scene, rng: Rng) -> Branch:
    if rng.random() < 0.68:
        return Branch(pick(rng, SHORT_PROMPTS), caption(scene, rng), 1.0)
    return Branch(pick(rng, DETAILED_PROMPTS), caption(scene, rng, "detailed"), 1.0)


def _ask(scene: Scene, rng: Rng, diet: Diet) -> Branch:
    asked = question(scene, rng, pick(rng, diet.kinds))
    # A kind without an answer in this scene falls back to counting; where counting is rare, others are tried.
    for _ in range(diet.retries):
        if asked.kind != "count":
            break
        asked = question(scene, rng, pick(rng, diet.kinds))
    return Branch(asked.text, asked.answer)


def statement(scene: Scene, rng: Rng, diet: Diet) -> tuple[str, bool]:
    """A caption of the scene or of one of its objects, true half of the time; false ones are mostly one edit
    off.
    """
    true = rng.random() < 0.5
    part = scene
    if rng.random() < diet.parts:
        thing = pick(rng, scene.things)
        part = Scene((thing,), scene.tint, scene.texture)
    if true:
        return caption(part, rng), True
    if rng.random() < 0.75:
        while True:
            text, _ = contradiction(part, rng)
            if not consistent(text, scene):
                return text, False
    while True:
        text = caption(random_scene(rng, "train"), rng)
        if not consistent(text, scene):
            return text, False


def _match(scene: Scene, rng: Rng, what: str, diet: Diet) -> Branch:
    text, true = statement(scene, rng, diet)
    text = text.rstrip(".")
    draw_form = rng.random()
    lead = "" if what == "image" else "\n"
    if draw_form < 0.45:
        return Branch(lead + TRUE_FALSE.format(what=what, caption=text), str(true))
    if draw_form < 0.6:
        return Branch("\n" + CANDIDATE.format(query=text + "."), str(true))
    if rng.random() < 0.5:
        return Branch(lead + CHOICE.format(what=what, caption=text, a=YES, b=NO), "A" if true else "B")
    return Branch(lead + CHOICE.format(what=what, caption=text, a=NO, b=YES), "B" if true else "A")


def _edit(scene: Scene, rng: Rng) -> tuple[str, Scene]:
    while True:
        edit = random_edit(rng, scene)
        if not edit.scene.held_out:
            return edit_text(scene, edit, rng), edit.scene


def _edited(scene: Scene, rng: Rng, lead: str) -> Branch:
    """Content and edit text: a caption, or one word, of the edited scene."""
    text, after = _edit(scene, rng)
    draw_form = rng.random()
    if draw_form < 0.5:
        return Branch(f"{lead}{text}", caption(after, rng), 1.0)
    if draw_form < 0.6:
        return Branch(f"{lead}{text}\nDescribe the image.", caption(after, rng), 1.0)
    return _one_word(lead + text + ONE_WORD[pick(rng, ("image+text", "composed"))], after, rng)


def _image_words(scene: Scene, rng: Rng) -> Branch:
    draw_form = rng.random()
    if draw_form < 0.6:
        return _one_word(ONE_WORD["image"], scene, rng)
    if draw_form < 0.75:
        return _one_word(FREE.format(x=pick(rng, "AB")), scene, rng)
    if draw_form < 0.85:
        return _one_word(caption(scene, rng) + ONE_WORD[pick(rng, ("image+text", "composed"))], scene, rng)
    asked = question(scene, rng)
    return Branch(asked.text + ONE_WORD["question"], asked.answer.split()[0])


def image_document(rng: Rng, diet: Diet) -> Document:
    """An image with a caption, questions, matching questions, and often one word or an edit."""
    scene = random_scene(rng, "train")
    branches = [_caption(scene, rng)]
    branches += [_ask(scene, rng, diet) for _ in range(3)]
    branches += [_match(scene, rng, "image", diet) for _ in range(2)]
    if rng.random() < 0.55:
        branches.append(_image_words(scene, rng))
    if rng.random() < 0.4:
        branches.append(_edited(scene, rng, ""))
    return Document("", _mixed(branches, rng), scene, image=np.asarray(draw(scene, rng)))


def _mixed(branches: list[Branch], rng: Rng) -> tuple[Branch, ...]:
    """The branches in random order, captions rather first: the last ones are left out where a row is full."""
    key = [rng.random() * (0.45 if branch.weight == 1.0 else 1.0) for branch in branches]
    return tuple(branches[i] for i in np.argsort(key))


def text_document(rng: Rng, diet: Diet) -> Document:
    """A caption with paraphrase, questions, matching, one word, an edit; or captions without an image."""
    scene = random_scene(rng, "train")
    if rng.random() < 0.15:
        return Document("", tuple(_caption(scene, rng) for _ in range(2)), scene)
    text = caption(scene, rng, "short" if rng.random() < 0.8 else "detailed")
    branches = []
    if rng.random() < 0.5:
        branches.append(_restated(scene, rng))
    for _ in range(2):
        asked = question(scene, rng, pick(rng, STATED_KINDS))
        branches.append(Branch("\n" + asked.text, asked.answer))
    if rng.random() < 0.6 or not branches:
        branches.append(_match(scene, rng, "sentence", diet))
    if rng.random() < 0.8:
        ask = ONE_WORD["text"] if rng.random() < 0.8 else FREE.format(x=pick(rng, "AB"))
        branches.append(_one_word(ask, scene, rng))
    if rng.random() < 0.3:
        branches.append(_edited(scene, rng, "\n"))
    return Document(text, _mixed(branches, rng), scene, learned=True)


def _restated(scene: Scene, rng: Rng) -> Branch:
    """Another caption of the scene, short or detailed as asked."""
    if rng.random() < 0.75:
        return Branch("\nRephrase the sentence.", caption(scene, rng), 1.0)
    return Branch("\nRephrase the sentence in detail.", caption(scene, rng, "detailed"), 1.0)


def hierarchical_document(rng: Rng, diet: Diet) -> Document:
    """The system prompt for embeddings and one word of an image, a text, or an image with an edit."""
    scene = random_scene(rng, "train")
    form = rng.random()
    if form < 0.45:
        ending = REPRESENT_IMAGE if rng.random() < 0.7 else ""
        return Document(
            "", (_one_word(ending, scene, rng),), scene, HIERARCHY, image=np.asarray(draw(scene, rng))
        )
    if form < 0.75:
        ending = REPRESENT_TEXT if rng.random() < 0.7 else ""
        lead = FIND if rng.random() < 0.3 else ""
        return Document(lead + caption(scene, rng), (_one_word(ending, scene, rng),), scene, HIERARCHY)
    if form < 0.9:
        text, after = _edit(scene, rng)
        return Document(
            "",
            (_one_word(text + REPRESENT_IMAGE, after, rng),),
            scene,
            HIERARCHY,
            image=np.asarray(draw(scene, rng)),
        )
    asked = question(scene, rng)
    return Document(
        "",
        (Branch(asked.text + REPRESENT_IMAGE, asked.answer.split()[0]),),
        scene,
        HIERARCHY,
        image=np.asarray(draw(scene, rng)),
    )


MAKERS: tuple[Callable[[Rng, Diet], Document], ...] = (image_document, text_document, hierarchical_document)


def document(rng: Rng, diet: Diet) -> Document:
    """A document of the diet's mix."""
    draw_kind = rng.random()
    for share, make in zip(diet.documents, MAKERS, strict=True):
        if draw_kind < share:
            return make(rng, diet)
        draw_kind -= share
    return image_document(rng, diet)


@dataclass(frozen=True)
class Packed:
    """Rows of packed documents (B rows, L tokens, T targets, I images), all numpy.

    ``at_T`` indexes the flattened rows; the loss asks position ``at_T`` to predict token ``target_T``.
    """

    ids_BL: np.ndarray
    positions_3BL: np.ndarray
    document_BL: np.ndarray
    branch_BL: np.ndarray
    image_at: np.ndarray
    images: np.ndarray
    at_T: np.ndarray
    target_T: np.ndarray
    weight_T: np.ndarray


def encode(tokenizer: object, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of many texts; special tokens written out in a text become single ids."""
    core = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    return [e.ids for e in core.encode_batch_fast(list(texts), add_special_tokens=False)]
