"""From chat turns to token ids, such that an item's own text can never become a control token.

The model's chat template is rendered with marks in place of the item's words, which are put back afterwards:
the template's control tokens and the item's literal look-alikes stay apart. Where the item's words hold no
control token, the whole is tokenised as transformers would. Where they do, a copy of the tokenizer reads
them: in it special tokens are ordinary text, and the template's own are found under names that no text holds.

Legend of shapes: L tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from clearsight.errors import ItemError, ModelError, UsageError
from clearsight.models.prompts import Form, Part, Span, Turn

if TYPE_CHECKING:
    from clearsight.models.load import LoadedModel

Layout: TypeAlias = "Callable[[Sequence[Turn], Any, str], tuple[list[Span], bool]]"
"""(turns, tokenizer, image token) -> the text, and whether the tokenizer adds its special tokens to it."""

Release: TypeAlias = "Callable[[Sequence[Turn], str, bool], tuple[list[Span], bool]]"
"""(turns, image token, whether the assistant's header ends the text) -> as `Layout`."""

# Noncharacters: no text meant for interchange holds them (Unicode, section 23.7).
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


def plain_layout(turns: Sequence[Turn], tokenizer: Any, image_token: str) -> tuple[list[Span], bool]:
    """Turns joined by newlines, parts by nothing: for a model without chat template."""
    spans: list[Span] = []
    for turn in turns:
        spans += [Span("\n")] if spans else []
        for part in turn.parts:
            spans += [Span(image_token)] if part.kind == "image" else part.spans
    return spans, True


def paligemma_layout(turns: Sequence[Turn], tokenizer: Any, image_token: str) -> tuple[list[Span], bool]:
    """Image tokens, bos, text, newline: the form PaliGemma was trained on, in any order of parts."""
    spans, _ = plain_layout(turns, tokenizer, "")
    images = sum(part.kind == "image" for turn in turns for part in turn.parts)
    return [Span(image_token * images + tokenizer.bos_token), *spans, Span("\n")], False


def vlm2vec_qwen(turns: Sequence[Turn], image_token: str, header: bool) -> tuple[list[Span], bool]:
    """ChatML without a default system turn, the image a bare token."""
    spans: list[Span] = []
    for turn in turns:
        spans += [Span(f"<|im_start|>{turn.role}\n"), *_bare(turn, image_token), Span("<|im_end|>\n")]
    return [*spans, Span("<|im_start|>assistant\n")] if header else spans, True


def vlm2vec_llava(turns: Sequence[Turn], image_token: str, header: bool) -> tuple[list[Span], bool]:
    """Mistral's brackets around both turns; their end is all there is of a header."""
    spans = [Span("[INST] ")]
    for turn in turns:
        spans += [*_bare(turn, image_token), Span("\n" if turn.role == "system" else " [/INST]")]
    return spans, True


def _bare(turn: Turn, image_token: str) -> list[Span]:
    """The parts of a turn; MMEB writes an image's token on a line of its own."""
    spans: list[Span] = []
    for place, part in enumerate(turn.parts):
        more = place + 1 < len(turn.parts)
        spans += [Span(image_token + "\n" * more)] if part.kind == "image" else part.spans
    return spans


class Wording:
    """Turns to text: by the model's chat template, or by the layout of its family.

    Args:
        generation_prompt: end with the assistant's header (chat templates only).
        form: see `prompts.FORMS`.

    Raises:
        UsageError: the model's family has no such form.
    """

    def __init__(self, loaded: LoadedModel, *, generation_prompt: bool, form: Form = "chat") -> None:
        self._tokenizer = loaded.tokenizer
        self._name = loaded.name
        self._image_token = "" if loaded.images is None else loaded.images.token
        self._layout = loaded.family.layout
        if self._layout is None and (loaded.kind == "contrastive" or not loaded.tokenizer.chat_template):
            self._layout = plain_layout
        if form == "vlm2vec":
            self._layout = _released(loaded, generation_prompt)
        self._generation_prompt = generation_prompt
        self._rendered = lru_cache(maxsize=256)(self._render)

    def __call__(self, turns: Sequence[Turn]) -> tuple[list[Span], bool]:
        """The whole text as spans (an image is the model's image token) and whether special tokens are added.

        Raises:
            ModelError: the chat template refuses the turns, or loses the item's words.
        """
        if self._layout is not None:
            return self._layout(turns, self._tokenizer, self._image_token)
        words = [
            span.text.strip() for turn in turns for part in turn.parts for span in part.spans if span.own
        ]
        text = self._rendered(_marked(turns))
        pieces = _MARKED.split(text)
        spans = [Span(words[int(p)], own=True) if i % 2 else Span(p) for i, p in enumerate(pieces)]
        if sorted(map(int, pieces[1::2])) != list(range(len(words))):
            raise ModelError(
                "The model's chat template loses or repeats the item's words.",
                where=self._name,
                do="Use a prompt without a system turn or instruction.",
            )
        bos = self._tokenizer.bos_token
        # As the processors of transformers do: a template that writes bos itself gets no second one.
        return spans, not (bos is not None and text.startswith(bos))

    def _render(self, turns: tuple[Turn, ...]) -> str:
        messages = [{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in turns]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=self._generation_prompt
                )
            )
        except TemplateError as error:
            raise ModelError(
                f"The model's chat template refuses this prompt: {error}.",
                where=self._name,
                do="Use another prompt, such as 'plain'.",
            ) from error


def _released(loaded: LoadedModel, header: bool) -> Layout:
    release = loaded.family.vlm2vec
    if release is None:
        raise UsageError(
            f"There is no VLM2Vec release for the family '{loaded.family.name}'.",
            where=loaded.name,
            do="Leave '@vlm2vec' out of the prompt's name.",
        )

    def layout(turns: Sequence[Turn], tokenizer: Any, image_token: str) -> tuple[list[Span], bool]:
        return release(turns, image_token, header)

    return layout


def _content(part: Part) -> dict[str, str]:
    if part.kind == "image":
        return {"type": "image"}
    return {"type": "text", "text": "".join(span.text for span in part.spans)}


def _marked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with marks for the item's words; white space at their ends stays, as templates may trim."""
    count = iter(range(sum(len(part.spans) for turn in turns for part in turn.parts)))

    def mark(span: Span) -> Span:
        if not span.own:
            return span
        words = span.text.strip()
        lead, _, trail = span.text.partition(words)
        return Span(f"{lead}{_OPEN}{next(count)}{_CLOSE}{trail}")

    return tuple(
        Turn(turn.role, tuple(Part(part.kind, tuple(map(mark, part.spans))) for part in turn.parts))
        for turn in turns
    )


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token ids and whether each belongs to the item's own words (it covers one of their characters)."""

    ids_L: NDArray[np.int64]
    own_L: NDArray[np.bool_]


class SafeTokenizer:
    """Tokenises spans: control tokens count as such in the template's spans only.

    Works on copies of the tokenizer's core, which nobody else sets to truncate or pad, and whose `encode`
    only reads: threads may share one.

    Args:
        tokenizer: a fast tokenizer of transformers.
        placeholders: tokens that mean an image, control tokens even where the tokenizer does not call them
            special.
    """

    def __init__(self, tokenizer: Any, placeholders: Sequence[str] = ()) -> None:
        self._core = _copy(tokenizer.backend_tokenizer)
        controls = {
            token_id: token
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in placeholders
        }
        self._controls: dict[int, AddedToken] = controls
        longest_first = sorted((token.content for token in controls.values()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def __call__(self, spans: Sequence[Span], *, add_special_tokens: bool, where: str = "") -> Tokens:
        """Ids of the joined spans, equal to transformers' wherever the item's words hold no control token.

        Raises:
            ItemError: words hold a noncharacter beside a control token, or the tokenizer's plain vocabulary
                spells one.
        """
        if not any(span.own and self._control.search(span.text) for span in spans):
            return _encode(self._core, spans, add_special_tokens)
        if any(span.own and (_OPEN in span.text or _CLOSE in span.text) for span in spans):
            raise ItemError(
                "The text holds control tokens and the noncharacters U+FDD0 or U+FDD1.",
                where=where,
                do="Remove the noncharacters.",
            )
        aliased = [
            span if span.own else Span(self._control.sub(lambda m: f"{_OPEN}{m[0]}{_CLOSE}", span.text))
            for span in spans
        ]
        core, original = self._literal
        tokens = _encode(core, aliased, add_special_tokens)
        if np.isin(tokens.ids_L[tokens.own_L], list(self._controls)).any():
            raise ItemError(
                "The text spells a control token that this tokenizer cannot read as text.",
                where=where,
                do="Remove it from the text.",
            )
        return Tokens(np.array([original.get(i, i) for i in tokens.ids_L.tolist()], np.int64), tokens.own_L)

    @cached_property
    def _literal(self) -> tuple[Tokenizer, dict[int, int]]:
        """The copy in which control tokens are text, their aliases (not special) stand in, alias id -> id."""
        state = json.loads(self._core.to_str())
        for token in state["added_tokens"]:
            token["special"] = token["special"] or token["id"] in self._controls
        core = _copy(Tokenizer.from_str(json.dumps(state)))
        core.encode_special_tokens = True
        core.add_tokens(
            [
                AddedToken(
                    f"{_OPEN}{t.content}{_CLOSE}",
                    lstrip=t.lstrip,
                    rstrip=t.rstrip,
                    single_word=t.single_word,
                    normalized=False,
                )
                for t in self._controls.values()
            ]
        )
        aliases = {core.token_to_id(f"{_OPEN}{t.content}{_CLOSE}"): i for i, t in self._controls.items()}
        return core, cast("dict[int, int]", aliases)


def _copy(core: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(core.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _encode(core: Tokenizer, spans: Sequence[Span], add_special_tokens: bool) -> Tokens:
    encoding = core.encode("".join(span.text for span in spans), add_special_tokens=add_special_tokens)
    ids_L = np.array(encoding.ids, np.int64)
    start_L, end_L = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
    # Some tokenizers trim white space from offsets, to nothing at times.
    end_L = np.maximum(end_L, start_L + 1)
    own_L = np.zeros(len(ids_L), bool)
    position = 0
    for span in spans:
        stop = position + len(span.text)
        if span.own:
            own_L |= (start_L < stop) & (end_L > position)
        position = stop
    if add_special_tokens:
        own_L &= np.array(encoding.special_tokens_mask, np.int64) == 0
    return Tokens(ids_L, own_L)
