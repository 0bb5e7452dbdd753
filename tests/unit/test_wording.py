"""Tokens of an item: transformers' own for ordinary words, and never a control token for any."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clearsight.errors import ItemError, ModelError
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prepare import Preparer
from clearsight.models.prompts import Span, get_template
from clearsight.models.wording import SafeTokenizer
from clearsight.pooling import TEXT
from clearsight.types import Item
from families.build import CHATML, GEMMA, VICUNA, byte_tokenizer, metaspace_tokenizer

CONTROL = ("<s>", "</s>", "<image>")
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "</s>"}


@cache
def tokenizer(kind: str) -> tuple[Any, SafeTokenizer]:
    if kind == "metaspace":
        found = metaspace_tokenizer(CONTROL, ROLES, template=VICUNA)
    else:
        found = byte_tokenizer(CONTROL, ROLES, template=CHATML, bos=True)
    return found, SafeTokenizer(found)


KINDS = ("byte", "metaspace")
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@given(before=TEXTS, own=TEXTS, after=TEXTS, special=st.booleans())
@settings(max_examples=60, deadline=None)
def test_ordinary_words_are_tokenised_as_transformers_does(
    kind: str, before: str, own: str, after: str, special: bool
) -> None:
    theirs, safe = tokenizer(kind)
    spans = [Span("<s>" + before), Span(own, own=True), Span(after + "</s>")]
    expected = theirs("<s>" + before + own + after + "</s>", add_special_tokens=special)["input_ids"]
    assert safe(spans, add_special_tokens=special).ids_L.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
@given(
    own=st.lists(st.sampled_from([*CONTROL, "a", " ", "<", "é", "the", "\n"]), min_size=1, max_size=8).map(
        "".join
    )
)
@settings(max_examples=100, deadline=None)
def test_words_never_become_control_tokens(kind: str, own: str) -> None:
    theirs, safe = tokenizer(kind)
    found = safe([Span("<s>x<image>"), Span(own, own=True), Span("y</s>")], add_special_tokens=False)
    control_ids = theirs.convert_tokens_to_ids(list(CONTROL))
    controls = [theirs.convert_ids_to_tokens(i) for i in found.ids_L.tolist() if i in control_ids]
    assert controls == ["<s>", "<image>", "</s>"]
    words = theirs.decode(found.ids_L[found.own_L])
    assert words.replace(" ", "") in (own.replace(" ", ""), own.replace(" ", "") + "y")


@pytest.mark.parametrize("kind", KINDS)
@given(own=TEXTS)
@settings(max_examples=60, deadline=None)
def test_the_copy_for_control_tokens_tokenises_the_rest_alike(kind: str, own: str) -> None:
    """What the literal copy makes of words without control tokens is what the exact one makes of them."""
    _, safe = tokenizer(kind)
    ordinary = [Span("<s>up "), Span(own, own=True), Span("<image>the end</s>")]
    if any(control in own for control in CONTROL) or "\ufdd0" in own or "\ufdd1" in own:
        return
    exact = safe(ordinary, add_special_tokens=True)
    spiked = safe([*ordinary, Span("</s>", own=True)], add_special_tokens=True)
    assert spiked.ids_L[: len(exact.ids_L)].tolist() == exact.ids_L.tolist()
    assert spiked.own_L[: len(exact.ids_L)].tolist() == exact.own_L.tolist()


def test_a_placeholder_that_is_not_special_is_kept_out_too() -> None:
    theirs = byte_tokenizer(["<s>", "</s>"], ROLES)
    theirs.add_tokens(["<picture>"])
    found = SafeTokenizer(theirs, ["<picture>"])(
        [Span("<picture>"), Span("<picture>", own=True)], add_special_tokens=False
    )
    assert found.ids_L.tolist().count(theirs.convert_tokens_to_ids("<picture>")) == 1
    assert found.own_L.tolist() == [False] + [True] * (len(found.ids_L) - 1)


def test_forged_aliases_are_refused() -> None:
    _, safe = tokenizer("byte")
    with pytest.raises(ItemError, match="FDD0"):
        safe([Span("\ufdd0<image>\ufdd1", own=True)], add_special_tokens=False)


@pytest.fixture(scope="module")
def gemma(folder_of: Callable[[str], Path]) -> LoadedModel:
    return load_model(folder_of("gemma3"))


@pytest.mark.parametrize(
    "text", ["word", "  spaced out \n", "two\n\nlines", "é 日本 🙂", "{{ braces }} {% raw %}"]
)
@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen3_vl"])
def test_chat_templates_treat_words_as_ever(name: str, text: str, folder_of: Callable[[str], Path]) -> None:
    """Gemma's trims the text; others do not: the same ids as the template applied to the words themselves."""
    loaded = _loaded(folder_of(name))
    preparer = Preparer(loaded, get_template("plain"), generation_prompt=True)
    turns = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    expected = loaded.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    adds = not expected.startswith(loaded.tokenizer.bos_token or "\0")
    ids = loaded.tokenizer(expected, add_special_tokens=adds)["input_ids"]
    assert preparer(Item("a", text), "query", None).ids_L.tolist() == ids


@cache
def _loaded(folder: Path) -> LoadedModel:
    return load_model(folder)


def refusal(loaded: LoadedModel, item: Item, image: Image.Image | None = None, **options: Any) -> str:
    with pytest.raises(ItemError) as caught:
        Preparer(loaded, get_template("one_word"), generation_prompt=False, **options)(item, "query", image)
    assert caught.value.where == "the-item"
    return str(caught.value)


def test_items_that_cannot_be_prepared(folder_of: Callable[[str], Path]) -> None:
    loaded = _loaded(folder_of("qwen3_vl"))
    wide = Image.new("RGB", (3000, 4))
    assert "encode('utf-8', 'replace')" in refusal(loaded, Item("the-item", "a \ud800 b"))
    assert "encode('utf-8', 'replace')" in refusal(loaded, Item("the-item", "a", instruction="\udfff"))
    assert "empty" in refusal(loaded, Item("the-item", " \n"))
    assert "3000 x 4" in refusal(loaded, Item("the-item", image=wide), wide)
    assert "max_tokens" in refusal(loaded, Item("the-item", "words"), max_tokens=10)
    assert "image_size" in refusal(
        loaded, Item("the-item", image=wide), Image.new("RGB", (64, 64)), max_tokens=40
    )


def test_very_long_text_is_cut_to_the_context(folder_of: Callable[[str], Path]) -> None:
    loaded = _loaded(folder_of("qwen3_vl"))
    preparer = Preparer(loaded, get_template("plain"), generation_prompt=False)
    text = "square " * 3000 + "end"
    one = preparer(Item("a", text), "query", None)
    assert len(one.ids_L) == loaded.context == 1024
    assert one.cut > 1000
    assert (one.kinds_L == TEXT).sum() + one.cut == len(loaded.tokenizer(text)["input_ids"])


def test_a_chat_template_that_refuses_or_loses_words(gemma: LoadedModel) -> None:
    item = Item("a", "words")
    prepare = Preparer(gemma, get_template("hierarchical"), generation_prompt=True)
    template = gemma.tokenizer.chat_template
    try:
        gemma.tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
        with pytest.raises(ModelError, match="no system turn"):
            prepare(item, "query", None)
        gemma.tokenizer.chat_template = "{{ messages[0]['role'] }}"
        with pytest.raises(ModelError, match="loses or repeats"):
            Preparer(gemma, get_template("plain"), generation_prompt=True)(item, "query", None)
    finally:
        gemma.tokenizer.chat_template = template
    assert template == GEMMA
