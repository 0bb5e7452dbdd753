"""COCO-Caption equals a naive shaping of the same parquet, in both directions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks import BENCHMARKS, looks_like
from clearsight.data.parquet import ParquetImages
from clearsight.data.tables import Skipped
from clearsight.errors import DataError
from small.coco import SCHEMA, write_coco


def coco_row(number: int, captions: int = 5) -> dict[str, Any]:
    name = f"COCO_val2014_{number:012d}.jpg"
    file = io.BytesIO()
    Image.new("RGB", (4 + number, 3), (number * 20, 0, 0)).save(file, "PNG")
    return {
        "question_id": name,
        "image": {"bytes": file.getvalue(), "path": name},
        "question": "Please carefully observe the image and come up with a caption for the image",
        "answer": [f"caption {j} of picture {number}" for j in range(captions)],
        "id": number,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/val2014/{name}",
        "height": 3,
        "width": 4 + number,
    }


def write(folder: Path, parts: list[list[dict[str, Any]]], prefix: str = "val") -> list[dict[str, Any]]:
    for number, rows in enumerate(parts):
        name = f"{prefix}-{number:05d}-of-{len(parts):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / name)
    return [row for rows in parts for row in rows]


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    every = [coco_row(n, captions=6 if n == 3 else 5) for n in range(7)]
    write(tmp_path, [[coco_row(99)]], prefix="test")  # another split beside it is not read
    return write(tmp_path, [every[:4], every[4:]])


def naive(rows: list[dict[str, Any]]) -> tuple[dict[str, bytes], dict[str, str], np.ndarray[Any, Any]]:
    """Images, captions, and which belongs to which: the loops one would write at first."""
    images = {row["question_id"]: row["image"]["bytes"] for row in rows}
    captions = {f"{row['question_id']}#{j}": text for row in rows for j, text in enumerate(row["answer"])}
    belongs = np.zeros((len(images), len(captions)))
    for i, image in enumerate(images):
        for j, caption in enumerate(captions):
            belongs[i, j] = caption.split("#")[0] == image
    return images, captions, belongs


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_equal_to_the_naive_shaping(direction: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    images, captions, belongs = naive(rows)
    task = load_task(f"coco/{direction}", data=tmp_path)
    sides = (task.queries, task.candidates) if direction == "i2t" else (task.candidates, task.queries)
    assert {i.id: (i.image, i.text) for i in sides[0]} == {k: (v, None) for k, v in images.items()}
    assert {i.id: (i.image, i.text) for i in sides[1]} == {k: (None, v) for k, v in captions.items()}
    assert [i.id for i in sides[0]] == list(images)
    assert [i.id for i in sides[1]] == list(captions)
    relevance = np.array(
        [[task.relevance[q.id].get(c.id, 0.0) for c in task.candidates] for q in task.queries]
    )
    assert np.array_equal(relevance, belongs if direction == "i2t" else belongs.T)
    assert relevance.sum() == 5 * 7 + 1
    assert task.measures[0] == "hit_rate@1"
    assert open_image(sides[0][2].image or b"").size == (6, 3)


def test_images_are_read_late_by_row_group(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    inner = ParquetImages._read_group
    monkeypatch.setattr(ParquetImages, "_read_group", lambda self, at: read.append(at) or inner(self, at))
    task = load_task("coco/i2t", data=tmp_path)
    assert not read
    assert task.queries[5].image == rows[5]["image"]["bytes"]
    assert read == [1]


def test_the_first_n_images_and_one_file(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    task = load_task("coco/t2i", data=tmp_path, n=5)
    assert (len(task.candidates), len(task.queries)) == (5, 26)
    one = load_task("coco/i2t", data=tmp_path / "val-00001-of-00002.parquet")
    assert [i.id for i in one.queries] == [row["question_id"] for row in rows[4:]]


def test_images_by_path_where_there_are_no_bytes(tmp_path: Path) -> None:
    row = coco_row(1)
    (tmp_path / row["file_name"]).write_bytes(row["image"]["bytes"])
    write(tmp_path, [[{**row, "image": {"bytes": None, "path": row["file_name"]}}]])
    assert open_image(load_task("coco/i2t", data=tmp_path).queries[0].image or b"").size == (5, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": ["fine", " "]}, r"text is empty.*row 2, COCO_val2014_000000000001.jpg#1"),
        ({"answer": None}, r"no captions.*row 2"),
        ({"answer": []}, r"no captions.*row 2"),
        ({"image": {"bytes": None, "path": None}}, r"1 of 3 images are missing, such as 'COCO_.*01.jpg'"),
        ({"image": None}, r"1 of 3 images are missing, such as 'COCO_.*01.jpg'"),
        ({"question_id": coco_row(0)["question_id"]}, r"appears twice.*row 2"),
    ],
)
def test_bad_rows(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write(tmp_path, [[coco_row(0), {**coco_row(1), **change}, coco_row(2)]])
    with pytest.raises(DataError, match=reason):
        load_task("coco/i2t", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("coco/i2t", data=tmp_path, skipped=skipped).queries), len(skipped)] == [2, 1]


def test_a_missing_image_is_counted_not_guessed(tmp_path: Path) -> None:
    row = coco_row(1)
    write(tmp_path, [[{**row, "image": {"bytes": None, "path": row["file_name"]}}, coco_row(2)]])
    with pytest.raises(DataError, match=r"1 of 2 images are missing, such as 'COCO.*'"):
        load_task("coco/i2t", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("coco/i2t", data=tmp_path, skipped=skipped).queries), len(skipped)] == [1, 1]


def test_a_folder_without_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"COCO-Caption needs a parquet file.*Layout: val-"):
        load_task("coco/i2t", data=tmp_path)
    pq.write_table(pa.table({"question": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"lacks the columns 'question_id' \(nearest: 'question'\), 'answer'"):
        load_task("coco/i2t", data=tmp_path)


def test_a_download_that_broke_off(tmp_path: Path) -> None:
    path = next(write_coco(tmp_path, 4).rglob("val-00000*"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot be read.*broken off: fetch"):
        load_task("coco/i2t", data=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"promise 2 files val-\*.parquet; 1 are there"):
        load_task("coco/i2t", data=tmp_path)


def test_the_row_of_facts(tmp_path: Path) -> None:
    coco = BENCHMARKS.get("coco")
    assert not coco.looks(tmp_path)
    assert coco.found(tmp_path) == ()
    write_coco(tmp_path, 4)
    assert coco.looks(tmp_path)
    assert coco.found(tmp_path) == ("i2t", "t2i")
    assert looks_like(tmp_path) == "coco"
    task = load_task("coco/t2i", data=tmp_path)
    assert (len(task.candidates), len(task.queries)) == (4, 21)
