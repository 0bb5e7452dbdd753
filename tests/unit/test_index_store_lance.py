"""What Lance stores do beyond the door: the approximate index, merging small files, what a search reads."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clearsight.errors import DataError
from clearsight.store import lance as lance_store
from clearsight.store import lance_index, lance_search, open_store, parse_where
from clearsight.store.columns import vector_column
from clearsight.store.exact import Block, best_rows, ordered, unit_rows
from clearsight.store.lance_schema import Layout


def rows(ids, raw_ND, **columns):
    raw_ND = np.asarray(raw_ND, np.float32)
    length_N1 = np.linalg.norm(raw_ND, axis=1, keepdims=True)
    unit_ND = raw_ND / np.where(length_N1 == 0, 1, length_N1)
    table = {"id": ids, "key": ids, "modality": ["image"] * len(ids)}
    return pa.table(
        {
            **table,
            "raw": vector_column(raw_ND),
            "vector": vector_column(unit_ND.astype(np.float32)),
            **columns,
        }
    )


def names(found):
    return found.rows.column("id").to_pylist()


def clusters(count, width, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, width))
    return centres[random.integers(0, 20, count)] + 0.5 * random.normal(size=(count, width))


@pytest.mark.parametrize("width", [24, 13])
def test_the_approximate_index(tmp_path, monkeypatch, width):
    monkeypatch.setattr(lance_index, "SAMPLE", 30)
    monkeypatch.setattr(lance_index, "ROWS_A_PARTITION", 256)
    monkeypatch.setattr(lance_search, "_FEW_ROWS", 40)
    store = open_store(str(tmp_path / "items.lance"), width, create=True)
    raw_ND = clusters(2000, width)
    raw_ND[7] = 0
    store.add(rows([f"i{i:05}" for i in range(2000)], raw_ND, meta_n=list(range(2000))))
    assert store.build()["index"] is None  # too few rows to be worth one
    facts = store.build(force=True)["index"]
    assert set(facts) == {"raw", "vector"}
    for note in facts.values():
        assert note["rows"] == 2000
        assert note["partitions"] == 2000 // 256
        assert 0.9 < note["recall@10"] <= 1
    version = store.view().version
    assert store.build(force=True)["index"] == facts
    assert store.view().version == version, "nothing was new"

    view = store.view()
    query_QD = clusters(20, width, seed=1).astype(np.float32)
    where = parse_where("n >= 1000", view.fields)
    rare = parse_where("n < 30", view.fields)
    for space in ("raw", "repaired"):
        near, exact = (view.search(query_QD, 10, space=space, exact=flag) for flag in (False, True))
        assert np.mean([len({*names(a)} & {*names(b)}) for a, b in zip(near, exact, strict=True)]) > 9
        for one, all_of_it in zip(near, exact, strict=True):
            known = dict(zip(names(all_of_it), all_of_it.score_K.tolist(), strict=True))
            scores = dict(zip(names(one), one.score_K.tolist(), strict=True))
            assert all(known[name] == scores[name] for name in set(known) & set(scores))  # exact scores
    for found in view.search(query_QD, 10, where=where, columns=("id", "meta_n")):
        assert len(found.rows) == 10
        assert min(found.rows.column("meta_n").to_pylist()) >= 1000
    for near, exact in zip(
        view.search(query_QD, 10, where=rare), view.search(query_QD, 10, where=rare, exact=True), strict=True
    ):
        assert names(near) == names(exact)
    assert len(view.search(query_QD[:1], 10_000)[0].rows) == 2000

    store.add(rows(["new", "i00003"], -raw_ND[[5, 6]]))  # found before the index knows them
    store.delete(["i00006"])
    for _ in range(2):
        found = store.view().search(-raw_ND[[5]].astype(np.float32), 1)[0]
        assert names(found) == ["new"]
        assert "i00006" not in names(store.view().search(raw_ND[[6]].astype(np.float32), 20)[0])
        assert store.build(force=True)["index"]["vector"]["rows"] == 2000
    store.rewrite("000001", lambda batch: np.stack(batch.column("raw").to_numpy(zero_copy_only=False)))
    assert set(store.view().facts()["index"] or {}) == {"raw"}, "the new vectors have no index yet"
    assert len(store.view().search(query_QD, 10)[3].rows) == 10
    assert set(store.build(force=True)["index"]) == {"raw", "vector"}
    assert view.search(query_QD[:1], 10)[0].rows.num_rows == 10  # the old view, by the old index


def test_from_how_many_rows_an_index_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_index, "INDEX_ROWS", 300)
    monkeypatch.setattr(lance_index, "SAMPLE", 10)
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    raw_ND = clusters(700, 8)
    store.add(rows([f"{i}" for i in range(299)], raw_ND[:299]))
    assert store.build()["index"] is None
    store.add(rows([f"{i}" for i in range(299, 400)], raw_ND[299:400]))
    assert store.build()["index"]["vector"]["trained_rows"] == 400
    store.add(rows([f"{i}" for i in range(400, 500)], raw_ND[400:500]))
    assert store.build()["index"]["vector"]["trained_rows"] == 400
    assert store.view().facts()["index"]["vector"]["rows"] == 500
    monkeypatch.setattr(lance_index, "GROWN", 1.5)
    store.add(rows([f"{i}" for i in range(500, 700)], raw_ND[500:]))
    assert store.build()["index"]["vector"]["trained_rows"] == 700


def test_rows_are_found_by_name_without_reading_all(tmp_path):
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    ids = [f"{i * 7919 % 2000}" for i in range(2000)]
    store.add(rows(ids, clusters(2000, 8)))

    def plan(column):
        return store.view().dataset.scanner(["id"], filter=f"{column} in ('7', '8')").explain_plan()

    assert not any("ScalarIndexQuery" in plan(column) for column in ("id", "key"))
    store.build(force=True)
    assert all("ScalarIndexQuery" in plan(column) for column in ("id", "key"))
    version = store.view().version
    store.build(force=True)
    assert store.view().version == version, "nothing was new"
    store.delete(ids[3:5])
    store.add(rows(["new", ids[0]], clusters(2, 8)))
    view, asked = store.view(), ["new", *ids[:6]]
    assert view.rows == 2000 - 2 + 1
    for named in ({"ids": asked}, {"keys": asked}):
        found = [name for batch in view.read(["id"], **named) for name in batch.column("id").to_pylist()]
        assert sorted(found) == sorted({*asked} - {*ids[3:5]})


def test_filters_of_ids_do_not_depend_on_an_index(tmp_path):
    from hypothesis import given

    from small.filters import TEXTS, evaluate, filters, written

    ids = [f"{text}{n}" for n in range(40) for text in TEXTS if text or n]
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    store.add(rows(ids[:400], clusters(400, 8)))
    store.build(force=True)
    store.add(rows(ids[400:], clusters(len(ids) - 400, 8)))
    view = store.view()
    assert {"id_idx", "key_idx"} <= {index.name for index in view.dataset.describe_indices()}

    @settings(max_examples=60, deadline=None)
    @given(filters({"id": (pa.string(), [*ids[:3], *ids[-3:], *TEXTS, "Bern1", "100%"])}))
    def holds(node):
        where = parse_where(written(node), view.fields)
        found = [one for batch in view.read(["id"], where=where) for one in batch.column("id").to_pylist()]
        assert sorted(found) == sorted(name for name in ids if evaluate(node, {"id": name}) is True)

    holds()


def test_many_small_adds_leave_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_store, "SMALL_FILES", 8)
    monkeypatch.setattr(lance_store, "FULL_FILE_ROWS", 60)
    monkeypatch.setattr(lance_store, "GRACE", timedelta(0))
    store = open_store(str(tmp_path / "items.lance"), 4, create=True)
    random = np.random.default_rng(0)
    kept = {}
    for i in range(40):
        raw_ND = random.normal(size=(3, 4))
        ids = [f"{i}", f"{i} too", f"again {i % 5}"]
        store.add(rows(ids, raw_ND, meta_i=[i] * 3))
        kept.update(dict.fromkeys(ids, i))
    view = store.view()
    assert view.facts()["files"] <= 8 + 90 // 60 + 1
    found = {row["id"]: row["meta_i"] for batch in view.read(("id", "meta_i")) for row in batch.to_pylist()}
    assert found == kept
    data = [name for name in os.listdir(tmp_path / "items.lance" / "data") if name.endswith(".lance")]
    assert len(data) < 30, "files of old versions are removed"


def test_a_view_that_was_cleaned_up_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_store, "SMALL_FILES", 2)
    monkeypatch.setattr(lance_store, "GRACE", timedelta(0))
    store = open_store(str(tmp_path / "items.lance"), 4, create=True)
    store.add(rows(["a"], np.ones((1, 4)), thumbnail=[b"x"]))
    old = store.view()
    for i in range(3):
        store.add(rows([f"{i}"], np.ones((1, 4))))
    with pytest.raises(DataError, match="cannot be"):
        list(old.read(("id", "thumbnail")))


def test_a_search_reads_only_what_it_asks_for(tmp_path):
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    picture = [os.urandom(20_000) for _ in range(200)]
    store.add(rows([f"{i}" for i in range(200)], clusters(200, 8), thumbnail=picture))
    view = open_store(str(tmp_path / "items.lance")).view()
    view.dataset.io_stats_incremental()
    view.search(np.ones((1, 8), np.float32), 5, columns=("id", "text", "source", "meta_x")[:3])
    list(view.read(("id", "modality")))
    assert view.dataset.io_stats_incremental().read_bytes < 200_000
    found = view.search(np.ones((1, 8), np.float32), 5, columns=("id", "thumbnail"))[0]
    assert found.rows.column("thumbnail").to_pylist() == [picture[int(name)] for name in names(found)]
    assert view.dataset.io_stats_incremental().read_bytes < 1_000_000


def test_vectors_beyond_the_memory_are_read_as_they_are_searched(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    for i in range(4):
        store.add(rows([f"{i} {j}" for j in range(50)], clusters(50, 8, seed=i), meta_n=list(range(50))))
    view = store.view()
    query_QD = clusters(5, 8, seed=9).astype(np.float32)
    where = parse_where("n > 10", view.fields)
    for condition in (None, where):
        with monkeypatch.context() as patch:
            expected = view.search(query_QD, 7, where=condition)
            patch.setattr(lance_search, "CACHE_BYTES", 1)
            patch.setattr(lance_search, "_BATCH_BYTES", 4 * 8 * 16)
            found = view.search(query_QD, 7, where=condition)
        assert [names(one) for one in found] == [names(one) for one in expected]
        assert all((a.score_K == b.score_K).all() for a, b in zip(found, expected, strict=True))


def test_readers_do_not_wait_for_a_writer(tmp_path):
    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    store.add(rows(["a", "b"], clusters(2, 8)))
    begun, go_on = threading.Event(), threading.Event()

    def slow(batch):
        begun.set()
        assert go_on.wait(30)
        return np.ones((len(batch), 8), np.float32)

    writer = threading.Thread(target=lambda: store.rewrite("1", slow))
    writer.start()
    assert begun.wait(30)
    try:
        assert store.view().repair == ""
        assert len(names(store.view().search(np.ones((1, 8), np.float32), 5)[0])) == 2
    finally:
        go_on.set()
        writer.join()
    assert store.view().repair == "1"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_what_a_commit_names_is_on_the_disk_before_it(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "items.lance"), 4, create=True)
    store.add(rows(["a", "b", "z"], np.ones((3, 4))))
    synced, plain = [], os.fsync

    def noted(handle):
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path / "items.lance"))
        plain(handle)

    monkeypatch.setattr(os, "fsync", noted)
    changes = [
        lambda: store.add(rows(["b", "c"], np.ones((2, 4)))),
        lambda: store.delete(["a"]),
        lambda: store.rewrite("1", lambda batch: np.ones((len(batch), 4), np.float32)),
    ]
    for change in changes:
        before = {path for path in (tmp_path / "items.lance").rglob("*") if path.is_file()}
        synced.clear()
        change()
        new = {path for path in (tmp_path / "items.lance").rglob("*") if path.is_file()} - before
        new = {str(path.relative_to(tmp_path / "items.lance")) for path in new}
        data = {name for name in new if name.startswith(("data", "_deletions"))}
        manifests = {name for name in new if name.endswith(".manifest")}
        assert data
        assert data | manifests <= set(synced)
        first = min(synced.index(name) for name in manifests)
        assert max(synced.index(name) for name in data) < first


def test_a_table_of_something_else_is_refused(tmp_path):
    import lance

    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "items.lance"))
    with pytest.raises(DataError, match="lacks the column id"):
        open_store(str(tmp_path / "items.lance"))
    (tmp_path / "broken.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "broken.lance" / "_versions" / "1.manifest").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be opened"):
        open_store(str(tmp_path / "broken.lance"))


def test_a_repair_half_changed_is_settled_by_the_next_writer(tmp_path):
    store = open_store(str(tmp_path / "items.lance"), 4, create=True)
    store.add(rows(["a"], np.ones((1, 4))))
    import lance

    table = lance.dataset(str(tmp_path / "items.lance"))
    table.add_columns({"vector_9": "vector"})  # as a kill between the two commits leaves it
    assert Layout(table.schema).vectors == ["vector", "vector_9"]
    assert store.view().repair == "9"
    store.add(rows(["b"], np.ones((1, 4))))
    assert Layout(store.view().dataset.schema).vectors == ["vector_9"]
    assert names(store.view().search(np.ones((1, 4), np.float32), 5)[0]) == ["a", "b"]


@pytest.mark.parametrize("top", [1, 3, 50, 400])
def test_best_rows_do_not_depend_on_blocks(top):
    random = np.random.default_rng(0)
    rows_ND = unit_rows(random.integers(-1, 2, (300, 5)).astype(np.float32))  # many ties, and zero rows
    query_QD = unit_rows(random.normal(size=(4, 5)).astype(np.float32))
    ids = [f"{i * 7919 % 300}" for i in range(300)]
    expected = None
    for size in (300, 64, 7):
        blocks = [
            Block(pa.array(ids[i : i + size]), np.arange(i, min(i + size, 300)), rows_ND[i : i + size])
            for i in range(0, 300, size)
        ]
        found = best_rows(blocks, query_QD, top)
        seen = [(best.ids, best.score_K.tolist(), best.place_K.tolist()) for best in found]
        expected = expected or seen
        assert seen == expected
    for best, query_D in zip(found, query_QD, strict=True):
        score_N = (rows_ND.astype(np.float64) @ query_D).astype(np.float32)
        naive = sorted(range(300), key=lambda i: (-round(float(score_N[i]), 6), ids[i]))[:top]
        assert [best.ids[k] for k in range(len(best.ids))] == [ids[i] for i in naive]


def test_ordered_keeps_ties_by_name_among_many():
    ids = [f"{i:04}" for i in range(1000)][::-1]
    best = ordered(ids, np.arange(1000), np.ones(1000, np.float32), 3)
    assert best.ids == ("0000", "0001", "0002")


NAMES = st.sampled_from(["a", "b", "é", "日", "o'c", "d", "e", "f"])


class AsADictionary(RuleBasedStateMachine):
    """Any order of changes leaves what a dictionary would hold, and every view what it held."""

    address = ""
    count = 0

    @initialize()
    def start(self):
        type(self).count += 1
        self.store = open_store(f"{self.address}{self.count}", 4, create=True)
        self.rows, self.repair, self.views, self.repairs = {}, "", [], 0

    @rule(ids=st.lists(NAMES, max_size=4, unique=True), value=st.integers(1, 9), named=st.booleans())
    def add(self, ids, value, named):
        metadata = {"meta_n": [value] * len(ids)} if named else {}
        self.store.add(rows(ids, np.full((len(ids), 4), value), **metadata))
        self.rows.update(dict.fromkeys(ids, (value if named else None, value, 0.5)))

    @rule(ids=st.lists(NAMES, max_size=4))
    def delete(self, ids):
        gone = {name for name in ids if self.rows.pop(name, None)}
        assert self.store.delete(ids) == len(gone)

    @rule()
    def rewrite(self):
        self.repairs += 1
        self.repair = f"{self.repairs}"
        value = 1.0 + self.repairs
        self.store.rewrite(self.repair, lambda batch: np.full((len(batch), 4), value, np.float32))
        self.rows = {name: (n, raw, value) for name, (n, raw, _) in self.rows.items()}

    @rule()
    def look(self):
        self.views = [*self.views[-3:], (self.store.view(), dict(self.rows), self.repair)]

    @rule()
    def reopen(self):
        if "memory" not in self.address:
            self.store = open_store(f"{self.address}{self.count}")

    @invariant()
    def holds(self):
        for view, expected, repair in [*self.views, (self.store.view(), self.rows, self.repair)]:
            assert (view.rows, view.repair) == (len(expected), repair)
            columns = ["id", "raw", "vector", *(["meta_n"] if "n" in view.fields else [])]
            found = [row for batch in view.read(columns) for row in batch.to_pylist()]
            assert len(found) == len(expected)
            assert {
                row["id"]: (row.get("meta_n"), row["raw"][0], round(row["vector"][3], 6)) for row in found
            } == expected
            for named in ({"ids": ["a", "é", "o'c"]}, {"keys": ["a", "é", "o'c"]}):
                some = [
                    name for batch in view.read(["id"], **named) for name in batch.column("id").to_pylist()
                ]
                assert sorted(some) == sorted({"a", "é", "o'c"} & expected.keys())
            hits = view.search(np.ones((1, 4), np.float32), 3)[0]
            assert names(hits) == sorted(expected)[:3]


class Indexed(AsADictionary):
    """Rows are found by indexes of their names, some of which know all rows and some do not."""

    @rule(most=st.integers(0, 3))
    def build(self, most):
        with self.store._written() as dataset:
            for column in lance_index.NAMES:
                lance_index._sorted(dataset, column, most)


@pytest.mark.parametrize("kind", ["memory", "lance", "indexed"])
def test_as_a_dictionary(kind, tmp_path, monkeypatch):
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(lance_store, "SMALL_FILES", 3)
    base = Indexed if kind == "indexed" else AsADictionary
    address = "memory:stateful-" if kind == "memory" else str(tmp_path / "items.lance")
    machine = type(f"{kind}_machine", (base,), {"address": address})
    patient = settings(
        max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=patient)


@pytest.mark.services
def test_lancedb_opens_the_same_table(tmp_path):
    import lancedb

    store = open_store(str(tmp_path / "items.lance"), 8, create=True)
    raw_ND = clusters(300, 8)
    store.add(rows([f"{i}" for i in range(300)], raw_ND, meta_year=[2000 + i % 30 for i in range(300)]))
    store.rewrite("000001", lambda batch: np.stack(batch.column("raw").to_numpy(zero_copy_only=False)))
    table = lancedb.connect(str(tmp_path)).open_table("items")
    assert table.count_rows("meta_year > 2028") == 10
    query_D = raw_ND[3].astype(np.float32)
    asked = table.search(query_D, vector_column_name="vector_000001").metric("cosine")
    asked = asked.where("meta_year <= 2028", prefilter=True)
    found = asked.select(["id", "_distance"]).limit(10).to_arrow()
    view = store.view()
    where = parse_where("year <= 2028", view.fields)
    ours = view.search(query_D[None], 10, where=where)[0]
    assert found.column("id").to_pylist() == names(ours)
    np.testing.assert_allclose(1 - found.column("_distance").to_numpy(), ours.score_K, atol=1e-5)
