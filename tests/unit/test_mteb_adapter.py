"""What mteb gives and wants, without mteb: batches of columns in, rows of one encoder and repair out."""

from __future__ import annotations

from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight import Encoder, Item, PerGroup, ShrinkageZCA
from clearsight.errors import ItemError, UsageError
from clearsight.mteb import MtebRetriever, given


class Prompt(StrEnum):
    query = "query"
    document = "document"


def metadata(category: str = "t2i", prompt: Any = None) -> Any:
    """The part of a task's metadata that is read."""
    kinds = {"t": ["text"], "i": ["image"], "it": ["image", "text"], "a": ["audio"]}
    sides = dict(zip(Prompt, category.split("2"), strict=True))
    return SimpleNamespace(prompt=prompt, get_modalities=lambda side: kinds[sides[side]])


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8))


def encode(retriever: MtebRetriever, batches: Any, side: Any, task: Any = None, **more: Any) -> np.ndarray:
    task = task or metadata()
    return retriever.encode(
        batches, task_metadata=task, hf_split="test", hf_subset="default", prompt_type=side, **more
    )


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("tiny", prompt="one_word")


TEXTS = ["a red square", "a blue circle above it", "what colour?", "green", "two triangles"]


def test_texts_are_queries(encoder: Encoder) -> None:
    batches = [{"id": ["a", "b"], "text": TEXTS[:2], "query": TEXTS[:2]}, {"id": ["c"], "text": TEXTS[2:3]}]
    items = [Item(name, text=text) for name, text in zip("abc", TEXTS[:3], strict=True)]
    rows_ND = encode(MtebRetriever(encoder), batches, Prompt.query)
    np.testing.assert_allclose(rows_ND, encoder.embed(items, "query", counterpart="image").rows_ND, atol=1e-5)
    assert rows_ND.dtype == np.float32


def test_images_and_both_are_candidates(encoder: Encoder) -> None:
    """An image alone among items of image and text comes with an empty text."""
    pictures = [picture(i) for i in range(3)]
    batch = {"image": pictures, "text": ["a square", "", "a circle"]}
    items = [
        Item("0", image=pictures[0], text="a square"),
        Item("1", image=pictures[1]),
        Item("2", image=pictures[2], text="a circle"),
    ]
    rows_ND = encode(MtebRetriever(encoder), [batch], Prompt.document, metadata("t2it"))
    ours = encoder.embed(items, "candidate", counterpart="text").rows_ND
    np.testing.assert_allclose(rows_ND, ours, atol=1e-5)


def test_blocks_change_nothing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(MtebRetriever(encoder), [{"text": TEXTS}], Prompt.query)
    monkeypatch.setattr(given, "BLOCK", 2)
    np.testing.assert_allclose(
        encode(MtebRetriever(encoder), [{"text": TEXTS}], Prompt.query), whole, atol=1e-5
    )


def test_repair_keeps_its_statistics(encoder: Encoder) -> None:
    """A side is repaired as fitted, whatever else is in the call: one item as in a whole."""
    queries = encoder.embed([Item(t, text=t) for t in TEXTS], "query", counterpart="image")
    candidates = encoder.embed([Item(str(i), image=picture(i)) for i in range(6)], counterpart="text")
    repair = PerGroup(ShrinkageZCA(), "side").fit(queries, candidates)
    retriever = MtebRetriever(encoder, repair)
    ours = repair.transform(queries).rows_ND
    np.testing.assert_allclose(encode(retriever, [{"text": TEXTS}], Prompt.query), ours, atol=1e-4)
    np.testing.assert_allclose(encode(retriever, [{"text": TEXTS[:1]}], Prompt.query), ours[:1], atol=1e-4)
    rows_ND = encode(retriever, [{"image": [picture(2)]}], Prompt.document)
    np.testing.assert_allclose(rows_ND, repair.transform(candidates).rows_ND[2:3], atol=1e-4)


@pytest.mark.parametrize(
    ("task_prompt", "own", "expected"),
    [
        ("Find it.", None, "Find it."),
        ({"query": "Find it.", "document": "Read it."}, None, "Find it."),
        ({"document": "Read it."}, None, None),
        ("Find it.", "Find the red one.", "Find the red one."),
        (None, "Find the red one.", "Find the red one."),
    ],
)
def test_instructions_go_where_the_prompt_has_a_place(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, task_prompt: Any, own: str | None, expected: str | None
) -> None:
    seen: list[Item] = []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda items, *a, **k: seen.extend(items) or embed(items, *a, **k))
    batch: dict[str, Any] = {"text": ["a square"], "query": ["a square"]}
    if own is not None:
        batch |= {"text": [f"a square {own}"], "instruction": [own]}
    encode(MtebRetriever(encoder), [batch], Prompt.query, metadata(prompt=task_prompt))
    assert (seen[0].text, seen[0].instruction) == ("a square", expected)
    seen.clear()
    encode(MtebRetriever(encoder), [{"text": ["a square"]}], Prompt.document, metadata("t2t", task_prompt))
    assert seen[0].instruction is None, "candidates are asked nothing"


def test_skipped_items_stand_last() -> None:
    encoder = Encoder.load("tiny", on_error="skip")
    retriever = MtebRetriever(encoder)
    rows_ND = encode(retriever, [{"id": ["good", "bad"], "text": ["a square", " "]}], Prompt.document)
    assert rows_ND[0].any()
    assert not rows_ND[1].any()
    assert list(retriever.skipped) == ["bad (1)"]
    scores_NM = retriever.similarity(-rows_ND[:1], rows_ND)
    assert scores_NM.tolist() == [[pytest.approx(-1), -1]]
    with pytest.raises(ItemError, match=r"bad \(0\)"):
        encode(MtebRetriever(Encoder.load("tiny")), [{"id": ["bad"], "text": [" "]}], Prompt.document)


def test_a_block_of_skipped_items_has_the_others_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "BLOCK", 1)
    rows_ND = encode(
        MtebRetriever(Encoder.load("tiny", on_error="skip")), [{"text": [" ", "a square"]}], Prompt.query
    )
    assert rows_ND.shape[0] == 2
    assert rows_ND.shape[1] > 0
    assert not rows_ND[0].any()


def test_similarity_is_the_cosine() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))
    naive = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in other] for a in one]
    retriever = MtebRetriever(Encoder.load("tiny"))
    np.testing.assert_allclose(retriever.similarity(one, torch.from_numpy(other)), naive, atol=1e-6)
    np.testing.assert_allclose(
        retriever.similarity_pairwise(one[:3], other), np.diag(np.array(naive)[:3]), atol=1e-6
    )
    assert retriever.similarity(one[0], other).shape == (1, 3)


def test_what_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="columns audio"):
        encode(MtebRetriever(encoder), [{"audio": [0]}], Prompt.query)
    with pytest.raises(UsageError, match="float32, not int8"):
        encode(MtebRetriever(encoder), [{"text": TEXTS}], Prompt.query, precision="int8")
    with pytest.raises(UsageError, match="not fitted on embeddings"):
        MtebRetriever(encoder, ShrinkageZCA())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not fitted"):
        MtebRetriever(encoder, PerGroup(ShrinkageZCA()))


@pytest.mark.parametrize(
    ("loaded", "name"),
    [
        ("owner/model", "owner/model"),
        ("tiny", "clearsight/tiny"),
        ("/some/where/my model", "clearsight/my-model"),
    ],
)
def test_names_have_an_owner(loaded: str, name: str) -> None:
    assert given.owned(loaded) == name


def test_nothing_to_encode(encoder: Encoder) -> None:
    assert encode(MtebRetriever(encoder), [], Prompt.query).shape == (0, 0)
