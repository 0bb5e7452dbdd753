"""An index whose store has an approximate index: refitted, added to, asked several questions at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clearsight.index import Index, Query
from clearsight.store import lance_index, lance_search, lance_view
from clearsight.store.door import Space
from clearsight.types import Item
from small.toy_index import ToyEncoder

ROWS = 400


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setattr(lance_index, "INDEX_ROWS", 300)
    monkeypatch.setattr(lance_index, "SAMPLE", 10)
    index = Index.create(tmp_path / "index", ToyEncoder(), repair="none")
    index.add([Item(f"t{n}", text=f"text {n}") for n in range(ROWS)])
    return index


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Columns whose approximate index was searched, and with how many queries."""
    seen: list[tuple[str, int]] = []
    real = lance_search.near_rows

    def noted(dataset: Any, column: str, condition: Any, query_QD: Any, *rest: Any) -> Any:
        seen.append((column, len(query_QD)))
        return real(dataset, column, condition, query_QD, *rest)

    monkeypatch.setattr(lance_view, "near_rows", noted)
    return seen


def test_both_vectors_are_indexed_again_by_a_refit(index: Index, probed: list[tuple[str, int]]) -> None:
    assert set(index.store.view().facts()["index"]) == {"raw", "vector"}
    index.refit("centred")
    assert index.store.view().repair == "000001"
    assert set(index.store.view().facts()["index"]) == {"raw", "vector"}
    for space in ("repaired", "raw"):
        (first, *_) = index.search("text 7", space=space).hits
        assert first.id == "t7"
    assert probed == [("vector_000001", 1), ("raw", 1)]


def test_an_index_is_extended_when_it_lacks_many_rows(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    real = lance_index._measured
    monkeypatch.setattr(
        lance_index,
        "_measured",
        lambda dataset, column, n: (measured.append(column), real(dataset, column, n))[1],
    )
    index.add([Item("new", text="a new text"), Item("t3", text="another text")])
    assert not measured
    assert index.store.view().facts()["index"]["vector"]["rows"] == ROWS
    for words, item_id in {"a new text": "new", "another text": "t3", "text 3": None}.items():
        (first, *_) = index.search(words, top=1).hits
        assert (first.id == item_id) if item_id else first.score < 0.99
    index.add([Item(f"n{n}", text=f"further text {n}") for n in range(ROWS // 50)])
    assert sorted(measured) == ["raw", "vector"]
    assert index.store.view().facts()["index"]["vector"]["rows"] == ROWS + 1 + ROWS // 50


@pytest.mark.parametrize("where", [None, "id < 't2'"])
def test_several_questions_at_once_have_the_answers_of_each(index: Index, where: str | None) -> None:
    index.refit("centred")
    index.add([Item("picture of words", text="text 500")])
    spaces: tuple[Space, ...] = ("repaired", "raw")
    queries = [Query(f"text {n}", top=1 + n % 5, where=where, space=spaces[n % 2]) for n in range(40)]
    queries += [Query(like="t7"), Query(like="t9", space="raw")]
    for query, answer in zip(queries, index.search_many(queries), strict=True):
        alone = index.search(query)
        assert (answer.query, answer.repair, answer.notes) == (query, alone.repair, alone.notes)
        assert [hit.id for hit in answer.hits] == [hit.id for hit in alone.hits]
        scores = [hit.score for hit in alone.hits]
        assert [hit.score for hit in answer.hits] == pytest.approx(scores, abs=1e-6)
        assert len(answer.hits) == query.top
