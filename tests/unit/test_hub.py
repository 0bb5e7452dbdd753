"""Data by name: the `datasets` library reads a local data set; what cannot be had is said."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks.mmeb_train import mmeb_train_pairs
from clearsight.data.hub import Hub, data_of
from clearsight.data.sources import TaskOptions
from clearsight.errors import DataError, UsageError
from clearsight.types import Task
from small.coco import write_coco
from small.flickr30k import write_flickr30k
from small.mmeb import write_mmeb, write_mmeb_train

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "cache" / name)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], list[dict[str, Any]]]:
    """Lets a name of the hub mean a folder; gives the list of calls."""
    load = datasets.load_dataset

    def resolve(name: str, folder: Path) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def instead(asked: str, config: str | None = None, **rest: Any) -> Any:
            assert asked == name
            calls.append({"config": config, **rest})
            return load(str(folder), config, **{**rest, "revision": None})

        monkeypatch.setattr(datasets, "load_dataset", instead)
        return calls

    return resolve


def card(folder: Path, *lines: tuple[str | None, str, str]) -> Path:
    """A data set card that names (configuration, split, files)."""
    text = "---\nconfigs:\n"
    for config, split, files in lines:
        text += (
            f"- config_name: {config or 'default'}\n  data_files:\n  - split: {split}\n    path: '{files}'\n"
        )
    (folder / "README.md").write_text(text + "---\n")
    return folder


def content(task: Task) -> list[Any]:
    def pixels(item: Any) -> Any:
        return None if item.image is None else open_image(item.image).tobytes()

    return [
        [(i.id, i.text, i.instruction, pixels(i)) for i in side] for side in (task.queries, task.candidates)
    ] + [task.relevance, task.pools]


@pytest.mark.parametrize("n", [None, 3])
def test_mmeb_by_name_is_mmeb_by_folder(
    n: int | None, tmp_path: Path, resolver: Callable[[str, Path], list[dict[str, Any]]]
) -> None:
    folder = card(write_mmeb(tmp_path / "m", ("CIRR",)), ("CIRR", "test", "CIRR/test-*.parquet"))
    by_folder = load_task("mmeb/CIRR", data=folder, n=n)
    expected = content(by_folder)
    shutil.make_archive(str(tmp_path / "m/images"), "zip", tmp_path / "m/images")
    shutil.rmtree(tmp_path / "m/images")
    by_name = load_task("mmeb/CIRR", data=f"hub:{folder}", n=n)
    assert content(by_name) == expected
    calls = resolver("TIGER-Lab/MMEB-eval", folder)
    monkeyed = Hub("TIGER-Lab/MMEB-eval").rows("CIRR", "test", n)
    assert len(list(monkeyed)) == len(by_folder.queries)
    assert calls == [{"config": "CIRR", "split": "test", "streaming": n is not None, "revision": None}]


def test_coco_and_flickr30k_by_name(
    tmp_path: Path, resolver: Callable[[str, Path], list[dict[str, Any]]]
) -> None:
    coco = card(write_coco(tmp_path / "coco", 4), (None, "val", "data/val-*.parquet"))
    resolver("lmms-lab/COCO-Caption", coco)
    for n in (None, 2):
        by_name = load_task("coco/t2i", data="hub:lmms-lab/COCO-Caption", n=n)
        assert content(by_name) == content(load_task("coco/t2i", data=coco, n=n))
    flickr = card(write_flickr30k(tmp_path / "f", "parquet"), (None, "test", "*.parquet"))
    calls = resolver("nlphuji/flickr30k", flickr)
    for n in (None, 2):
        by_name = load_task("flickr30k/i2t", data="nlphuji/flickr30k", n=n)  # no such path here: a name
        assert content(by_name) == content(load_task("flickr30k/i2t", data=flickr, n=n))
    assert {call["revision"] for call in calls} == {"refs/convert/parquet"}  # scripts are not run


def test_mmeb_train_by_name(tmp_path: Path) -> None:
    folder = write_mmeb_train(tmp_path / "t", ("CIRR",))
    by_folder = list(mmeb_train_pairs(folder, "CIRR"))
    card(folder, ("CIRR", "original", "CIRR/original-*.parquet"))
    shutil.make_archive(str(folder / "images_zip/CIRR"), "zip", folder / "images", "CIRR")
    shutil.rmtree(folder / "images")
    by_name = list(mmeb_train_pairs(Hub(str(folder)), "CIRR"))
    assert [p.query.text for p in by_name] == [p.query.text for p in by_folder]
    assert all(Path(str(p.positive.image)).is_file() for p in by_name)
    assert len(load_task("mmeb_train/CIRR", data=f"hub:{folder}").queries) == 6


def test_tables_leave_images_encoded(tmp_path: Path) -> None:
    coco = card(write_coco(tmp_path / "coco", 4), (None, "val", "data/val-*.parquet"))
    table = Hub(str(coco)).table(None, "val")
    assert isinstance(table, pa.Table)
    assert table.num_rows == 4
    assert set(table["image"][0].as_py()) == {"bytes", "path"}
    rows = list(Hub(str(coco)).rows(None, "val"))
    assert rows[1].where.endswith("val row 2")
    assert [r.values["id"] for r in rows] == [0, 1, 2, 3]


def test_what_a_path_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/it-is").mkdir(parents=True)

    def named(data: str) -> Path | Hub:
        return data_of(TaskOptions(Path(data)), "x/y")

    assert named("here/it-is") == Path("here/it-is")
    assert named("owner/name") == Hub("owner/name")
    assert named("hub:here/it-is") == Hub("here/it-is")
    assert named("hub:owner/name@v2") == Hub("owner/name", "v2")
    with pytest.raises(DataError, match="does not exist"):
        named("one/two/three")
    with pytest.raises(UsageError, match="names no dataset"):
        named("hub:")
    with pytest.raises(UsageError, match="needs data"):
        data_of(TaskOptions(), "x/y")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub\nlong story"),
            r"cannot be reached.*Connect to the",
        ),
        (datasets.exceptions.DatasetNotFoundError("no 'a/b'"), r"cannot be read.*Check its name"),
        (
            ValueError("BuilderConfig 'x' not found. Available: ['y']"),
            r"cannot be read.*Available.*Check its",
        ),
    ],
)
@pytest.mark.parametrize("n", [None, 2])
def test_what_cannot_be_had(
    fault: Exception, reason: str, n: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=reason) as caught:
        load_task("mmeb/CIRR", data="a/b", n=n)
    assert "long story" not in str(caught.value)


def test_an_unknown_configuration_or_archive(tmp_path: Path) -> None:
    folder = card(write_mmeb(tmp_path / "m", ("CIRR",)), ("CIRR", "test", "CIRR/test-*.parquet"))
    with pytest.raises(DataError, match=r"cannot be read.*'EDIS'"):
        load_task("mmeb/EDIS", data=f"hub:{folder}")
    with pytest.raises(DataError, match=r"cannot be read.*dev"):
        next(Hub(str(folder)).rows("CIRR", "dev", 1))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'clearsight\[datasets\]'"):
        load_task("mmeb/CIRR", data="hub:a/b")
