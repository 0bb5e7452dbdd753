"""A pool's vectors where they lie: keys by digest, rows in the pool's order, whatever others do meanwhile."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearsight.errors import DataError
from clearsight.store import StoredRows, VectorTable, digests, keys, vectors
from clearsight.types import MODALITIES, RowSource


@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=12))
def test_the_index_is_a_dictionary_of_first_rows(batches):
    index, expected, start = keys.KeyIndex(), {}, 0
    for batch in batches:
        names = [f"key {i}" for i in batch]
        index.add(digests(names), start)
        for row, name in enumerate(names, start):
            expected.setdefault(name, row)
        start += len(names)
        asked = [f"key {i}" for i in range(62)]
        assert index.find(digests(asked)).tolist() == [expected.get(name, -1) for name in asked]
        assert len(index) == len(expected)


def test_digests_that_share_their_first_half_are_told_apart():
    some = digests([f"k{i}" for i in range(50)]).copy()
    some["high"][10:40] = some["high"][10]
    index = keys.KeyIndex()
    index.add(some[:30], 0)
    index.add(some[20:45], 100)
    assert index.find(some).tolist() == [*range(30), *range(110, 125), *[-1] * 5]


def rows_of(numbers) -> np.ndarray:
    return np.array([[number, number + 0.5, -number] for number in numbers], dtype=np.float32)


def stored(store: VectorTable, numbers, **changes) -> StoredRows:
    names = [f"key {i}" for i in numbers]
    given_ = {
        "ids": [f"item {place}" for place in range(len(numbers))],
        "side": "candidate",
        "modality_N": np.array([i % 3 for i in numbers], np.uint8),
    } | changes
    return StoredRows(store, digests(names), **given_)


def test_rows_come_in_the_pools_order_with_their_names(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path, {"model": "m"})
    store.add([f"key {i}" for i in range(40)], ["?"] * 40, rows_of(range(40)))
    numbers = [7, 3, 3, 39, 0, 12]  # the same content twice is two items
    source = stored(store, numbers)
    assert isinstance(source, RowSource)
    assert (len(source), source.width, source.origin) == (6, 3, {"model": "m"})
    everything = source.take(np.arange(6))
    assert np.array_equal(everything.rows_ND, rows_of(numbers))
    assert everything.ids == tuple(f"item {i}" for i in range(6))
    assert everything.modality_N.tolist() == [MODALITIES[i % 3] for i in numbers]
    some = source.take(np.array([5, 1]))
    assert (some.ids, some.rows_ND[:, 0].tolist()) == (("item 5", "item 1"), [12, 3])


def test_reading_goes_on_while_others_write_and_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "SMALL_FILES", 4)
    monkeypatch.setattr(vectors, "_KEEP_VERSIONS", timedelta(0))
    writer, reader = VectorTable.open(tmp_path), VectorTable.open(tmp_path)
    for i in range(0, 20, 5):
        writer.add([f"key {j}" for j in range(i, i + 5)], ["?"] * 5, rows_of(range(i, i + 5)))
    source = stored(reader, list(range(20))[::-1])
    for i in range(20, 60, 2):
        writer.add([f"key {j}" for j in (i, i + 1)], ["?"] * 2, rows_of((i, i + 1)))
        assert np.array_equal(source.take(np.arange(20)).rows_ND, rows_of(range(20)[::-1]))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path)
    store.add(["key 0"], ["?"], rows_of([0]))
    with pytest.raises(DataError, match=r"1 of 2 vectors are not in the store.*item 1"):
        stored(store, [0, 1])
    with pytest.raises(DataError, match="'x' appears twice"):
        stored(store, [0, 0], ids=["x", "x"])
    with pytest.raises(DataError, match="1 vectors are no longer in the table"):
        store.read(digests(["key 0", "nowhere"]))
