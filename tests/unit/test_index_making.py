"""What an add asks of the store: the rows that it concerns, whatever else lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.index import Index, making
from clearsight.store.memory import MemoryView
from clearsight.types import Item
from small.toy_index import ToyEncoder, vector_of


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
def index(tmp_path: Path, encoder: ToyEncoder) -> Index:
    return Index.create(tmp_path / "index", encoder, address=f"memory:{tmp_path}", repair="none")


def words(**texts: str) -> list[Item]:
    return [Item(item_id, text=text) for item_id, text in texts.items()]


def raw(index: Index) -> dict[str, np.ndarray]:
    rows = [row for batch in index.store.view().read(["id", "raw"]) for row in batch.to_pylist()]
    return {row["id"]: np.array(row["raw"], np.float32) for row in rows}


def test_an_add_reads_the_rows_that_it_concerns(
    index: Index, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(words(**{f"t{n}": f"text {n}" for n in range(50)}))
    encoder.calls.clear()
    read: list[str] = []
    real = MemoryView.read

    def noted(self: MemoryView, columns: Any, **asked: Any) -> Any:
        for batch in real(self, dict.fromkeys(["id", *columns]), **asked):
            read.extend(batch.column("id").to_pylist())
            yield batch.select(list(columns))

    monkeypatch.setattr(MemoryView, "read", noted)
    added = index.add(words(t3="text 3", t4="another", new="text 7", newer="unheard"))
    assert (added.new, added.changed, added.same) == (2, 1, 1)
    assert set(read) == {"t3", "t4", "t7"}
    assert sorted(encoder.embedded) == ["newer", "t4"]


def test_a_content_whose_row_has_another_by_now_is_embedded_again(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is one commit: what a key's row holds is asked anew."""
    monkeypatch.setattr(making, "FIRST_CHUNK", 1)
    monkeypatch.setattr(making, "MOST_CHUNK", 1)
    index.add(words(a="one", c="three"))
    added = index.add(words(a="two", b="one", c="one"))
    assert (added.new, added.changed) == (1, 2)
    found = raw(index)
    for item_id, text in {"a": "two", "b": "one", "c": "one"}.items():
        np.testing.assert_array_equal(found[item_id], vector_of(Item(item_id, text=text)))
