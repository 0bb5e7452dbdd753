"""Templates: the wordings, the files of one's own, and what a faulty one answers."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import DataError, UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.models.prompts import Part, Span, Turn, explain, get_template, prompt_names, render
from clearsight.types import MODALITIES, ROLES, Item, Modality, Role

TABLE_IV = ("no_prompt", "system_q", "system_d", "system_qd", "system_qd_rein_qd", "system_qd_rein_d")
CONTROLLED = (
    "controlled",
    "controlled_d_wordy",
    "controlled_d",
    "controlled_qd",
    "controlled_system",
    "controlled_system_d_wordy",
    "controlled_system_d",
    "controlled_system_q",
    "controlled_system_qd_wordy",
    "controlled_system_qd",
)
HIERARCHICAL = ("hierarchical", "hierarchical_captions", "hierarchical_wordy", *TABLE_IV, *CONTROLLED)
BUILT_IN = sorted(("caption", "caption_detailed", "freeret", "one_word", "plain", "vladva", *HIERARCHICAL))
SYSTEM = (
    "Given an image, summarize the provided image in one word. "
    "Given only text, describe the text in one word."
)


def item(modality: Modality, instruction: str | None = None) -> Item:
    text = "the words" if "text" in modality else None
    return Item("i", text=text, image=b"" if "image" in modality else None, instruction=instruction)


def words(turn: Turn) -> str:
    return "".join("<>" if p.kind == "image" else "".join(s.text for s in p.spans) for p in turn.parts)


def user(prompt: str, modality: Modality, role: Role, counterpart: Modality | None = None) -> str:
    return words(render(get_template(prompt), item(modality), role, counterpart=counterpart)[-1])


def test_names() -> None:
    assert prompt_names() == BUILT_IN


@pytest.mark.parametrize(
    ("modality", "role", "counterpart", "expected"),
    [
        ("text", "query", "image", "the above sentence"),
        ("text", "candidate", None, "the above sentence"),
        ("image", "query", "text", "the above image"),
        ("image+text", "query", "image", "the above image with the question"),
        ("image+text", "query", "text", "above image and sentence"),
        ("image+text", "candidate", "text", "above image and sentence"),
        ("image+text", "candidate", "image+text", "the above image and the sentence"),
        ("image+text", "query", "image+text", "the above image and the sentence"),
        ("image+text", "query", None, "above image and sentence"),
    ],
)
def test_one_word_has_the_wordings_of_the_release(
    modality: Modality, role: Role, counterpart: Modality | None, expected: str
) -> None:
    content = {"text": "the words", "image": "<>", "image+text": "<>the words"}[modality]
    wording = f"{content}\nSummarize {expected} in one word: "
    assert user("one_word", modality, role, counterpart) == wording


def whole(prompt: str, modality: Modality, role: Role) -> tuple[str, str]:
    """The system turn ("" without one) and the user turn of an item that has an instruction."""
    *system, turn = render(get_template(prompt), item(modality, "Find it."), role)
    return (words(system[0]) if system else "", words(turn))


def expected(
    modality: Modality, role: Role, *, system: str, represent: str, wordy: str = "", detach: bool = False
) -> tuple[str, str]:
    """What the paper's section III-B says of a prompt, spelt out once more."""
    side = {"query": "Q", "candidate": "D"}[role]
    content = {"text": "the words", "image": "<>", "image+text": "<>the words"}[modality]
    lead = "" if side == "D" and detach else "Find it.\n"
    user = f"<>{lead}{content.removeprefix('<>')}" if "image" in modality else f"{lead}{content}"
    if side in represent:
        user += "\nRepresent the given text/image" if "image" in modality else "\nRepresent the given text"
        user += "." if side in wordy else " in one word."
    return (SYSTEM if side in system else "", user)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("hierarchical", {"system": "QD", "represent": "Q"}),
        ("no_prompt", {"system": "", "represent": ""}),
        ("system_q", {"system": "Q", "represent": ""}),
        ("system_d", {"system": "D", "represent": ""}),
        ("system_qd", {"system": "QD", "represent": ""}),
        ("system_qd_rein_qd", {"system": "QD", "represent": "QD"}),
        ("system_qd_rein_d", {"system": "QD", "represent": "D"}),
        ("hierarchical_wordy", {"system": "QD", "represent": "Q", "wordy": "Q"}),
        ("controlled", {"system": "", "represent": "", "detach": True}),
        ("controlled_d_wordy", {"system": "", "represent": "D", "wordy": "D", "detach": True}),
        ("controlled_d", {"system": "", "represent": "D", "detach": True}),
        ("controlled_qd", {"system": "", "represent": "QD", "detach": True}),
        ("controlled_system", {"system": "QD", "represent": "", "detach": True}),
        ("controlled_system_d_wordy", {"system": "QD", "represent": "D", "wordy": "D", "detach": True}),
        ("controlled_system_d", {"system": "QD", "represent": "D", "detach": True}),
        ("controlled_system_q", {"system": "QD", "represent": "Q", "detach": True}),
        ("controlled_system_qd_wordy", {"system": "QD", "represent": "QD", "wordy": "D", "detach": True}),
        ("controlled_system_qd", {"system": "QD", "represent": "QD", "detach": True}),
    ],
)
def test_the_hierarchical_prompt_and_its_ablations(prompt: str, what: dict[str, Any]) -> None:
    for role, modality in product(ROLES, MODALITIES):
        assert whole(prompt, modality, role) == expected(modality, role, **what)
    assert get_template(prompt).generation_prompt is True


def test_captions_are_worded_as_queries_on_either_side() -> None:
    for role in ROLES:
        assert whole("hierarchical_captions", "text", role) == (
            SYSTEM,
            "Find me an image that matches the given caption: the words\n"
            "Represent the given text in one word.",
        )
        assert whole("hierarchical_captions", "image", role) == (SYSTEM, "<>")


def test_vladva_has_no_system_prompt_and_words_both_sides_alike() -> None:
    for modality in MODALITIES:
        query, candidate = (whole("vladva", modality, role) for role in ROLES)
        assert query == candidate
        assert query[0] == ""
        assert query[1].endswith("in one word: ")


def test_a_form_of_a_template() -> None:
    plain = get_template("hierarchical")
    released = get_template("hierarchical@vlm2vec")
    assert (plain.form, released.form) == ("chat", "vlm2vec")
    assert released.rule == plain.rule
    assert released.name == "hierarchical@vlm2vec"
    with pytest.raises(UsageError, match="hierarchical@vlm3vec"):
        get_template("hierarchical@vlm3vec")


def test_plain_is_the_content() -> None:
    assert render(get_template("plain"), item("image+text"), "query") == [
        Turn("user", (Part("image"), Part("text", (Span("the words", own=True),))))
    ]


@pytest.mark.parametrize("name", BUILT_IN)
def test_own_words_are_marked_and_every_item_is_worded(name: str) -> None:
    template = get_template(name)
    for role, modality, counterpart in product(ROLES, MODALITIES, (None, *MODALITIES)):
        turns = render(template, item(modality), role, counterpart=counterpart)
        own = [s.text for t in turns for p in t.parts for s in p.spans if s.own]
        assert own == (["the words"] if "text" in modality else []), name
        assert sum(p.kind == "image" for t in turns for p in t.parts) == ("image" in modality)
        assert turns[-1].role == "user"


def test_freeret_shares_the_task_and_names_the_side() -> None:
    query, candidate = user("freeret", "text", "query"), user("freeret", "text", "candidate")
    assert query != candidate
    assert query.replace(" A.", " B.").replace("on A,", "on B,") == candidate
    assert "You are required to assess if A is related to B" in query


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'description = "d"\norder = ["text", "image"]\ngeneration_prompt = false\n'
        '[[rule]]\nrole = "query"\nbefore = "B:"\nafter = " A"\nsystem = "S"\n'
        'instruction = "Do {instruction}. "\n'
        '[[rule]]\nafter = "!"\n',
    )
    template = get_template(path)
    assert (template.name, template.generation_prompt, template.order) == ("mine", False, ("text", "image"))
    assert get_template(str(path)) == template
    system, turn = render(template, item("image+text", "so"), "query")
    assert (words(system), words(turn)) == ("S", "Do so. B:the words<> A")
    assert words(render(template, item("text"), "candidate")[0]) == "the words!"
    assert asdict(template)["rule"][0]["role"] == ("query",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule]]\nafer = 'x'", "Did you mean 'after'"),
        ("descripton = 'x'\n[[rule]]", "Did you mean 'description'"),
        ("description = 'x'", "at least one rule"),
        ("[[rule]]\nrole = 'document'", "query, candidate"),
        ("[[rule]]\nmodality = ['video']", "image\\+text"),
        ("[[rule]]\nafter = 3", "Give a string"),
        ("[[rule]]\ninstruction = 'x'", "Write {instruction} once"),
        ("generation_prompt = 'yes'\n[[rule]]", "generation_prompt"),
        ("order = ['image']\n[[rule]]", "order"),
        ("form = 'vlm'\n[[rule]]", "chat, vlm2vec"),
        ("[[rule]", "not TOML"),
    ],
)
def test_a_faulty_file_is_refused_with_the_next_step(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        get_template(write(tmp_path, text))


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="Did you mean 'one_word'"):
        get_template("one-word")
    with pytest.raises(UsageError, match="no prompt file"):
        get_template("nowhere.toml")


def test_no_rule_for_an_item(tmp_path: Path) -> None:
    template = get_template(write(tmp_path, "[[rule]]\nmodality = 'text'"))
    with pytest.raises(UsageError, match="no rule for this item"):
        render(template, item("image"), "query")


def test_explain_shows_every_wording(folder_of: Any) -> None:
    text = explain(get_template("one_word"))
    assert "[query, image+text, other side image]" in text
    assert text.count("with the question in one word") == 1
    from clearsight.models.load import load_model

    rendered = explain(get_template("hierarchical"), load_model(folder_of("qwen2_vl")))
    assert (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{instruction}\n{text}\nRepresent"
        in rendered
    )
    assert "<|im_end|>\n<|im_start|>assistant\n" in rendered


def test_whether_the_other_side_changes_the_wording() -> None:
    """What looks across is part of a vector's origin; what does not is embedded once for every other side."""
    for name in BUILT_IN:
        template = get_template(name)
        apart = any(
            len({str(render(template, item(modality), role, counterpart=other)) for other in MODALITIES}) > 1
            for role, modality in product(ROLES, MODALITIES)
        )
        assert template.looks_across == apart, name
    loaded = load_model("tiny")
    assert Encoder(loaded, prompt="plain").origin(counterpart="text")["counterpart"] is None
    assert Encoder(loaded, prompt="one_word").origin(counterpart="text")["counterpart"] == "text"
