"""A pool is embedded slice by slice, once, and read from the store afterwards."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clearsight.data.item_table import ItemTable
from clearsight.errors import ItemError, UsageError
from clearsight.jobs import pools
from clearsight.jobs.embedding import (
    check_images,
    embed_sides,
    embed_task,
    kept,
    side_modality,
    unlabelled_images,
)
from clearsight.jobs.pools import Part, Shard, embed_part, embed_pool
from clearsight.models.encoder import Encoder
from clearsight.progress import Silent
from clearsight.types import Embeddings, Item, Task


@pytest.fixture(scope="module")
def loaded():
    return Encoder.load("tiny").loaded


def items(count=23):
    words = ("red", "green", "blue", "white", "black", "small", "large")
    return [Item(f"i{n}", text=f"{words[n % 7]} ball {n % 19}") for n in range(count)]


class Told:
    def __init__(self) -> None:
        self.total, self.done, self.closed = 0, 0, 0

    def start(self, total, label):
        self.total = total

    def advance(self, n=1):
        self.done += n

    def close(self):
        self.closed += 1


def test_slices_give_what_one_call_gives(loaded, tmp_path):
    told = Told()
    source = embed_pool(Encoder(loaded, cache=tmp_path), items(), slice_items=5, progress=told)
    whole = Encoder(loaded).embed(items())
    taken = source.take(np.arange(23))
    assert taken.ids == whole.ids
    np.testing.assert_allclose(taken.rows_ND, whole.rows_ND, atol=1e-5 * np.abs(whole.rows_ND).max())
    assert (taken.side_N.tolist(), taken.modality_N.tolist()) == (
        whole.side_N.tolist(),
        whole.modality_N.tolist(),
    )
    assert source.origin == whole.origin
    assert (told.total, told.done, told.closed) == (23, 23, 1)


def test_parts_meet_and_what_is_done_is_not_done_again(loaded, tmp_path, monkeypatch):
    encoder = Encoder(loaded, cache=tmp_path)
    embedded = []
    embed = Encoder.embed
    monkeypatch.setattr(
        Encoder,
        "embed",
        lambda self, part, *a, **o: embedded.extend(i.id for i in part) or embed(self, part, *a, **o),
    )
    pool = items(40)[:18]  # no two of one content
    assert embed_part(encoder, pool, shard=Shard(2, 3), slice_items=4) == Part(6)
    assert embedded == [f"i{n}" for n in range(1, 18, 3)], "slices of one: every part has some"
    assert embed_part(encoder, pool, shard=Shard.parse("3/3"), slice_items=4).items == 6
    source = embed_pool(encoder, pool, slice_items=4)
    assert sorted(embedded) == sorted(item.id for item in pool), "each once"
    assert tuple(source.ids) == tuple(item.id for item in pool)
    embed_pool(encoder, pool, slice_items=7)
    assert len(embedded) == 18


@pytest.mark.parametrize("count", [0, 1, 7, 100, 1001])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_parts_are_alike_and_cover_the_pool(count, of):
    parts = []
    for number in range(1, of + 1):
        firsts, size = pools._slices(count, Shard(number, of), 64)
        assert size <= 64
        parts.append([n for first in firsts for n in range(first, min(first + size, count))])
    assert sorted(n for part in parts for n in part) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= max(1, count // (3 * of), 64 if of == 1 else 0)


def test_refused_items_have_no_row(loaded, tmp_path):
    pool = [*items(6), Item("bad", image=b"no image"), Item("blank", text=" "), *items(12)[6:]]
    with pytest.raises(ItemError, match="blank"):
        embed_pool(Encoder(loaded, cache=tmp_path), pool, slice_items=20)
    source = embed_pool(Encoder(loaded, cache=tmp_path, on_error="skip"), pool, slice_items=5)
    assert set(source.skipped) == {"bad", "blank"}
    assert tuple(source.ids) == tuple(f"i{n}" for n in range(12))
    whole = Encoder(loaded, cache=tmp_path).embed(items(12))
    assert np.array_equal(source.take(np.arange(12)).rows_ND, whole.rows_ND)
    part = embed_part(Encoder(loaded, cache=tmp_path, on_error="skip"), pool, shard=Shard(1, 2))
    other = embed_part(Encoder(loaded, cache=tmp_path, on_error="skip"), pool, shard=Shard(2, 2))
    assert {**part.skipped, **other.skipped} == source.skipped
    assert part.items + other.items == 12


def test_a_slice_that_the_model_cannot_read_is_skipped_where_the_pool_can(loaded, tmp_path, monkeypatch):
    def check(self, *sides):
        for side in sides:
            if all(item.image is not None for item in side):
                raise UsageError("The model reads text alone.")

    monkeypatch.setattr(Encoder, "check", check)
    pictures = [Item(f"p{n}", image=png(n)) for n in range(4)]
    encoder = Encoder(loaded, cache=tmp_path, on_error="skip")
    source = embed_pool(encoder, [*items(4), *pictures], slice_items=4)
    assert source.skipped == dict.fromkeys(["p0", "p1", "p2", "p3"], "The model reads text alone.")
    assert tuple(source.ids) == ("i0", "i1", "i2", "i3")
    with pytest.raises(UsageError, match="text alone"):
        embed_pool(encoder, pictures)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0", "1/2/3"])
def test_shards_that_are_none(text):
    with pytest.raises(UsageError) as caught:
        Shard.parse(text)
    assert caught.value.where == "--shard"


def test_a_pool_needs_a_cache(loaded):
    with pytest.raises(UsageError, match="into a cache"):
        embed_pool(Encoder(loaded), items())


def test_an_empty_slice_is_refused(loaded, tmp_path):
    with pytest.raises(UsageError, match="slice holds 0"):
        embed_pool(Encoder(loaded, cache=tmp_path), items(), slice_items=0)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), (number * 5 % 256, 90, 200 - number)).save(buffer, "PNG")
    return buffer.getvalue()


class Picture(bytes):
    """Bytes that are counted while somebody holds them."""

    alive, most = 0, 0

    def __new__(cls, content: bytes):
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, content)

    def __del__(self) -> None:
        type(self).alive -= 1


class Album:
    """Images that are read when items are made."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, numbers):
        self.asked += numbers
        return [Picture(png(number)) for number in numbers]


def pictured(count=60):
    """A task of texts that look for pictures in an album."""
    album = Album()
    numbers = [None if n % 10 == 9 else n for n in range(count)]
    texts = ["a caption" if n % 5 == 4 else None for n in range(count)]
    ids = [f"c{n}" for n in range(count)]
    table = pa.table({"id": ids, "image": pa.array(numbers, pa.int64()), "text": pa.array(texts)})
    queries = ItemTable(
        pa.table({"id": [f"q{n}" for n in range(8)], "text": [f"ball {n}" for n in range(8)]})
    )
    relevance = {f"q{n}": {f"c{3 * n}": 1.0} for n in range(8)}
    return Task("pictured", queries, ItemTable(table, images=album), relevance), album


def test_one_slice_of_images_is_held_and_none_is_read_for_what_columns_tell(loaded, tmp_path):
    task, album = pictured()
    encoder = Encoder(loaded, cache=tmp_path, workers=0)
    check_images(task)
    encoder.check(task.queries, task.candidates)
    assert (side_modality(task.queries), side_modality(task.candidates)) == ("text", "image")
    queries, stored, gone = embed_sides(encoder, task, Silent(), most=10)
    assert (len(stored), gone) == (60, [])
    assert not isinstance(stored, Embeddings)
    assert kept(task, queries, stored) is task
    album.asked.clear()
    lost = stored.take(np.arange(3, 60))
    less = kept(task, queries, lost)
    assert tuple(less.candidates.ids) == lost.ids
    assert less.relevance["q0"] == {}
    assert album.asked == []

    Picture.most = Picture.alive
    small = Encoder(loaded, cache=tmp_path / "other", workers=0)
    embed_pool(small, task.candidates, counterpart="text", slice_items=10)
    assert Picture.most <= 10
    _, inside = embed_task(Encoder(loaded, cache=tmp_path / "third", workers=0), task, Silent())
    whole = Encoder(loaded).embed(list(task.candidates), counterpart="text")
    assert inside.ids == whole.ids
    assert inside.modality_N.tolist() == whole.modality_N.tolist()
    scale = 1e-5 * np.abs(whole.rows_ND).max()
    np.testing.assert_allclose(inside.rows_ND, whole.rows_ND, atol=scale)
    np.testing.assert_allclose(stored.take(np.arange(60)).rows_ND, whole.rows_ND, atol=scale)


def test_images_to_caption_are_read_alone():
    task, album = pictured()
    images = unlabelled_images("3", task)
    assert [image.id for image in images] == ["c0", "c1", "c2"]
    assert album.asked == [0, 1, 2]
    assert [image.text for image in images] == [None] * 3
    with pytest.raises(UsageError, match="no images to caption"):
        unlabelled_images("3", Task("t", items(3), [Item("a", text="b")], {}))
