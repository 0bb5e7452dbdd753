"""What every index store does alike, against a naive twin; `kinds` says how each one is made.

A new kind of store is one entry in `KINDS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from clearsight.errors import DataError, UsageError
from clearsight.store import META, open_store, parse_where, store_kind
from clearsight.store.columns import vector_column

D = 8
MEMORY = {"n": 0}


def in_memory(_tmp_path, _request):
    MEMORY["n"] += 1
    return f"memory:conformance-{MEMORY['n']}"


def in_a_folder(tmp_path, _request):
    return str(tmp_path / "items.lance")


def on_s3(tmp_path, request):
    request.getfixturevalue("s3")
    return f"s3://photos/{tmp_path.name}/items.lance"


def on_postgres(tmp_path, request):
    server = request.getfixturevalue("postgres")
    name = "".join(letter if letter.isalnum() else "_" for letter in tmp_path.name.lower())[-40:]
    return f"{server}#{name.strip('_')}"


KINDS = [
    pytest.param(in_memory, id="memory"),
    pytest.param(in_a_folder, id="lance"),
    pytest.param(on_s3, id="s3", marks=pytest.mark.services),
    pytest.param(on_postgres, id="postgres", marks=pytest.mark.services),
]


@pytest.fixture(scope="module")
def s3():
    from small.servers import s3_server

    with s3_server("photos"):
        yield


@pytest.fixture(scope="module")
def postgres():
    from small.servers import postgres_server

    with postgres_server() as address:
        yield address


@pytest.fixture(params=KINDS)
def address(request, tmp_path):
    return request.param(tmp_path, request)


@pytest.fixture
def store(address):
    return open_store(address, D, create=True)


def rows(ids, *, seed=0, raw=None, vector=None, **columns):
    """Rows of a store; metadata by own name."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=(len(ids), D)) if raw is None else np.asarray(raw)
    vector = unit(raw) if vector is None else np.asarray(vector)
    plain = {"text", "source", "stamp", "thumbnail", "modality"}
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "key": [f"key of {name}" for name in ids],
            "modality": columns.pop("modality", ["text"] * len(ids)),
            "raw": vector_column(raw.astype(np.float32)),
            "vector": vector_column(vector.astype(np.float32)),
            **{name if name in plain else META + name: values for name, values in columns.items()},
        }
    )


def unit(rows_ND):
    length_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND / np.where(length_N1 == 0, 1, length_N1)


@dataclass
class Twin:
    """A dictionary of rows, compared with the query one by one."""

    rows: dict

    @classmethod
    def of(cls, *tables):
        return cls({row["id"]: row for table in tables for row in table.to_pylist()})

    def search(self, query, top, space="vector", chosen=lambda row: True):
        found = []
        for name, row in self.rows.items():
            if chosen(row):
                length = np.linalg.norm(row[space]) * np.linalg.norm(query)
                cosine = float(np.dot(row[space], query)) / length if length else 0.0
                found.append((-np.float32(round(cosine, 6)), name))
        return [name for _, name in sorted(found)[:top]], [-score for score, _ in sorted(found)[:top]]


def names(found):
    return found.rows.column("id").to_pylist()


def contents(view, columns=("id",), **asked):
    return [row for batch in view.read(columns, **asked) for row in batch.to_pylist()]


def ids_of(view, **asked):
    return sorted(row["id"] for row in contents(view, **asked))


def test_search_finds_what_the_twin_finds(store):
    table = rows([f"item {i:03}" for i in range(150)])
    store.add(table)
    view, twin = store.view(), Twin.of(table)
    assert (view.rows, view.repair) == (150, "")
    queries = np.random.default_rng(1).normal(size=(5, D)).astype(np.float32) * 100
    for space, column in (("repaired", "vector"), ("raw", "raw")):
        for top in (1, 7, 150, 10_000):
            for query, found in zip(queries, view.search(queries, top, space=space), strict=True):
                expected, scores = twin.search(query, top, column)
                assert names(found) == expected
                np.testing.assert_allclose(found.score_K, scores, atol=2e-6)
                assert found.score_K.dtype == np.float32


def test_equal_scores_are_ordered_by_id_in_any_script(store):
    ids = ["b", "a", "Z", "é", "日本", "😀", "ا", "a'b", 'a"b', "a b", "a%b", "", "a\\b", "x" * 300]
    same = np.ones((len(ids), D))
    store.add(rows(ids[:7], raw=same[:7]))
    store.add(rows(ids[7:], raw=3 * same[7:]))  # another length, the same direction
    found = store.view().search(np.ones((1, D), np.float32), len(ids))[0]
    assert names(found) == sorted(ids)
    assert len(set(found.score_K.tolist())) == 1
    assert names(store.view().search(np.ones((1, D), np.float32), 5)[0]) == sorted(ids)[:5]
    for name in ids:
        assert ids_of(store.view(), ids=[name]) == [name]
    assert store.delete(ids[3:]) == len(ids) - 3
    assert ids_of(store.view()) == sorted(ids[:3])


def test_zero_rows_score_zero(store):
    raw = np.array([[1.0] * D, [0.0] * D, [-1.0] * D])
    store.add(rows(["near", "zero", "far"], raw=raw))
    found = store.view().search(np.ones((1, D), np.float32), 3)[0]
    assert names(found) == ["near", "zero", "far"]
    np.testing.assert_allclose(found.score_K, [1, 0, -1], atol=1e-6)


def test_an_upsert_replaces_whole_rows(store):
    first = rows(["a", "b"], text=["one", "two"], year=[1, 2], thumbnail=[b"\x00\xff", None])
    second = rows(["b", "c"], seed=1, text=["new", None], place=["Bern", "O'Brien"])
    store.add(first)
    before = store.view()
    store.add(second)
    columns = ("id", "text", "meta_year", "meta_place", "thumbnail")
    assert sorted(contents(store.view(), columns), key=lambda row: row["id"]) == [
        {"id": "a", "text": "one", "meta_year": 1, "meta_place": None, "thumbnail": b"\x00\xff"},
        {"id": "b", "text": "new", "meta_year": None, "meta_place": "Bern", "thumbnail": None},
        {"id": "c", "text": None, "meta_year": None, "meta_place": "O'Brien", "thumbnail": None},
    ]
    assert sorted(row["text"] for row in contents(before, ("text",))) == ["one", "two"]
    query = np.asarray(second.column("vector")[0].as_py(), np.float32)[None]
    found = store.view().search(query, 1, columns=("id", "text", "meta_place", "vector", "key"))[0]
    assert found.rows.column_names == ["id", "text", "meta_place", "vector", "key"]
    assert found.rows.drop_columns("vector").to_pylist() == [
        {"id": "b", "text": "new", "meta_place": "Bern", "key": "key of b"}
    ]


def test_views_are_pinned(store):
    store.add(rows(["a", "b"]))
    before = store.view()
    everything = contents(before, ("id", "raw", "vector"))
    store.add(rows(["c"], seed=2))
    store.delete(["a"])
    store.add(rows(["b"], seed=3))
    store.rewrite("000001", lambda batch: np.eye(D, dtype=np.float32)[: len(batch)])
    assert contents(before, ("id", "raw", "vector")) == everything
    assert (before.rows, before.repair) == (2, "")
    assert sorted(names(before.search(np.ones((1, D), np.float32), 5)[0])) == ["a", "b"]
    after = store.view()
    assert (after.rows, after.repair) == (2, "000001")
    assert after.version > before.version
    assert ids_of(after) == ["b", "c"]


def test_rewrite_gives_every_row_the_new_vector_and_touches_nothing_else(store):
    ids = [f"item {i}" for i in range(40)]
    for first in range(0, 40, 10):  # several files
        store.add(rows(ids[first : first + 10], seed=first, modality=["text", "image"] * 5))
    store.delete(["item 3", "item 30"])
    before = {row["id"]: row for row in contents(store.view(), ("id", "raw", "key", "modality"))}
    seen = []

    def turned(batch):
        assert set(batch.schema.names) == {"id", "modality", "raw"}
        seen.extend(batch.column("id").to_pylist())
        raw_ND = np.stack(batch.column("raw").to_numpy(zero_copy_only=False))
        return unit(raw_ND[:, ::-1])[:, : D // 2]  # another width

    store.rewrite("000001", turned)
    assert set(seen) >= set(before)
    view = store.view()
    assert view.repair == "000001"
    for row in contents(view, ("id", "raw", "key", "modality", "vector")):
        vector = row.pop("vector")
        assert row == before[row["id"]]
        np.testing.assert_allclose(vector, unit(np.array([row["raw"]])[:, ::-1])[0, : D // 2], rtol=1e-5)
    query = np.asarray(vector, np.float32)[None]
    assert names(view.search(query, 1)[0]) == [row["id"]]
    with pytest.raises(DataError, match="width 4"):
        store.add(rows(["x"]))
    store.add(rows(["x"], vector=np.ones((1, D // 2))))
    store.rewrite("000002", lambda batch: np.ones((len(batch), D), np.float32))
    assert store.view().repair == "000002"
    assert len(contents(store.view(), ("vector",))) == 39
    assert {len(row["vector"]) for row in contents(store.view(), ("vector",))} == {D}


def test_a_rewrite_that_fails_leaves_everything(store):
    store.add(rows(["a", "b"]))
    before = contents(store.view(), ("id", "vector"))

    def broken(batch):
        raise DataError("No repair today.")

    with pytest.raises(DataError, match=r"^No repair today\.$"):
        store.rewrite("000001", broken)
    for wrong in (np.ones((1, D)), np.full((2, D), np.nan), np.ones(2)):
        with pytest.raises(DataError, match="A repair gave"):
            store.rewrite("000001", lambda batch, wrong=wrong: wrong)
    with pytest.raises(UsageError, match="in force already"):
        store.rewrite("", lambda batch: np.ones((len(batch), D)))
    with pytest.raises(UsageError, match="no name"):
        store.rewrite('x"; drop table', lambda batch: np.ones((len(batch), D)))
    assert contents(store.view(), ("id", "vector")) == before
    assert store.view().repair == ""
    store.rewrite("000001", lambda batch: np.ones((len(batch), D)))  # the name is still free
    assert store.view().repair == "000001"


def test_filters_before_the_search(store):
    year = [None if i % 7 == 0 else 2000 + i % 40 for i in range(200)]
    place = [("Bern", "O'Brien", None, "日本")[i % 4] for i in range(200)]
    table = rows([f"item {i:03}" for i in range(200)], year=year, place=place, source=["a/b.jpg"] * 200)
    store.add(table)
    view, twin = store.view(), Twin.of(table)
    query = np.random.default_rng(4).normal(size=(1, D)).astype(np.float32)
    for text, chosen in [
        ("year > 2030", lambda row: row["meta_year"] is not None and row["meta_year"] > 2030),
        ("not year > 2003", lambda row: row["meta_year"] is not None and row["meta_year"] <= 2003),
        (
            "place = 'O''Brien' and year is null",
            lambda r: r["meta_place"] == "O'Brien" and not r["meta_year"],
        ),
        ("place in ('日本') or place is null", lambda row: row["meta_place"] in ("日本", None)),
        ("id = 'item 017'", lambda row: row["id"] == "item 017"),
        ("source like 'b%'", lambda row: False),
        ("modality = 'text'", lambda row: True),
    ]:
        where = parse_where(text, view.fields)
        for exact in (False, True):
            found = view.search(query, 10, where=where, exact=exact)[0]
            assert names(found) == twin.search(query[0], 10, chosen=chosen)[0]
        expected = sorted(name for name, row in twin.rows.items() if chosen(row))
        assert ids_of(view, where=where) == expected
        some = [*expected[:3], "item 001", "nobody"]
        assert ids_of(view, where=where, ids=some) == sorted({*expected} & {*some})


def test_metadata_of_every_kind_comes_back_as_it_went_in(store):
    from small.filters import METADATA, metadata_rows

    table = rows([f"i{i}" for i in range(50)])
    metadata = metadata_rows(50, seed=3)
    for name in metadata.column_names:
        table = table.append_column(name, metadata.column(name))
    store.add(table.slice(0, 25))
    store.add(table.slice(25))
    view = store.view()
    columns = ["id", *metadata.column_names]
    found = {row["id"]: row for row in contents(view, columns)}
    assert found == {row["id"]: row for row in table.select(columns).to_pylist()}
    own = {name: kind for name, kind in METADATA.items() if name != "text"}
    assert dict(view.fields) == {
        **dict.fromkeys(("id", "text", "modality", "source", "meta_text"), pa.string()),
        **own,
    }


def test_filters_drawn_at_random(store):
    from hypothesis import HealthCheck, given, settings

    from small.filters import METADATA, POOLS, evaluate, filters, metadata_rows, written

    table = rows([f"i{i:02}" for i in range(40)])
    metadata = metadata_rows(40, seed=5)
    for name in metadata.column_names:
        table = table.append_column(name, metadata.column(name))
    store.add(table)
    view = store.view()
    own = {("meta_text" if name == "text" else name): f"meta_{name}" for name in METADATA}
    plain = [{"id": row["id"]} | {name: row[at] for name, at in own.items()} for row in table.to_pylist()]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(filters({name: (view.fields[name], POOLS[view.fields[name]]) for name in own}))
    def holds(node):
        where = parse_where(written(node), view.fields)
        assert ids_of(view, where=where) == [row["id"] for row in plain if evaluate(node, row) is True]

    holds()


def test_an_empty_store(store):
    view = store.view()
    assert (view.rows, view.repair) == (0, "")
    (found,) = view.search(np.ones((1, D), np.float32), 3, columns=("id", "text", "thumbnail"))
    assert found.rows.column_names == ["id", "text", "thumbnail"]
    assert (len(found.rows), found.score_K.shape) == (0, (0,))
    assert contents(view) == contents(view, ids=["a"]) == []
    assert contents(view, where=parse_where("id = 'a'", view.fields)) == []
    assert store.delete(["a"]) == store.delete([]) == 0
    store.add(rows([]))
    assert store.build(force=True)["rows"] == 0
    store.rewrite("000001", lambda batch: np.ones((len(batch), D)))
    assert store.view().repair == "000001"
    store.add(rows(["a"], vector=np.ones((1, 3))))  # the first rows say how wide
    assert names(store.view().search(np.ones((1, 3), np.float32), 3)[0]) == ["a"]
    assert store.delete(["a"]) == 1
    assert store.view().rows == 0
    assert store.view().search(np.ones((2, 3), np.float32), 3)[1].rows.num_rows == 0


def test_unknown_ids_are_passed_over(store):
    store.add(rows(["a", "b", "c"]))
    assert store.delete(["b", "nobody", "b", "id' or 'a'='a"]) == 1
    assert ids_of(store.view()) == ["a", "c"]
    assert ids_of(store.view(), ids=["c", "b", "c", "x' or 'a'='a"]) == ["c"]


KEYS = ("key", "Key", "k'y", "k%", "ключ", "")


def test_rows_by_id_and_by_content_key(store):
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    ids = [f"i{n:02}" for n in range(30)]
    key_of = {name: KEYS[n % 4] if n % 5 else KEYS[4] for n, name in enumerate(ids)}
    for first in (0, 20):
        part = ids[first : first + 20]
        store.add(put(rows(part, n=range(len(part))), "key", pa.array([key_of[name] for name in part])))
    store.delete(ids[:3])
    key_of = {name: key for name, key in key_of.items() if name not in ids[:3]}
    view = store.view()
    few = parse_where("n < 7", view.fields)
    n_of = {row["id"]: row["meta_n"] for row in contents(view, ("id", "meta_n"))}

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.none() | st.lists(st.sampled_from([*ids, "nobody", "'"]), max_size=20),
        st.none() | st.lists(st.sampled_from([*KEYS, "no key", "'"]), max_size=4),
        st.sampled_from([None, few]),
    )
    def holds(some, keys, where):
        expected = [
            name
            for name, key in key_of.items()
            if (some is None or name in some)
            and (keys is None or key in keys)
            and (where is None or n_of[name] < 7)
        ]
        found = contents(view, ("key", "id"), ids=some, keys=keys, where=where)
        assert sorted(row["id"] for row in found) == expected
        assert all(row["key"] == key_of[row["id"]] for row in found)

    holds()


def test_reading_is_in_batches(store):
    store.add(rows([f"i{i}" for i in range(50)], thumbnail=[bytes([i]) for i in range(50)]))
    batches = list(store.view().read(("id", "raw", "thumbnail"), batch_rows=16))
    assert max(len(batch) for batch in batches) <= 16
    assert sum(len(batch) for batch in batches) == 50
    assert batches[0].schema.names == ["id", "raw", "thumbnail"]
    assert batches[0].schema.field("raw").type == pa.list_(pa.float32(), D)
    with pytest.raises(UsageError, match="no column 'raw; drop'"):
        list(store.view().read(("raw; drop",)))


def without(table, name):
    return table.drop_columns(name)


def put(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t: put(t, "raw", vector_column(np.ones((2, D + 1), np.float32))), "width 9"),
        (lambda t: put(t, "vector", vector_column(np.ones((2, 3), np.float32))), "width 3"),
        (lambda t: put(t, "raw", vector_column(np.array([[np.nan] * D, [1] * D]))), "null or hold NaN"),
        (lambda t: put(t, "vector", vector_column(np.array([[1] * D, [np.inf] * D]))), "null or hold NaN"),
        (lambda t: put(t, "raw", pa.array([[1.0], [2.0]])), "holds list"),
        (lambda t: put(t, "raw", pa.array([None, [1.0] * D], pa.list_(pa.float32(), D))), "are null"),
        (lambda t: put(t, "id", pa.array(["a", "a"])), "'a' is there twice"),
        (lambda t: put(t, "id", pa.array(["a", None])), "have no id"),
        (lambda t: put(t, "id", pa.array(["a", "b\0"])), "NUL"),
        (lambda t: put(t, "modality", pa.array(["text", "smell"])), "'smell' is no modality"),
        (lambda t: without(t, "vector"), "lack the column vector"),
        (lambda t: t.append_column("year", pa.array([1, 2])), "no column 'year'"),
        (lambda t: t.append_column("meta_", pa.array([1, 2])), "no column 'meta_'"),
        (lambda t: t.append_column("meta_tags", pa.array([["a"], []])), "is not kept"),
        (lambda t: t.append_column("meta_year", pa.array(["a", "b"])), "does not fit its column"),
        (lambda t: t.append_column("meta_year", pa.array([1.5, 2])), "does not fit its column"),
        (lambda t: t.append_column("meta_p", pa.array(["\0", "b"])), "NUL"),
    ],
)
def test_rows_that_do_not_fit_change_nothing(store, wrong, said):
    store.add(rows(["old"], year=[1]))
    before = contents(store.view(), ("id", "meta_year"))
    with pytest.raises(DataError, match=said):
        store.add(wrong(rows(["a", "b"])))
    assert contents(store.view(), ("id", "meta_year")) == before


def test_metadata_is_brought_to_its_column(store):
    store.add(rows(["a"], score=[1.5], note=pa.nulls(1)))
    assert "note" not in store.view().fields
    store.add(rows(["b", "c"], seed=1, score=[2, None], note=["x", None]))
    store.add(rows(["d"], seed=2, score=[float("nan")], note=pa.array(["y"]).dictionary_encode()))
    found = {row["id"]: (row["meta_score"], row["meta_note"]) for row in contents(store.view(), SCORE)}
    assert found == {"a": (1.5, None), "b": (2.0, "x"), "c": (None, None), "d": (None, "y")}


SCORE = ("id", "meta_score", "meta_note")


@pytest.mark.parametrize(
    ("query", "top", "error"),
    [
        (np.ones((1, D + 1)), 3, DataError),
        (np.ones(D), 3, DataError),
        (np.zeros((1, D)), 3, DataError),
        (np.full((1, D), np.nan), 3, DataError),
        (np.ones((1, D)), 0, UsageError),
    ],
)
def test_queries_that_do_not_fit(store, query, top, error):
    store.add(rows(["a"]))
    with pytest.raises(error):
        store.view().search(query.astype(np.float32), top)


def test_a_filter_of_another_store_is_refused(store):
    store.add(rows(["a"]))
    where = parse_where("year = 1", {"year": pa.int64()})
    with pytest.raises(UsageError, match="no field 'year'"):
        store.view().search(np.ones((1, D), np.float32), 3, where=where)
    with pytest.raises(UsageError, match="no field 'year'"):
        list(store.view().read(("id",), where=where))


def test_opening(store, address):
    store.add(rows(["a"]))
    assert ids_of(open_store(address).view()) == ["a"]
    assert ids_of(open_store(address, D, create=True).view()) == ["a"]
    with pytest.raises(DataError, match=f"width {D}, not {D + 1}"):
        open_store(address, D + 1)
    with pytest.raises(DataError, match="There is no store"):
        open_store(address.replace("items.lance", "other.lance") + ("" if "lance" in address else "x"))


def test_two_writers_lose_nothing(store, address):
    import threading

    other, failed = open_store(address), []

    def write(one, prefix):
        try:
            for i in range(8):
                one.add(rows([f"{prefix}{i}", "both"], seed=i, who=[prefix, prefix]))
        except BaseException as fault:
            failed.append(fault)

    threads = [threading.Thread(target=write, args=args) for args in ((store, "x"), (other, "y"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    expected = sorted(["both", *(f"{prefix}{i}" for prefix in "xy" for i in range(8))])
    assert ids_of(store.view()) == ids_of(other.view()) == expected


OTHER_PROCESS = """
import json, sys
import numpy as np
from clearsight.store import open_store
store = open_store(sys.argv[1])
view = store.view()
found = view.search(np.ones((1, 8), np.float32), 3, columns=("id", "meta_year"))[0]
print(json.dumps([view.rows, view.repair, found.rows.to_pylist(), found.score_K.tolist()]))
store.delete(["b"])
"""


def test_another_process_sees_what_was_committed(store, address):
    if store_kind(address) == "memory":
        pytest.skip("a store in memory ends with its process")
    store.add(rows(["a", "b", "c"], year=[1, 2, None]))
    store.rewrite("000007", lambda batch: np.eye(D, dtype=np.float32)[: len(batch)])
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = store.view().search(np.ones((1, D), np.float32), 3, columns=("id", "meta_year"))
    count, repair, hits, scores = json.loads(done.stdout)
    assert (count, repair, len(hits), len(scores)) == (3, "000007", 3, 3)
    assert ids_of(store.view()) == ["a", "c"]
    assert names(found[0]) == ["a", "c"]


def test_facts_can_be_shown(store):
    store.add(rows(["a", "b"]))
    facts = json.loads(json.dumps(dict(store.build())))
    assert facts["rows"] == 2
    assert facts["index"] is None
    assert facts["kind"]
