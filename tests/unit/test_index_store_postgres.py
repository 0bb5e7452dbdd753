"""What PostgreSQL stores do beyond the door: filters, the index and its widths, clean-up, names."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from clearsight.errors import DataError, UsageError
from clearsight.store import open_store, parse_where, postgres, postgres_server
from clearsight.store.columns import vector_column

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server():
    from small.servers import postgres_server

    with postgres_server() as address:
        yield address


def rows(ids, raw_ND, **columns):
    raw = vector_column(np.asarray(raw_ND, np.float32))
    table = {"id": ids, "key": ids, "modality": ["image"] * len(ids), "raw": raw, "vector": raw}
    return pa.table({**table, **columns})


def names(found):
    return found.rows.column("id").to_pylist()


def run(store, text, *values):
    with store.server.connection("tested") as connection:
        return connection.execute(store.server.sql(text), values)


@pytest.mark.parametrize(("width", "kind"), [(16, "vector"), (2001, "halfvec")])
def test_the_approximate_index(server, monkeypatch, width, kind):
    monkeypatch.setattr(postgres, "SAMPLE", 20)
    store = open_store(f"{server}#index_{width}", width, create=True)
    random = np.random.default_rng(0)
    raw_ND = random.normal(size=(400, 16)) @ random.normal(size=(16, width))
    store.add(rows([f"i{i:03}" for i in range(400)], raw_ND, meta_n=list(range(400))))
    assert store.build()["index"] is None
    facts = store.build(force=True)["index"]
    assert facts["vector"]["kind"] == "HNSW"
    assert facts["vector"]["type"] == kind
    assert facts["vector"]["rows"] == 400
    assert 0.9 < facts["raw"]["recall@10"] <= 1
    view = store.view()
    query_QD = (random.normal(size=(10, 16)) @ random.normal(size=(16, width))).astype(np.float32)
    where = parse_where("n >= 200", view.fields)
    for condition in (None, where):
        near, exact = (view.search(query_QD, 10, where=condition, exact=flag) for flag in (False, True))
        assert np.mean([len({*names(a)} & {*names(b)}) for a, b in zip(near, exact, strict=True)]) > 8.5
        assert all(len(found.rows) == 10 for found in near)
    assert min(int(name[1:]) for name in names(near[0])) >= 200
    assert len(names(view.search(query_QD, 1_000)[0])) == 400  # more than the index would give
    store.rewrite("2", lambda batch: np.ones((len(batch), 3), np.float32))
    assert set(store.view().facts()["index"]) == {"raw"}
    assert names(store.view().search(np.ones((1, 3), np.float32), 2)[0]) == ["i000", "i001"]


def test_recall_is_measured_again_when_many_rows_are_new(server, monkeypatch):
    monkeypatch.setattr(postgres, "SAMPLE", 5)
    monkeypatch.setattr(postgres, "INDEX_ROWS", 100)
    measured, real = [], postgres.PostgresStore._measured

    def noted(self, column, note):
        measured.append(column)
        return real(self, column, note)

    monkeypatch.setattr(postgres.PostgresStore, "_measured", noted)
    store = open_store(f"{server}#measured", 4, create=True)
    random = np.random.default_rng(0)
    store.add(rows([f"{i}" for i in range(150)], random.normal(size=(150, 4))))
    store.build()
    assert sorted(measured) == ["raw", "vector"]
    store.add(rows(["new", "0"], random.normal(size=(2, 4))))
    assert store.build()["index"]["vector"]["rows"] == 150
    assert len(measured) == 2
    store.add(rows([f"new {i}" for i in range(5)], random.normal(size=(5, 4))))
    assert store.build()["index"]["vector"]["rows"] == 156
    store.rewrite("1", lambda batch: np.ones((len(batch), 3), np.float32))
    assert set(store.build()["index"]) == {"raw", "vector"}
    assert len(measured) == 6


def test_vectors_too_wide_for_an_index_are_compared_one_by_one(server):
    store = open_store(f"{server}#wide", 4001, create=True)
    store.add(rows(["a", "b"], np.eye(2, 4001)))
    assert "at most 4000 dimensions" in store.build(force=True)["index"]["vector"]["why"]
    assert names(store.view().search(np.eye(1, 4001, dtype=np.float32), 2)[0]) == ["a", "b"]


def test_views_that_were_cleaned_up_say_so(server, monkeypatch):
    store = open_store(f"{server}#cleaned", 4, create=True)
    store.add(rows(["a", "b"], np.ones((2, 4))))
    old = store.view()
    store.delete(["a"])
    assert len(names(old.search(np.ones((1, 4), np.float32), 5)[0])) == 2
    monkeypatch.setattr(postgres, "GRACE", "0 seconds")
    store.add(rows(["c"], np.ones((1, 4))))
    assert run(store, "select count(*) from {rows}").fetchone()[0] == 2
    for read in (lambda: old.search(np.ones((1, 4), np.float32), 5), lambda: list(old.read(("id",)))):
        with pytest.raises(DataError, match="cleaned up"):
            read()


def test_vectors_of_old_repairs_are_dropped(server, monkeypatch):
    store = open_store(f"{server}#repairs", 4, create=True)
    store.add(rows(["a"], np.ones((1, 4))))
    for name in ("1", "2"):
        store.rewrite(name, lambda batch: np.ones((len(batch), 4), np.float32))
    with pytest.raises(DataError, match="within the last hour"):
        store.rewrite("1", lambda batch: np.ones((len(batch), 4), np.float32))
    monkeypatch.setattr(postgres, "GRACE", "0 seconds")
    store.rewrite("3", lambda batch: np.ones((len(batch), 4), np.float32))
    there = run(
        store,
        "select attname from pg_attribute where attrelid = 'repairs'::regclass and not attisdropped "
        "and attname like 'vector%%' order by attname",
    )
    assert [row[0] for row in there.fetchall()] == ["vector_2", "vector_3"]


def test_a_second_writer_waits_and_then_says_so(server, monkeypatch):
    monkeypatch.setattr(postgres_server, "WAIT_SECONDS", 1)
    store = open_store(f"{server}#waits", 4, create=True)
    store.add(rows(["a"], np.ones((1, 4))))
    begun, go_on = threading.Event(), threading.Event()

    def slow(batch):
        begun.set()
        assert go_on.wait(60)
        return np.ones((len(batch), 4), np.float32)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.rewrite, "1", slow)
        try:
            assert begun.wait(60)
            assert names(store.view().search(np.ones((1, 4), np.float32), 5)[0]) == ["a"]
            with pytest.raises(DataError, match="being written by another session"):
                store.delete(["a"])
        finally:
            go_on.set()
        writing.result()
    assert store.view().repair == "1"


def test_a_server_that_goes_away_is_found_again(server):
    store = open_store(f"{server}#again", 4, create=True)
    store.add(rows(["a"], np.ones((1, 4))))
    open_store(f"{server}#again").delete([])  # another connection
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
    run(open_store(f"{server}#again"), kill + "and datname = current_database()")
    with pytest.raises(DataError, match="cannot be"):
        store.view()
    assert store.view().rows == 1


def test_addresses_that_do_not_fit(server):
    for name in ("a;drop", "Upper", "1st", "x" * 41):
        with pytest.raises(UsageError, match="no name for a store"):
            open_store(f"{server}#{name}", 4, create=True)
    with pytest.raises(DataError, match="cannot be opened") as error:
        open_store("postgresql://me:secret@127.0.0.1:1/nowhere", 4)
    assert "secret" not in str(error.value)
    with pytest.raises(UsageError, match="needs the width"):
        open_store(f"{server}#new", create=True)
