"""An index filled by Ray on this machine: the rows of the plain loop, each once, whoever is killed."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.data import world
from clearsight.errors import DataError, UsageError
from clearsight.index import Index, scale
from clearsight.index.making import fixed
from clearsight.index.scale import Cluster, sync_on_ray
from clearsight.index.scale_ray import build_on_ray
from clearsight.store.columns import matrix
from clearsight.store.lance import LanceStore
from small.servers import s3_server

pytestmark = [
    pytest.mark.services,
    # Ray's own, of this version: its context reads settings that it has itself declared old.
    pytest.mark.filterwarnings("ignore:`use_push_based_shuffle` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`use_polars` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`use_arrow_tensor_v2` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
]

SMALL = Cluster(batch_rows=8, file_rows=16, commit_seconds=0, first=16)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("photos") as endpoint:
        yield endpoint


@pytest.fixture(scope="module", autouse=True)
def cluster(s3: str) -> Iterator[None]:
    """A Ray of two cores on this machine; its processes know the object storage by the environment."""
    import ray

    with quiet():
        for tries_left in reversed(range(4)):
            try:
                ray.init(
                    num_cpus=2,
                    num_gpus=0,
                    include_dashboard=False,
                    object_store_memory=100 << 20,
                    log_to_driver=False,
                    logging_level="error",
                )
                break
            except Exception:  # it gives a busy machine 30 seconds
                if not tries_left:
                    raise
    yield
    with quiet():
        ray.shutdown()
        gc.collect()


@contextmanager
def quiet() -> Iterator[None]:
    """What Ray's start and end warn of: forks beside Lance, programs that end by themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
        warnings.filterwarnings("ignore", r"subprocess \d+ is still running", ResourceWarning)
        yield


def pictures(number: int) -> list[tuple[str, bytes]]:
    """Names and PNG files of world pictures."""
    drawn = []
    for n, item in enumerate(world.unlabelled_images(number, seed=3)):
        file = io.BytesIO()
        item.image.save(file, "PNG")  # type: ignore[union-attr]
        drawn.append((f"{n:03d}", file.getvalue()))
    return drawn


def photos(folder: Path, number: int = 40) -> Path:
    """A folder of pictures, one of them broken, with a table of years."""
    folder.mkdir()
    rows = ["image,year"]
    for n, (name, content) in enumerate(pictures(number)):
        (folder / f"{name}.png").write_bytes(content)
        rows.append(f"{name}.png,{2000 + n}")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "said.txt").write_text("a red ring above a star", encoding="utf-8")
    (folder / "years.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def rows_of(index: Index) -> pa.Table:
    columns = ["id", "key", "source", "stamp", "modality", "text", "thumbnail", "meta_year", "raw", "vector"]
    return pa.Table.from_batches(index.store.view().read(columns)).sort_by("id")


def once(index: Index) -> list[str]:
    """The ids of an index, each once."""
    ids = [name for batch in index.store.view().read(["id"]) for name in batch.column("id").to_pylist()]
    assert len(ids) == len(set(ids))
    return sorted(ids)


def test_the_rows_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    plain = Index.create(tmp_path / "plain", repair="none")
    told = plain.sync(folder)
    index = Index.create(tmp_path / "ray", plain.encoder, repair="realign")
    done = sync_on_ray(index, folder, cluster=SMALL)
    assert (done.new, done.changed, list(done.skipped)) == (told.new, 0, list(told.skipped))
    expected, found = rows_of(plain), rows_of(index)
    same = ["id", "key", "source", "stamp", "modality", "text", "thumbnail", "meta_year"]
    assert found.select(same).equals(expected.select(same))
    raw_ND = matrix(found.column("raw").combine_chunks())
    np.testing.assert_allclose(raw_ND, matrix(expected.column("raw").combine_chunks()), atol=1e-4)
    # The repair was fitted on the first rows; the others were written with it.
    view = index.store.view()
    assert view.repair
    modality_N = np.array(found.column("modality").to_pylist())
    vector_NE = index.fitted().rows(raw_ND, modality_N)
    np.testing.assert_allclose(matrix(found.column("vector").combine_chunks()), vector_NE, atol=1e-4)
    (folder / "broken.png").unlink()
    again = sync_on_ray(index, folder, cluster=SMALL)
    assert (again.new, again.same) == (0, told.new)
    (folder / "000.png").write_bytes((folder / "001.png").read_bytes())
    (folder / "002.png").unlink()
    (folder / "years.csv").write_text("image,year\n000.png,1999\n001.png,2001\n", encoding="utf-8")
    changed = sync_on_ray(index, folder, cluster=SMALL)
    assert changed.changed > 0
    assert changed.gone == 1
    assert len(once(index)) == told.new - 1
    assert index.items(["000.png"])[0].metadata["year"] == 1999


def waiting(folder: Path) -> type:
    """`EmbedBatch`, whose first process says its number at its second batch, and waits there for its end."""
    from clearsight.index.batch import BatchSettings, EmbedBatch

    class Waiting:  # a local class travels whole: workers need not find this file
        def __init__(self, settings: BatchSettings) -> None:
            self.own, self.calls = EmbedBatch(settings), 0

        def __call__(self, batch: pa.Table) -> pa.Table:
            self.calls += 1
            number = folder / "number"
            if self.calls == 2 and not number.exists():
                number.with_suffix(".new").write_text(str(os.getpid()))
                number.with_suffix(".new").rename(number)
                time.sleep(600)
            return self.own(batch)

    return Waiting


def test_a_killed_actor_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos")
    index = Index.create(tmp_path / "index", repair="none")
    monkeypatch.setattr(scale, "EmbedBatch", waiting(tmp_path))
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 600
        while not (tmp_path / "number").exists() and time.monotonic() < end:
            time.sleep(0.02)
        killed.append(int((tmp_path / "number").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = sync_on_ray(index, folder, cluster=SMALL)
    killer.join()
    assert len(killed) == 1
    assert done.new == 41
    assert once(index) == sorted([*(f"{n:03d}.png" for n in range(40)), "said.txt"])


DRIVER = """
import sys, time
from clearsight.index import Index
from clearsight.index import scale

own = scale.append_files

def append_files(*args):
    own(*args)
    print("committed", flush=True)
    time.sleep(600)

scale.append_files = append_files
cluster = scale.Cluster(batch_rows=4, file_rows=4, commit_seconds=0, storage=80 << 20)
scale.sync_on_ray(Index.open(sys.argv[1]), sys.argv[2], cluster=cluster)
"""


def test_a_killed_driver_goes_on(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    Index.create(tmp_path / "index", repair="none").close()
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path / "index"), str(folder)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "committed\n"
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    index = Index.open(tmp_path / "index")
    there = once(index)
    assert 0 < len(there) < 41
    done = sync_on_ray(index, folder, cluster=SMALL)
    assert done.new + len(there) == 41  # nothing that was committed is embedded again
    assert len(once(index)) == 41


def tables(folder: Path) -> pa.Table:
    drawn = pictures(30)
    return pa.table(
        {
            "id": range(30),
            "image": [{"bytes": content, "path": None} for _, content in drawn],
            "caption": ["a picture"] * 29 + [None],
            "year": pa.array(range(30), pa.int32()),
            "shape": pa.array([[1, 2]] * 30),  # of a type that no store keeps
        }
    )


def test_parquet_files_with_images(tmp_path: Path) -> None:
    table, folder = tables(tmp_path), tmp_path / "shards"
    folder.mkdir()
    for part in range(3):
        pq.write_table(table.slice(part * 10, 10), folder / f"{part}.parquet")
    index = Index.create(tmp_path / "index", repair="centred")
    done = sync_on_ray(index, folder, cluster=SMALL)
    assert (done.new, done.skipped) == (30, {})
    assert once(index) == sorted(str(n) for n in range(30))
    hit = index.items(["7"])[0]
    assert (hit.modality, hit.text, hit.metadata) == ("image", "a picture", {"year": 7})
    assert index.search(like="7", top=3, where="year > 20").hits
    more = table.slice(0, 2).set_column(0, "id", pa.array([30, 31]))
    pq.write_table(more, folder / "3.parquet")
    again = sync_on_ray(index, folder, cluster=SMALL)
    assert (again.new, again.same) == (2, 30)
    pq.write_table(more, folder / "4.parquet")
    with pytest.raises(DataError, match="appears twice"):
        sync_on_ray(index, folder, cluster=SMALL)


def test_object_storage_on_both_sides(tmp_path: Path) -> None:
    import boto3

    table = tables(tmp_path).drop_columns(["image"]).slice(0, 29)
    pq.write_table(table, tmp_path / "0.parquet")
    boto3.client("s3").upload_file(str(tmp_path / "0.parquet"), "photos", "shards/0.parquet")
    index = Index.create(tmp_path / "index", address="s3://photos/index/items.lance", repair="none")
    done = sync_on_ray(index, "s3://photos/shards", cluster=SMALL)
    assert (done.new, done.skipped) == (29, {})
    assert len(once(index)) == 29
    assert not list(tmp_path.rglob("*.lance"))
    assert sync_on_ray(index, "s3://photos/shards", cluster=SMALL).same == 29
    assert index.search("a picture", top=3, where="year > 20").hits


def test_a_lance_table(tmp_path: Path) -> None:
    import lance

    table = tables(tmp_path).drop_columns(["image"])
    place = str(tmp_path / "texts.lance")
    lance.write_dataset(table, place, max_rows_per_file=10)
    index = Index.create(tmp_path / "index", repair="none")
    done = sync_on_ray(index, place, cluster=SMALL)
    assert done.new == 29
    assert "29" in done.skipped  # without a text
    assert len(once(index)) == 29


def test_an_approximate_index_is_built_by_two(tmp_path: Path) -> None:
    store = LanceStore.open(str(tmp_path / "items.lance"), 32, create=True)
    vectors = np.random.default_rng(0).normal(size=(4, 200, 32)).astype(np.float32)
    for part, rows_ND in enumerate(vectors):
        names = [f"{part} {n}" for n in range(200)]
        columns = {"id": names, "key": names, "modality": ["text"] * 200}
        store.add(pa.table({**columns, "raw": fixed(rows_ND), "vector": fixed(rows_ND)}))
    create = partial(build_on_ray, workers=2)
    made = store.build(force=True, create=create)["index"]["raw"]
    assert (made["rows"], made["kind"]) == (800, "IVF_RQ")
    assert made["recall@10"] > 0.9
    described = {one.name: one for one in store.place.open().describe_indices()}
    assert len(described["raw_idx"].segments) == 2
    before = store.view().version
    store.build(force=True, create=create)
    assert store.view().version == before  # there is nothing to do
    found = store.view().search(vectors[2, :3], 1, space="raw")
    assert [one.rows.column("id").to_pylist() for one in found] == [["2 0"], ["2 1"], ["2 2"]]


def test_a_store_that_is_no_lance_table_is_refused(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", address="memory:", repair="none")
    with pytest.raises(UsageError, match="Lance"):
        sync_on_ray(index, photos(tmp_path / "photos", 2), cluster=SMALL)
