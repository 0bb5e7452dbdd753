"""Every benchmark is given every other one's folder, half a download, a pointer in place of the content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.data import load_task
from clearsight.data.benchmarks import BENCHMARKS, looks_like
from clearsight.errors import DataError
from small.cirr import write_cirr
from small.coco import write_coco
from small.flickr30k import write_flickr30k
from small.mbeir import write_mbeir, write_mbeir_mirror
from small.mmeb import write_mmeb, write_mmeb_train
from small.nights import write_nights
from small.sugarcrepe import write_sugarcrepe, write_sugarcrepe_pp

WRITERS: dict[str, Callable[[Path], Path]] = {
    "cirr": write_cirr,
    "coco": write_coco,
    "flickr30k": write_flickr30k,
    "mbeir": lambda folder: write_mbeir(folder, ["cirr_task7"]),
    "mmeb": lambda folder: write_mmeb(folder, ("VOC2007",)),
    "mmeb_train": lambda folder: write_mmeb_train(folder, ("CIRR",)),
    "nights": write_nights,
    "sugarcrepe": lambda folder: write_sugarcrepe(folder, ("swap_obj",)),
    "sugarcrepe_pp": write_sugarcrepe_pp,
}
TASKS = {
    "cirr": "cirr/val",
    "coco": "coco/i2t",
    "flickr30k": "flickr30k/t2i",
    "mbeir": "mbeir/cirr",
    "mmeb": "mmeb/VOC2007",
    "mmeb_train": "mmeb_train/CIRR",
    "nights": "nights/test",
    "sugarcrepe": "sugarcrepe/swap_obj",
    "sugarcrepe_pp": "sugarcrepe_pp/swap_obj_itt",
}
READ_FIRST = {
    "cirr": "captions/*.val.json",
    "coco": "data/val-00001*",
    "flickr30k": "dataset_flickr30k.json",
    "mbeir": "cand_pool/local/*",
    "mirror": "*/corpus-00001*",
    "mmeb": "VOC2007/*.parquet",
    "mmeb_train": "CIRR/original-*",
    "nights": "data.csv",
    "sugarcrepe": "swap_obj.json",
    "sugarcrepe_pp": "swap_obj.json",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("benchmarks")
    made = {name: write(root / name) for name, write in WRITERS.items()}
    write_mbeir_mirror(root / "mirror", made["mbeir"], "cirr_task7")
    return {**made, "mirror": root / "mirror"}


def test_every_benchmark_takes_part() -> None:
    assert set(WRITERS) == set(TASKS) == set(BENCHMARKS.names())


@pytest.mark.parametrize("name", TASKS)
def test_another_ones_folder_is_named(name: str, folders: dict[str, Path]) -> None:
    assert looks_like(folders[name]) == name
    for other, folder in folders.items():
        kind = "mbeir" if other == "mirror" else other
        if kind == name:
            assert load_task(TASKS[name], data=folder).queries
            continue
        with pytest.raises(DataError) as caught:
            load_task(TASKS[name], data=folder)
        title = BENCHMARKS.get(kind).title
        assert f"The folder looks like {title} ('{kind}')" in str(caught.value), other
        assert "Layout: " in str(caught.value)


@pytest.mark.parametrize("name", READ_FIRST)
def test_what_a_broken_download_leaves(name: str, folders: dict[str, Path]) -> None:
    path = next(folders[name].glob(READ_FIRST[name]))
    whole = path.read_bytes()
    task = TASKS["mbeir" if name == "mirror" else name]
    try:
        for content, says in (
            (whole[: len(whole) // 2 - 9], "fetch (it|the file) again"),
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ):
            path.write_bytes(content)
            with pytest.raises(DataError, match=says) as caught:
                load_task(task, data=folders[name])
            assert path.name in str(caught.value)
    finally:
        path.write_bytes(whole)


def test_the_right_folder_without_the_set_says_which_it_has(folders: dict[str, Path]) -> None:
    for task, says in (
        ("mmeb/GQA", r"needs the table of GQA.*Of its sets the folder has VOC2007\."),
        ("mbeir/nights", r"needs query/test/mbeir_nights.*the folder has cirr_task7,"),
        ("mmeb_train/N24News", r"needs the table N24News.*Of its sets the folder has CIRR\."),
        ("sugarcrepe/add_att", r"needs add_att.json.*Of its sets the folder has swap_obj\."),
    ):
        with pytest.raises(DataError, match=says):
            load_task(task, data=folders[task.partition("/")[0]])
