"""What is judged when items were skipped."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from clearsight.data.item_table import ItemTable
from clearsight.jobs.embedding import kept
from clearsight.names import Names
from clearsight.types import Embeddings, Item, Task


def sides(queries: list[str], candidates: list[str]) -> tuple[Embeddings, Embeddings]:
    return (
        Embeddings.of(queries, np.ones((len(queries), 2)), side="query"),
        Embeddings.of(candidates, np.ones((len(candidates), 2))),
    )


def task(**options: object) -> Task:
    items = {side: tuple(Item(name, text=name) for name in names) for side, names in NAMES.items()}
    return Task("t", items["queries"], items["candidates"], {"q": {"a": 1.0}, "r": {"b": 1.0}}, **options)


NAMES = {"queries": ["q", "r"], "candidates": ["a", "b", "c"]}


def test_nothing_skipped_is_the_task_itself() -> None:
    whole = task()
    assert kept(whole, *sides(["q", "r"], ["a", "b", "c"])) is whole


def test_a_query_whose_answer_is_gone_is_not_judged() -> None:
    less = kept(task(), *sides(["q", "r"], ["b", "c"]))
    assert less.relevance == {"q": {}, "r": {"b": 1.0}}
    assert [item.id for item in less.queries] == ["q", "r"]


def test_a_pool_that_lost_a_candidate_gives_no_free_hit() -> None:
    choice = task(pools={"q": ["a", "c"], "r": ["b", "a"]})
    less = kept(choice, *sides(["q", "r"], ["a", "b"]))
    assert less.relevance == {"r": {"b": 1.0}}
    assert less.pools == {"q": ["a"], "r": ["b", "a"]}


class Elsewhere:
    """Rows outside memory: here only their names are asked for."""

    def __init__(self, names: list[str]) -> None:
        self.ids = Names.of(names)

    def __len__(self) -> int:
        return len(self.ids)


@pytest.mark.parametrize("left", [["a", "b"], ["b", "c"], ["c"]])
def test_of_a_pool_outside_memory_the_same_is_judged(
    left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "pools": {"q": ["a", "c"], "r": ["b", "a"]},
        "excluded": {"r": ["c"]},
        "groups": {"q": "g", "r": "g"},
    }
    expected = kept(task(**options), *sides(["q", "r"], left))
    columns = {side: ItemTable(pa.table({"id": names, "text": names})) for side, names in NAMES.items()}
    whole = Task(
        "t", columns["queries"], columns["candidates"], {"q": {"a": 1.0}, "r": {"b": 1.0}}, **options
    )
    queries, _ = sides(["q", "r"], left)
    monkeypatch.setattr(ItemTable, "_items", None)
    less = kept(whole, queries, Elsewhere(left))  # type: ignore[arg-type]
    monkeypatch.undo()
    for name in ("relevance", "pools", "excluded", "groups"):
        assert getattr(less, name) == getattr(expected, name), name
    assert tuple(less.candidates) == expected.candidates
    assert tuple(less.queries) == expected.queries
