"""Flickr30k: its three forms give one task; what is missing or broken is said."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks import BENCHMARKS, looks_like
from clearsight.data.tables import Skipped
from clearsight.errors import DataError
from clearsight.types import Item
from small.flickr30k import Form, write_flickr30k
from small.mmeb import write_mmeb


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_the_forms_give_one_task(direction: str, tmp_path: Path) -> None:
    forms: tuple[Form, ...] = ("karpathy", "csv", "parquet")
    tasks = {f: load_task(f"flickr30k/{direction}", data=write_flickr30k(tmp_path / f, f)) for f in forms}

    def pixels(item: Item) -> bytes | None:
        return None if item.image is None else open_image(item.image).tobytes()

    shown = {
        form: [
            [(i.id, i.text, pixels(i)) for i in task.queries],
            [(i.id, i.text, pixels(i)) for i in task.candidates],
            task.relevance,
        ]
        for form, task in tasks.items()
    }
    assert shown["karpathy"] == shown["csv"] == shown["parquet"]
    images, texts = (len(tasks["csv"].queries), len(tasks["csv"].candidates))[
        :: 1 if direction == "i2t" else -1
    ]
    assert (images, texts) == (8, 39)  # train and val are left out; one image has four captions
    assert all(looks_like(tmp_path / form) == "flickr30k" for form in forms)


def test_relevance_is_the_images_own_captions(tmp_path: Path) -> None:
    write_flickr30k(tmp_path)
    given = json.loads((tmp_path / "dataset_flickr30k.json").read_text())["images"]
    task = load_task("flickr30k/i2t", data=tmp_path)
    texts = {c.id: c.text for c in task.candidates}
    for image in given:
        if image["split"] == "test":
            mine = [texts[c] for c in task.relevance[image["filename"]]]
            assert mine == [s["raw"] for s in image["sentences"]]
    assert len(load_task("flickr30k/i2t", data=tmp_path, n=3).queries) == 3
    assert task.measures == ("hit_rate@1", "hit_rate@5", "hit_rate@10")


@pytest.mark.parametrize("form", ["karpathy", "csv"])
def test_missing_images(form: Form, tmp_path: Path) -> None:
    write_flickr30k(tmp_path, form)
    (tmp_path / "flickr30k-images/1004.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 8 images are missing, such as '1004.jpg'"):
        load_task("flickr30k/t2i", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("flickr30k/t2i", data=tmp_path, skipped=skipped).candidates), len(skipped)] == [
        7,
        1,
    ]


def test_bad_rows_and_files(tmp_path: Path) -> None:
    place = write_flickr30k(tmp_path / "a")
    path = place / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    content["images"][3]["sentences"][1]["raw"] = " "
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"text is empty.*1003.jpg#1"):
        load_task("flickr30k/i2t", data=place)
    skipped: list[Skipped] = []
    assert [len(load_task("flickr30k/i2t", data=place, skipped=skipped).queries), len(skipped)] == [7, 1]
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"no whole JSON.*broken off"):
        load_task("flickr30k/i2t", data=place)
    path.write_text('{"pictures": []}')
    with pytest.raises(DataError, match=r"not Karpathy's.*images\[\].*fetch it again"):
        load_task("flickr30k/i2t", data=place)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Flickr30k needs dataset_flickr30k.json.*looks like MMEB-eval"):
        load_task("flickr30k/i2t", data=write_mmeb(tmp_path / "mmeb", ("GQA",)))
    place = write_flickr30k(tmp_path / "parquet", "parquet")
    path = next(place.glob("*.parquet"))
    pq.write_table(
        pq.read_table(path).rename_columns(["image", "captions", "s", "split", "i", "filename"]), path
    )
    with pytest.raises(DataError, match=r"'caption' \(nearest: 'captions'\)"):
        load_task("flickr30k/i2t", data=path)
    assert BENCHMARKS.get("flickr30k").found(tmp_path) == ()
