"""A pool is embedded slice by slice, once, and read from the store afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from clearsight.errors import ItemError, UsageError
from clearsight.jobs.pools import Shard, embed_pool
from clearsight.models.encoder import Encoder
from clearsight.types import Item


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
    assert embed_pool(encoder, pool, shard=Shard(2, 3), slice_items=4) is None
    assert embedded == [f"i{n}" for n in (*range(4, 8), 16, 17)]
    assert embed_pool(encoder, pool, shard=Shard.parse("3/3"), slice_items=4) is None
    assert embedded[6:] == [f"i{n}" for n in range(8, 12)]
    source = embed_pool(encoder, pool, slice_items=4)
    assert sorted(embedded) == sorted(item.id for item in pool), "each once"
    assert tuple(source.ids) == tuple(item.id for item in pool)
    embed_pool(encoder, pool, slice_items=7)
    assert len(embedded) == 18


def test_refused_items_have_no_row(loaded, tmp_path):
    pool = [*items(6), Item("bad", image=b"no image"), Item("blank", text=" "), *items(12)[6:]]
    with pytest.raises(ItemError, match="blank"):
        embed_pool(Encoder(loaded, cache=tmp_path), pool, slice_items=20)
    source = embed_pool(Encoder(loaded, cache=tmp_path, on_error="skip"), pool, slice_items=5)
    assert set(source.skipped) == {"bad", "blank"}
    assert tuple(source.ids) == tuple(f"i{n}" for n in range(12))
    whole = Encoder(loaded, cache=tmp_path).embed(items(12))
    assert np.array_equal(source.take(np.arange(12)).rows_ND, whole.rows_ND)


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
