"""The store keeps what it was given, once, whole, and for every process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clearsight.errors import DataError, UsageError
from clearsight.store import VectorCache, VectorTable, vectors


def row(seed: int, width: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((1, width)).astype(np.float32)


def fill(store: VectorTable, names: str, width: int = 3) -> None:
    store.add(list(names), [f"id {n}" for n in names], np.concatenate([row(ord(n), width) for n in names]))


def test_what_was_added_is_found_in_the_order_asked(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path / "store", {"model": "m"})
    assert isinstance(store, VectorCache)
    fill(store, "abc")
    found, rows = store.lookup(["c", "nowhere", "a", "c"])
    assert found.tolist() == [True, False, True, True]
    assert np.array_equal(rows, np.concatenate([row(ord(n)) for n in "cac"]))
    assert rows.dtype == np.float32
    assert (len(store), store.width) == (3, 3)


def test_a_shared_table_is_one_object_while_somebody_holds_it(tmp_path: Path) -> None:
    first = VectorTable.shared(tmp_path / "s", {"model": "m"})
    assert VectorTable.shared(str(tmp_path / "s"), {"model": "m"}) is first
    assert VectorTable.shared(tmp_path / "s", {"model": "n"}) is not first
    assert VectorTable.open(tmp_path / "s", {"model": "m"}) is not first
    fill(VectorTable.open(tmp_path / "s", {"model": "m"}), "ab")
    again = VectorTable.shared(tmp_path / "s", {"model": "m"})
    assert again is first
    assert again.lookup(["a"])[0].all(), "what others added is seen"
    shutil.rmtree(tmp_path / "s")
    fresh = VectorTable.shared(tmp_path / "s", {"model": "m"})
    assert fresh is not first
    assert not fresh.lookup(["a"])[0].any()


def test_an_empty_store_writes_nothing(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path / "new" / "store")
    found, rows = store.lookup(["a", "b"])
    assert (found.tolist(), rows.shape, len(store), store.width) == ([False, False], (0, 0), 0, None)
    store.add([], [], np.zeros((0, 4)))
    assert list(tmp_path.iterdir()) == []


def test_a_key_keeps_its_first_row(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path)
    fill(store, "a")
    version = store._version
    store.add(["a"], ["other"], row(999))
    assert store._version == version, "nothing was written"
    store.add(["b", "b", "a"], ["1", "2", "3"], np.concatenate([row(1), row(2), row(3)]))
    _, rows = store.lookup(["a", "b"])
    assert np.array_equal(rows, np.concatenate([row(ord("a")), row(1)]))
    assert len(store) == 2


def test_it_is_there_when_opened_again_and_readable_by_a_person(tmp_path: Path) -> None:
    import lance

    origin = {"model": "org/name", "prompt": {"name": "one_word"}, "layer": -1}
    fill(VectorTable.open(tmp_path, origin), "ab")
    again = VectorTable.open(tmp_path, dict(reversed(origin.items())))
    assert again.lookup(["b"])[0].all(), "the order of an origin's entries does not matter"
    [table] = tmp_path.iterdir()
    assert table.name.startswith("org-name-")
    dataset = lance.dataset(str(table))
    assert dataset.schema.names == ["key", "id", "vector"]
    assert json.loads(dataset.schema.metadata[vectors.ORIGIN_KEY]) == origin
    assert dataset.to_table().column("id").to_pylist() == ["id a", "id b"]


def test_origins_do_not_mix(tmp_path: Path) -> None:
    one, two = (VectorTable.open(tmp_path, {"model": "m", "pooling": p}) for p in ("mean", "last"))
    fill(one, "a", width=3)
    fill(two, "ab", width=5)
    assert one.lookup(["a", "b"])[0].tolist() == [True, False]
    assert two.lookup(["a"])[1].shape == (1, 5)


def test_another_store_sees_it_at_once(tmp_path: Path) -> None:
    writer, reader = VectorTable.open(tmp_path), VectorTable.open(tmp_path)
    for names in ("a", "bc", "d"):
        fill(writer, names)
        assert reader.lookup(list(names))[0].all()
    fill(reader, "e")
    assert np.array_equal(writer.lookup(list("abcde"))[1], reader.lookup(list("abcde"))[1])


def test_small_files_are_merged_and_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SMALL_FILES", 5)
    monkeypatch.setattr(vectors, "FULL_FILE_ROWS", 8)
    store, reader = VectorTable.open(tmp_path), VectorTable.open(tmp_path)
    keys = [f"k{i}" for i in range(40)]
    for i in range(0, 40, 2):
        store.add(keys[i : i + 2], keys[i : i + 2], np.concatenate([row(i), row(i + 1)]))
        assert len(store._fragments) < 5 + 40 // 8
        for other in (store, reader, VectorTable.open(tmp_path)):
            found, rows = other.lookup(keys)
            assert found.tolist() == [j < i + 2 for j in range(40)]
            assert np.array_equal(rows, np.concatenate([row(j) for j in range(i + 2)]))
    assert len(store._fragments) < 10


def test_a_lookup_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_TAKE_ROWS", 7)
    store = VectorTable.open(tmp_path)
    keys = [f"k{i}" for i in range(50)]
    values = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    store.add(keys, keys, values)
    order = np.random.default_rng(1).permutation(50)
    assert np.array_equal(store.lookup([keys[i] for i in order])[1], values[order])


@pytest.mark.parametrize("folder", ["with space", "per%20cent", "hash#mark", "ümlaut"])
def test_folders_with_odd_names(folder: str, tmp_path: Path) -> None:
    fill(VectorTable.open(tmp_path / folder), "a")
    assert VectorTable.open(tmp_path / folder).lookup(["a"])[0].all()
    assert [p.name for p in tmp_path.iterdir()] == [folder]


def test_half_and_double_precision_are_kept_as_float32(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path)
    store.add(["h"], ["h"], np.array([[1.5, 2.0]], np.float16))
    store.add(["d"], ["d"], np.array([[0.1, 2.0]], np.float64))
    assert np.array_equal(store.lookup(["h", "d"])[1], np.array([[1.5, 2], [0.1, 2]], np.float32))


@pytest.mark.parametrize(
    ("keys", "rows", "reason"),
    [
        (["x"], np.array([[1.0, np.nan, 0.0]]), "NaN"),
        (["x"], np.array([[1.0, np.inf, 0.0]]), "NaN or infinity"),
        (["x", "y"], np.zeros((1, 3)), "fit together"),
        (["x"], np.zeros(3), "fit together"),
        (["x"], np.zeros((1, 0)), "fit together"),
        (["x"], np.zeros((1, 4)), "width 4 do not fit a table of width 3"),
    ],
)
def test_refused_rows_leave_the_table_as_it_was(
    keys: list[str], rows: np.ndarray[Any, Any], reason: str, tmp_path: Path
) -> None:
    store = VectorTable.open(tmp_path)
    fill(store, "a")
    with pytest.raises(DataError, match=reason) as caught:
        store.add(keys, [f"item {k}" for k in keys], rows)
    assert caught.value.do
    assert len(VectorTable.open(tmp_path)) == 1


def test_what_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        VectorTable.open(tmp_path / "file")
    with pytest.raises(UsageError, match="JSON"):
        VectorTable.open(tmp_path, {"model": object()})


def test_a_broken_table_says_so(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path)
    fill(store, "a")
    for manifest in (store.path / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"garbage")
    with pytest.raises(DataError, match="cannot be opened") as caught:
        VectorTable.open(tmp_path)
    assert caught.value.where == str(store.path)


def test_a_table_abandoned_before_its_first_commit_is_as_none(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path)
    (store.path / "data").mkdir(parents=True)
    (store.path / "_versions").mkdir()
    (store.path / "data" / "orphan.lance").write_bytes(b"half a fi")
    assert len(VectorTable.open(tmp_path)) == 0
    fill(store, "a")
    assert VectorTable.open(tmp_path).lookup(["a"])[0].all()


@pytest.mark.skipif(not hasattr(os, "fsync"), reason="no fsync")
def test_data_is_synced_before_the_commit_and_the_commit_before_returning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append of data not yet on the disk, or a commit not yet on it, would break the promise."""
    import lance

    store = VectorTable.open(tmp_path)
    fill(store, "a")
    events: list[str] = []
    real_sync, real_commit = vectors.sync, lance.LanceDataset.commit
    monkeypatch.setattr(
        vectors, "sync", lambda *paths: (events.extend(p.parts[-2] for p in paths), real_sync(*paths))
    )

    def commit(*args: Any, **options: Any) -> Any:
        events.append("commit")
        return real_commit(*args, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(commit))
    fill(store, "b")
    assert events == ["data", store.path.name, "commit", "_versions", store.path.name]


class StoreLikeADict(RuleBasedStateMachine):
    """Two handles of one store against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self.stores = [VectorTable.open(self._folder.name) for _ in range(2)]
        self.model: dict[str, np.ndarray[Any, Any]] = {}

    @rule(
        which=st.integers(0, 1),
        keys=st.lists(st.sampled_from("abcdefgh"), max_size=5),
        seed=st.integers(0, 99),
    )
    def add(self, which: int, keys: list[str], seed: int) -> None:
        rows = np.concatenate([row(seed + i) for i in range(len(keys))]) if keys else np.zeros((0, 3))
        self.stores[which].add(keys, keys, rows)
        for key, value in zip(keys, rows, strict=True):
            self.model.setdefault(key, value)

    @rule()
    def reopen(self) -> None:
        self.stores[0] = VectorTable.open(self._folder.name)

    @invariant()
    def equal(self) -> None:
        for store in self.stores:
            found, rows = store.lookup(list("abcdefgh"))
            assert found.tolist() == [k in self.model for k in "abcdefgh"]
            assert np.array_equal(
                rows, np.array([self.model[k] for k in "abcdefgh" if k in self.model]).reshape(rows.shape)
            )

    def teardown(self) -> None:
        self._folder.cleanup()


TestStoreLikeADict = StoreLikeADict.TestCase
TestStoreLikeADict.settings = settings(max_examples=12, stateful_step_count=8, deadline=None)

WRITER = """
import sys
import numpy as np
from clearsight.store import VectorTable, vectors
vectors.SMALL_FILES = 4
folder, name = sys.argv[1:]
store = VectorTable.open(folder, {"model": "m"})
sys.stdin.readline()  # all start together
for i in range(10):
    keys = [f"{name} {i} {j}" for j in range(3)] + [f"shared {i}"]
    rows = np.array([[hash_, i, j] for j, hash_ in enumerate([ord(name)] * 3)] + [[0, i, 99]], np.float32)
    store.add(keys, keys, rows)
"""


def test_processes_that_write_and_merge_at_once_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True))
            for name in "xyz"
        ]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    store = VectorTable.open(tmp_path, {"model": "m"})
    keys = [f"{name} {i} {j}" for name in "xyz" for i in range(10) for j in range(3)]
    expected = [[ord(name), i, j] for name in "xyz" for i in range(10) for j in range(3)]
    found, rows = store.lookup(keys + [f"shared {i}" for i in range(10)])
    assert found.all()
    assert np.array_equal(rows, np.array(expected + [[0, i, 99] for i in range(10)], np.float32))
    assert len(store) == len(keys) + 10
