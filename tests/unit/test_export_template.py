"""The chat template of an exported folder words every item as our own wording does."""

from __future__ import annotations

import pytest
from PIL import Image

from clearsight.formats.sentence_transformers_template import chat_template, own_chat_template
from clearsight.models.load import load_model
from clearsight.models.prompts import Rule, Template, get_template, prompt_names, render
from clearsight.models.wording import Wording
from clearsight.types import MODALITIES, ROLES, Item, Modality, Role
from families.build import BUILDERS

FAMILIES = ("qwen2_vl", "llava", "smolvlm", "gemma3", "internvl", "chameleon", "clip")
ODD = Template(
    "odd",
    "Quotes, braces, escapes, astral letters; text before the image.",
    (
        Rule(
            role=("query",),
            counterpart=("image",),
            system='Say "{{ it }}" {% once %}\\ ',
            before="\tlead \U0001f600 ",
            after=" tail'\n",
            instruction="Do: {instruction}!\n",
        ),
        Rule(modality=("image+text",), before="both: "),
        Rule(modality=("image", "text"), after="\\n"),
    ),
    generation_prompt=False,
    order=("text", "image"),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("families")
    return {name: load_model(BUILDERS[name](root / name)) for name in FAMILIES}


def item(modality: Modality, instruction: str | None) -> Item:
    text = " a <b> 'red' square\n and {{ braces }} " if "text" in modality else None
    image = Image.new("RGB", (32, 32), "red") if "image" in modality else None
    return Item("one", text, image, instruction)


def conversation(one: Item) -> list[dict]:
    """As sentence-transformers hands an item to a chat template."""
    parts = [{"type": "image", "image": one.image}] if one.image is not None else []
    parts += [{"type": "text", "text": one.text}] if one.text is not None else []
    turns = [{"role": "user", "content": parts}]
    if one.instruction:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": one.instruction}]})
    return turns


@pytest.mark.parametrize("prompt", [*prompt_names(), "odd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_words_as_our_own(models: dict, family: str, prompt: str) -> None:
    loaded, template = models[family], ODD if prompt == "odd" else get_template(prompt)
    own = own_chat_template(loaded)
    assert own is not None
    seen = set()
    for counterpart in (None, *MODALITIES):
        for generation in (False, True):
            counterparts: dict[Role, Modality | None] = dict.fromkeys(ROLES, counterpart)
            saved = chat_template(template, own, generation_prompt=generation, counterparts=counterparts)
            wording = Wording(loaded, generation_prompt=generation)
            for role in ROLES:
                for modality in MODALITIES:
                    for instruction in (None, "Find the {caption}."):
                        one = item(modality, instruction)
                        spans, _ = wording(render(template, one, role, counterpart=counterpart))
                        words = "".join(span.text for span in spans)
                        task = {} if role == "candidate" else {"task": "query"}
                        found = loaded.tokenizer.apply_chat_template(
                            conversation(one), chat_template=saved, tokenize=False, **task
                        )
                        assert found == words, (role, modality, counterpart)
                        seen.add(words)
    assert len(seen) >= 2


def test_the_task_document_is_a_candidate(models: dict) -> None:
    loaded = models["qwen2_vl"]
    saved = chat_template(
        get_template("hierarchical"),
        own_chat_template(loaded),
        generation_prompt=True,
        counterparts={"query": None, "candidate": None},
    )
    render_as = {
        task: loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": "a flat text"}], chat_template=saved, tokenize=False, task=task
        )
        for task in ("query", "document", None)
    }
    assert render_as["document"] == render_as[None] != render_as["query"]
    assert "a flat text" in render_as["query"]


def test_a_prompt_without_a_rule_for_the_item_says_so(models: dict) -> None:
    loaded = models["qwen2_vl"]
    only_text = Template("only_text", "", (Rule(modality=("text",)),))
    saved = chat_template(
        only_text,
        own_chat_template(loaded),
        generation_prompt=False,
        counterparts={"query": None, "candidate": None},
    )
    with pytest.raises(Exception, match="only_text"):
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], chat_template=saved, tokenize=False
        )
