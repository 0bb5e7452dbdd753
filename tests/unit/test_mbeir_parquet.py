"""M-BEIR's parquet mirror: the same tasks as the release, images read when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.data.benchmarks.mbeir_tables import mirror_rows
from clearsight.data.content import content_key
from clearsight.data.images import open_image
from clearsight.data.item_table import ItemTable
from clearsight.data.parquet import ParquetImages
from clearsight.data.sources import load_task
from clearsight.errors import DataError, ItemError
from small.mbeir import write_mbeir, write_mbeir_mirror

SETS = (
    "mscoco_task0",
    "webqa_task1",
    "edis_task2",
    "nights_task4",
    "fashioniq_task7",
    "cirr_task7",
    "oven_task6",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    release = write_mbeir(tmp_path_factory.mktemp("release"), SETS)
    mirror = tmp_path_factory.mktemp("mirror")
    for base in SETS:
        write_mbeir_mirror(mirror, release, base)
    return release, mirror


@pytest.fixture
def cirr(tmp_path):
    release = write_mbeir(tmp_path / "release", ["cirr_task7"])
    return write_mbeir_mirror(tmp_path, release, "cirr_task7")


def replace(path, **columns):
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path)


@pytest.mark.parametrize("name", [*SETS, "cirr_task7-reference", "fashioniq-reference"])
def test_the_mirror_is_the_release(both, name):
    release, mirror = (load_task(f"mbeir/{name}", data=folder) for folder in both)
    for side in ("queries", "candidates"):
        for one, other in zip(getattr(release, side), getattr(mirror, side), strict=True):
            assert (one.id, one.text, one.modality) == (other.id, other.text, other.modality)
            assert one.image is None or Path(one.image).read_bytes() == other.image
    assert release.relevance == mirror.relevance
    assert release.excluded == mirror.excluded
    assert release.measures == mirror.measures
    assert {item.instruction for item in mirror.queries} == {None}


def test_instructions_lie_beside_the_mirror(both, tmp_path):
    release, _ = both
    place = write_mbeir_mirror(tmp_path, release, "cirr_task7")
    (tmp_path / "instructions").symlink_to(release / "instructions")
    first, second = (load_task("mbeir/cirr", data=folder, seed=4) for folder in (place, release))
    assert [item.instruction for item in first.queries] == [item.instruction for item in second.queries]


def test_items_at_any_place(both):
    task = load_task("mbeir/edis_task2", data=both[1])
    items = list(task.candidates)
    keys = [content_key(item) for item in items]
    assert len(set(keys)) == len(keys) - 1  # two candidates of one content
    order = np.random.default_rng(0).permutation(len(items)).tolist()
    assert [content_key(task.candidates[i]) for i in order] == [keys[i] for i in order]
    assert [item.id for item in task.candidates[::-2]] == [item.id for item in items[::-2]]
    assert list(task.candidates[2:4]) == items[2:4]
    assert task.candidates[-1] == items[-1]
    assert open_image(items[0].image).size == (64, 64)
    with pytest.raises(IndexError):
        task.candidates[len(items)]


def test_one_row_group_is_in_memory(both, monkeypatch):
    groups, inner = [], ParquetImages._read_group

    def note(self, at):
        group = inner(self, at)
        groups.append(len(group))
        return group

    monkeypatch.setattr(ParquetImages, "_read_group", note)
    task = load_task("mbeir/cirr_task7", data=both[1])
    assert not groups
    items = list(task.candidates)
    assert len(items) == sum(groups) == 9
    assert max(groups) == 3
    groups.clear()
    text = load_task("mbeir/webqa_task1", data=both[1])
    assert all(item.image is None for item in text.candidates)
    assert not groups


def test_the_folder_of_one_set_or_of_many(both):
    _, mirror = both
    benchmark = BENCHMARKS.get("mbeir")
    assert benchmark.looks(mirror)
    assert benchmark.looks(mirror / "mbeir_cirr_task7")
    listed = {name for name in benchmark.found(mirror) if "-reference" not in name}
    assert listed == set(SETS)
    assert benchmark.found(mirror / "mbeir_cirr_task7") == ("cirr_task7", "cirr_task7-reference")
    assert load_task("mbeir/cirr", data=mirror / "mbeir_cirr_task7").name == "mbeir/cirr_task7"
    with pytest.raises(DataError, match="is of the set 'cirr_task7', not 'nights_task4'"):
        load_task("mbeir/nights", data=mirror / "mbeir_cirr_task7")
    for end in ("@global", "@val"):
        with pytest.raises(DataError, match="local pools of the test split only"):
            load_task(f"mbeir/cirr{end}", data=mirror)


def test_half_a_download(cirr):
    whole = (cirr / "corpus-00001-of-00002.parquet").read_bytes()
    (cirr / "corpus-00001-of-00002.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be read.*00001-of-00002"):
        load_task("mbeir/cirr", data=cirr)
    (cirr / "corpus-00001-of-00002.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(DataError, match="git lfs pull"):
        load_task("mbeir/cirr", data=cirr)
    (cirr / "corpus-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"promise 2 files corpus.*; 1 are there"):
        load_task("mbeir/cirr", data=cirr)
    for path in cirr.glob("corpus-*"):
        path.unlink()
    with pytest.raises(DataError, match=r"M-BEIR needs query/test"):
        load_task("mbeir/cirr", data=cirr)


@pytest.mark.parametrize(
    ("part", "column", "near"),
    [("query", "image", "images"), ("corpus", "modality", "modalities"), ("qrels", "corpus-id", "corpus_id")],
)
def test_wrong_columns(cirr, part, column, near):
    for path in cirr.glob(f"{part}-*"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([near if n == column else n for n in table.column_names]), path)
    with pytest.raises(DataError, match=rf"'{column}' \(nearest: '{near}'\)"):
        load_task("mbeir/cirr", data=cirr)


def test_bad_rows_are_named_or_left_out(cirr):
    replace(cirr / "corpus-00000-of-00002.parquet", modality=["image", "video", "image", "image"])
    with pytest.raises(DataError, match=r"'video' is of an unknown modality.*row 2, id '8:7001'"):
        load_task("mbeir/cirr", data=cirr)
    skipped = []
    task = load_task("mbeir/cirr", data=cirr, skipped=skipped)
    assert "8:7001" not in {item.id for item in task.candidates}
    assert len(skipped) == 2  # the row, and the relevance that names it
    assert content_key(task.candidates[1])  # rows still find their own images


def test_a_null_image_is_the_items_own_fault(cirr):
    path = cirr / "query-00000-of-00001.parquet"
    images = pq.read_table(path)["image"].to_pylist()
    replace(path, image=[None, {"bytes": None, "path": "gone.jpg"}, *images[2:]])
    task = load_task("mbeir/cirr", data=cirr)
    for item in task.queries[:2]:
        with pytest.raises(ItemError, match=item.id):
            open_image(item.image, item_id=item.id)


def test_columns_without_a_value_or_of_another_kind_of_string(cirr):
    path = cirr / "corpus-00000-of-00002.parquet"
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("text"), "text", pa.nulls(len(table)))
    table = table.set_column(0, "id", table["id"].cast(pa.large_string()))
    pq.write_table(table, path)
    assert set(mirror_rows([path]).schema.types) == {pa.string()}
    assert {item.modality for item in load_task("mbeir/cirr", data=cirr).candidates} == {"image"}


@pytest.mark.parametrize("end", ["", "-reference"])
def test_by_the_name_of_a_dataset(cirr, end, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    named, folder = (load_task(f"mbeir/cirr{end}", data=data) for data in (f"hub:{cirr}", cirr))
    assert isinstance(named.candidates, ItemTable)
    assert list(named.candidates) == list(folder.candidates)
    assert list(named.queries) == list(folder.queries)
    assert (named.relevance, named.excluded) == (folder.relevance, folder.excluded)
    with pytest.raises(DataError, match="is of the set 'cirr_task7'"):
        load_task("mbeir/nights", data=f"hub:{cirr}")
