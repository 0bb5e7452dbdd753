"""The laws of the nouns."""

from __future__ import annotations

import numpy as np
import pytest

from clearsight import Embeddings, Item, Task
from clearsight.errors import DataError
from clearsight.types import MODALITIES, kinds_of

ITEMS = (Item("a", text="x"), Item("b", text="y"))


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        (Item("a", text="x"), "text"),
        (Item("a", image=b"x"), "image"),
        (Item("a", text="x", image=b"x"), "image+text"),
    ],
)
def test_modality_is_derived(item: Item, modality: str) -> None:
    assert item.modality == modality


def test_an_item_holds_something() -> None:
    with pytest.raises(DataError, match="a text or an image"):
        Item("a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"queries": (*ITEMS, ITEMS[0])},
        {"candidates": (*ITEMS, ITEMS[0])},
        {"relevance": {"c": {"a": 1.0}}},
        {"relevance": {"a": {"c": 1.0}}},
        {"pools": {"a": ["c"]}},
        {"excluded": {"a": ["c"]}},
        {"groups": {"c": "g"}},
    ],
)
def test_a_task_refers_to_what_exists_once(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"queries": ITEMS, "candidates": ITEMS, "relevance": {"a": {"b": 1.0}}}
    Task("t", **right)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        Task("t", **(right | wrong))  # type: ignore[arg-type]


def test_rows_and_names_cannot_be_misaligned() -> None:
    rows_ND = np.ones((2, 3))
    with pytest.raises(DataError, match="do not fit together"):
        Embeddings.of(["a"], rows_ND)
    with pytest.raises(DataError, match="'a' appears twice"):
        Embeddings.of(["a", "a"], rows_ND)


def test_rows_that_are_no_numbers_are_named() -> None:
    rows_ND = np.ones((3, 2))
    rows_ND[1, 0], rows_ND[2, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 3 rows hold NaN or infinity.*b, c"):
        Embeddings.of(["a", "b", "c"], rows_ND)


def test_take_keeps_names_with_rows() -> None:
    embeddings = Embeddings.of(
        ["a", "b", "c"], np.arange(6).reshape(3, 2), modality=["text", "image", "text"]
    )
    taken = embeddings.take([2, 1])
    assert taken.ids == ("c", "b")
    assert taken.rows_ND.tolist() == [[4, 5], [2, 3]]
    assert taken.modality_N.tolist() == ["text", "image"]
    assert embeddings.take(np.array([True, False, True])).ids == ("a", "c")
    assert embeddings.with_rows(np.zeros((3, 5)), note=1).origin == {"note": 1}


def test_kinds_are_the_modalities_of_items() -> None:
    items = [Item("a", image=b"x"), Item("b", text="x"), Item("c", text="x", image=b"x")]
    assert [MODALITIES[kind] for kind in kinds_of(items)] == [item.modality for item in items]
    assert kinds_of([]).shape == (0,)
