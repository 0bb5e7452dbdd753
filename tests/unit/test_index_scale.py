"""What a cluster needs of one machine: sources planned, columns named, files taken in one commit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.errors import DataError, UsageError
from clearsight.index import Index
from clearsight.index.making import fixed
from clearsight.index.scale import Cluster, sync_on_ray
from clearsight.index.scale_plan import planned
from clearsight.index.scale_sources import (
    LanceTable,
    ParquetFiles,
    RowGroups,
    address_of,
    table_columns,
    tables_at,
)
from clearsight.index.scale_stages import Chosen, Columns
from clearsight.jobs.index import IndexConfig
from clearsight.jobs.index import index as run
from clearsight.store import lance_index
from clearsight.store.lance import LanceStore
from clearsight.store.lance_append import Destination, add_metadata, append_files

D = 8


def rows(ids: list[str], *, seed: int = 0, width: int = D) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": ids,
            "key": [f"{seed} {name}" for name in ids],
            "modality": ["text"] * len(ids),
            "raw": fixed(rng.normal(size=(len(ids), D)).astype(np.float32)),
            "vector": fixed(rng.normal(size=(len(ids), width)).astype(np.float32)),
            "meta_year": pa.array([2000 + seed] * len(ids), pa.int64()),
        }
    )


def write(to: Destination, given: pa.Table) -> list[str]:
    """Files as another machine writes them."""
    from lance.fragment import write_fragments

    kept = to.rows(given)
    return [json.dumps(one.to_json()) for one in write_fragments(kept, to.uri, schema=kept.schema)]


@pytest.fixture(params=[False, True], ids=["unindexed", "indexed"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> LanceStore:
    store = LanceStore.open(str(tmp_path / "items.lance"), D, create=True)
    store.add(rows(["a", "b", "c"]))
    if request.param:
        with store._written() as dataset:
            for column in lance_index.NAMES:
                lance_index._sorted(dataset, column, 0)
    return store


def read(store: LanceStore, *columns: str) -> list[dict[str, object]]:
    return [row for batch in store.view().read(columns) for row in batch.to_pylist()]


def held(store: LanceStore) -> dict[object, object]:
    return {row["id"]: row["key"] for row in read(store, "id", "key")}


class TestFilesOfOthers:
    def test_they_count_from_their_commit(self, store: LanceStore) -> None:
        before = store.view()
        files = write(Destination.of(store.place), rows(["x", "y"], seed=1))
        files += write(Destination.of(store.place), rows(["z"], seed=2))
        assert store.view().version == before.version
        append_files(store.place, files)
        assert held(store) == {"a": "0 a", "b": "0 b", "c": "0 c", "x": "1 x", "y": "1 y", "z": "2 z"}
        assert store.view().version == before.version + 1
        assert before.rows == 3

    def test_rows_that_are_replaced_go_in_the_same_commit(self, store: LanceStore) -> None:
        before = store.view().version
        files = write(Destination.of(store.place), rows(["b", "x"], seed=1))
        append_files(store.place, files, ["b"])
        assert held(store) == {"a": "0 a", "b": "1 b", "c": "0 c", "x": "1 x"}
        assert store.view().version == before + 1
        found = store.view().search(matrix_of(rows(["b", "x"], seed=1)), 1, columns=("id",))
        assert [one.rows.column("id").to_pylist() for one in found] == [["b"], ["x"]]

    def test_after_a_repair_they_hold_its_vectors(self, store: LanceStore) -> None:
        store.rewrite("000001", lambda batch: np.ones((len(batch), 4), np.float32))
        append_files(store.place, write(Destination.of(store.place), rows(["x"], seed=1, width=4)))
        view = store.view()
        assert (view.repair, view.rows) == ("000001", 4)
        with pytest.raises(DataError, match="width"):
            write(Destination.of(store.place), rows(["y"], seed=1))

    def test_files_for_another_repair_are_refused(self, store: LanceStore) -> None:
        files = write(Destination.of(store.place), rows(["x"], seed=1))
        store.rewrite("000001", lambda batch: np.ones((len(batch), D), np.float32))
        with pytest.raises(DataError, match="changed"):
            append_files(store.place, files)
        assert store.view().rows == 3

    def test_a_column_that_the_table_lacks_is_added_first(self, store: LanceStore) -> None:
        more = rows(["x"]).append_column("meta_place", pa.array(["Bern"]))
        with pytest.raises(DataError, match="meta_place"):
            write(Destination.of(store.place), more)
        before = store.view()
        for _ in range(2):
            add_metadata(store.place, {"meta_place": pa.string(), "meta_year": pa.int64()})
        assert store.view().version == before.version + 1
        append_files(store.place, write(Destination.of(store.place), more))
        found = {row["id"]: row["meta_place"] for row in read(store, "id", "meta_place")}
        assert found == {"a": None, "b": None, "c": None, "x": "Bern"}

    def test_none_is_no_commit(self, store: LanceStore) -> None:
        before = store.view().version
        append_files(store.place, [])
        assert store.view().version == before


def matrix_of(table: pa.Table) -> np.ndarray:
    from clearsight.store.columns import matrix

    return matrix(table.column("vector").combine_chunks())


class TestColumns:
    def test_names_that_people_give(self) -> None:
        schema = pa.schema(
            {
                "id": pa.int64(),
                "caption": pa.string(),
                "file_name": pa.string(),
                "year": pa.int32(),
                "shape": pa.list_(pa.int64()),
            }
        )
        columns = table_columns(schema, "a table", None, "/photos")
        assert columns.names == {"id": "id", "text": "caption", "image": "file_name"}
        assert columns.metadata == {"meta_year": "year"}
        batch = pa.table({"id": [1], "caption": ["words"], "file_name": ["a.png"], "year": [3]})
        assert columns(batch).to_pylist() == [
            {"id": "1", "text": "words", "image_file": "/photos/a.png", "meta_year": 3}
        ]

    def test_images_of_the_datasets_library(self) -> None:
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        batch = pa.table({"id": ["1", "2"], "image": pa.array([{"bytes": b"x"}, {"path": "a.png"}], kind)})
        found = Columns({"id": "id", "image": "image"}, base="/photos")(batch).to_pylist()
        assert found == [
            {"id": "1", "image": b"x", "image_file": None},
            {"id": "2", "image": None, "image_file": "/photos/a.png"},
        ]

    @pytest.mark.parametrize(
        ("names", "given", "said"),
        [
            (["text"], None, "no column of ids"),
            (["id", "year"], None, "no column of texts or images"),
            (["id", "text"], {"text": "words"}, "no column 'words'"),
            (["id", "text"], {"words": "text"}, "no field 'words'"),
        ],
    )
    def test_columns_that_are_missing(self, names: list[str], given: dict[str, str], said: str) -> None:
        with pytest.raises(DataError, match=said):
            table_columns(pa.schema(dict.fromkeys(names, pa.string())), "a table", given)


class TestSources:
    def test_what_a_place_holds(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "shards").mkdir()
        (tmp_path / "shards/0.parquet").touch()
        (tmp_path / "shards/_SUCCESS").touch()
        assert tables_at(str(tmp_path / "photos")) is None
        assert tables_at(str(tmp_path / "items.jsonl")) is None
        assert tables_at(str(tmp_path / "shards")) is ParquetFiles
        assert tables_at("s3://bucket/shards") is ParquetFiles
        assert tables_at("s3://bucket/items.lance/") is LanceTable
        assert address_of(Path("s3://bucket/shards")) == "s3://bucket/shards"
        assert address_of("C:/photos") == "C:/photos"

    def write(self, folder: Path, *parts: list[str | None]) -> ParquetFiles:
        folder.mkdir(exist_ok=True)
        for n, ids in enumerate(parts):
            table = pa.table({"id": pa.array(ids, pa.string()), "text": ["words"] * len(ids)})
            pq.write_table(table, folder / f"{n}.parquet")
        return ParquetFiles(str(folder))

    def test_parts_without_anything_new_are_not_read(self, tmp_path: Path) -> None:
        source = self.write(tmp_path / "shards", ["a", "b"], ["c", "d"], ["e"])
        plan = planned(source, [["c", "d"], ["e", "gone"]])
        assert [Path(part).name for part in plan.parts] == ["0.parquet"]
        assert (plan.wanted, plan.total) == (2, 5)

    @pytest.mark.parametrize("parts", [(["a", "b", "a"],), (["a", "b"], ["c", "a"])])
    def test_an_id_that_is_there_twice_is_named(self, tmp_path: Path, parts: tuple[list[str], ...]) -> None:
        with pytest.raises(DataError, match="'a' appears twice"):
            planned(self.write(tmp_path / "shards", *parts), [])

    def test_bad_tables_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no id"):
            planned(self.write(tmp_path / "shards", ["a", None]), [])
        with pytest.raises(DataError, match="nothing to index"):
            planned(self.write(tmp_path / "empty", []), [])
        (tmp_path / "broken.parquet").write_bytes(b"no parquet")
        with pytest.raises(DataError, match="cannot be read"):
            ParquetFiles(str(tmp_path / "broken.parquet"))
        with pytest.raises(DataError):
            LanceTable(str(tmp_path / "none.lance"))

    def test_row_groups_are_read_one_by_one(self, tmp_path: Path) -> None:
        table = pa.table({"id": range(10), "caption": [f"text {n}" for n in range(10)], "year": range(10)})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
        source = ParquetFiles(str(tmp_path / "a.parquet"))
        read = RowGroups(source._filesystem, source.columns)
        named = pa.Table.from_pylist([{"file": source.parts[0], "group": n} for n in (2, 0)])
        found = pa.concat_tables(read(named)).to_pylist()
        assert found == [{"id": str(n), "text": f"text {n}", "meta_year": n} for n in (8, 9, 0, 1, 2, 3)]

    def test_a_lance_table(self, tmp_path: Path) -> None:
        import lance

        table = pa.table({"id": range(6), "text": ["words"] * 6})
        lance.write_dataset(table, str(tmp_path / "texts.lance"), max_rows_per_file=2)
        plan = planned(LanceTable(str(tmp_path / "texts.lance")), [["0", "1", "2"]])
        assert (len(plan.parts), plan.wanted, plan.total) == (2, 3, 6)

    def test_a_draw_is_even_and_stays(self) -> None:
        batch = pa.table({"id": [str(n) for n in range(4000)]})
        some = Chosen(below=0.25)(batch)
        assert some.equals(Chosen(below=0.25)(batch))
        assert 880 < len(some) < 1120
        assert Chosen()(batch).equals(batch)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/said.txt").write_text("words")
    index = Index.create(tmp_path / "index", repair="none")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "clearsight\[ray\]"'):
        sync_on_ray(index, tmp_path / "photos")
    config = IndexConfig(tmp_path / "photos", out=tmp_path / "other", engine="ray")
    with pytest.raises(UsageError, match=r'pip install "clearsight\[ray\]"'):
        run(config)
    assert not (tmp_path / "other").exists()  # said before anything is made


@pytest.mark.parametrize("wrong", [{"actors": 0}, {"batch_rows": 0}, {"file_rows": 0}, {"first": 0}])
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Cluster(**wrong)
