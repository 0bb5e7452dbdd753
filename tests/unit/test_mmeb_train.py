"""MMEB-train: pairs one by one, both splits, and the set as a task."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks import BENCHMARKS, looks_like
from clearsight.data.benchmarks.mmeb_sets import TRAIN_SETS
from clearsight.data.benchmarks.mmeb_train import mmeb_train_pairs
from clearsight.data.tables import Faults, Skipped
from clearsight.errors import DataError, UsageError
from small.mmeb import write_mmeb, write_mmeb_train


def test_pairs_with_negatives(tmp_path: Path) -> None:
    pairs = list(mmeb_train_pairs(write_mmeb_train(tmp_path, ("CIRR",)), "CIRR"))
    assert [p.negative is None for p in pairs] == [True] + [False] * 5  # empty strings mean none
    assert [p.place for p in pairs] == ["first"] * 6
    first = pairs[1]
    assert (first.query.id, first.positive.id) == ("q1", "p1")
    assert (
        first.query.instruction == "Given an image, find a similar everyday image with the described changes:"
    )
    assert "number 1" in (first.query.text or "")
    assert (first.positive.text, first.positive.instruction) == (None, "Represent the given image.")
    assert first.negative is not None
    assert first.negative.image == pairs[2].positive.image
    assert open_image(first.positive.image or b"").size[0] > 0


def test_diverse_instructions_stay_in_the_text(tmp_path: Path) -> None:
    write_mmeb_train(tmp_path, ("VOC2007",))
    pairs = list(mmeb_train_pairs(tmp_path, "VOC2007", "diverse_instruction", n=2))
    assert len(pairs) == 2
    assert (pairs[0].place, pairs[0].query.text) == ("inside", "From the image, take what is asked:")
    assert pairs[0].query.instruction is None
    assert pairs[0].negative is None  # the set has no such columns


def test_as_a_task(tmp_path: Path) -> None:
    """Rows 4 and 5 share their query: one query with two positives."""
    write_mmeb_train(tmp_path)
    task = load_task("mmeb_train/VOC2007", data=tmp_path)
    assert (len(task.queries), len(task.candidates)) == (5, 6)
    assert [len(grades) for grades in task.relevance.values()] == [1, 1, 1, 1, 2]
    assert task.relevance["q4"] == {"p4": 1.0, "p5": 1.0}
    diverse = load_task("mmeb_train/VOC2007_diverse", data=tmp_path, n=3)
    assert [q.text for q in diverse.queries] == ["From the image, take what is asked:"] * 3
    assert load_task("mmeb_train/imagenet-1k_diverse", data=write_mmeb_train(tmp_path, ("ImageNet_1K",)))


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write_mmeb_train(tmp_path, ("CIRR",)) / "CIRR/original-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(2, "pos_text", [[None] * 6]).set_column(3, "pos_image_path", [[""] * 6]), path
    )
    faults = Faults("skip")
    assert list(mmeb_train_pairs(tmp_path, "CIRR", faults=faults)) == []
    assert len(faults.skipped) == 6
    with pytest.raises(DataError, match=r"neither text nor image.*row 1"):
        next(mmeb_train_pairs(tmp_path, "CIRR"))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no 'GQA', split 'original'.*Sets: ImageNet_1K"):
        next(mmeb_train_pairs(tmp_path, "GQA"))
    with pytest.raises(DataError, match=r"MMEB-train needs the table CIRR/original.*looks like MMEB-eval"):
        load_task("mmeb_train/CIRR", data=write_mmeb(tmp_path / "eval", ("CIRR",)))
    place = write_mmeb_train(tmp_path / "train", ("CIRR",))
    assert (looks_like(place), BENCHMARKS.get("mmeb_train").found(place)) == ("mmeb_train", ("CIRR",))
    (place / "images/CIRR/Train/image_2.png").unlink()
    with pytest.raises(DataError, match="1 of 6 images are missing"):
        load_task("mmeb_train/CIRR", data=place)
    skipped: list[Skipped] = []
    task = load_task("mmeb_train/CIRR", data=place, skipped=skipped)
    assert (len(task.queries), len(task.candidates), len(skipped)) == (5, 5, 1)
    path = place / "CIRR/original-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["qry_image_path"]), path)
    with pytest.raises(DataError, match=r"'qry_image_path' \(nearest: 'pos_image_path'\)"):
        load_task("mmeb_train/CIRR", data=place)
    assert len(TRAIN_SETS) == 20
