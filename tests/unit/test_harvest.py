"""Shards, the shuffled buffer and the stream over them: laws that hold without any model."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError, ItemError, UsageError
from clearsight.harvest import HarvestConfig, HarvestStream, Shards, ShuffledStream
from clearsight.harvest.config import MANIFEST, claim
from clearsight.harvest.draws import Draws
from clearsight.harvest.overlap import Arriving
from clearsight.harvest.produce import PartWriter
from clearsight.harvest.shards import shard_path
from clearsight.harvest.states import Tokens
from clearsight.progress import Silent

WIDTH = 6


def manifest(parts, dtype="float32"):
    return {"parts": parts, "width": WIDTH, "config": {"dtype": dtype}, "origin": {"model": "a"}}


def tokens(rng, rows, items):
    """Random tokens of items 0 .. items - 1."""
    states_ND = torch.from_numpy(rng.standard_normal((rows, WIDTH)).astype(np.float32))
    return Tokens(
        states_ND,
        torch.linalg.vector_norm(states_ND, dim=-1).numpy(),
        np.sort(rng.integers(items, size=rows)),
        rng.integers(9, size=rows).astype(np.int32),
        rng.integers(4, size=rows).astype(np.uint8),
    )


def worker(folder, *, shard_rows, dtype="float32", items=50):
    """What a `PartWriter` needs of a harvest."""
    config = HarvestConfig(dtype=dtype, shard_bytes=shard_rows * WIDTH * (4 if dtype == "float32" else 2))
    return SimpleNamespace(
        folder=folder,
        config=config,
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype],
        states=SimpleNamespace(width=WIDTH),
        modality_of=np.arange(items, dtype=np.uint8) % 3,
        items=[],
    )


def write(folder, parts, *, shard_rows=7, dtype="float32", seed=0):
    """A harvest whose parts hold `parts[p]` blocks of that many rows; all tokens in the order written."""
    rng = np.random.default_rng(seed)
    claim(folder, manifest(len(parts), dtype))
    written, shards = [], []
    for part, blocks in enumerate(parts):
        writer = PartWriter(worker(folder, shard_rows=shard_rows, dtype=dtype), part, len(shards))
        for rows in blocks:
            block = tokens(rng, rows, 50)
            written.append(block)
            shards += writer.add(
                Tokens(block.states_ND.to(writer._work.dtype), *(getattr(block, n) for n in COLUMNS))
            )
        shards += writer.finish()
    return written, shards


COLUMNS = ("norm_N", "item_N", "position_N", "type_N")


# The shuffled buffer on row numbers


def naive_order(epochs_rows, buffer, seed):
    """Row by row: the definition of the buffer, with a list."""
    left = []
    held, waiting = [], list(epochs_rows[0])
    while waiting and len(held) < buffer:
        held.append(waiting.pop(0))
    for epoch, _ in enumerate(epochs_rows):
        slots = np.random.default_rng([seed, epoch, 0])
        while waiting:
            slot = int(slots.integers(len(held)))
            left.append(held[slot])
            held[slot] = waiting.pop(0)
        following = list(epochs_rows[epoch + 1]) if epoch + 1 < len(epochs_rows) else []
        for slot in np.random.default_rng([seed, epoch, 1]).permutation(len(held)):
            left.append(held[slot])
            if following:
                held[slot] = following.pop(0)
        waiting = following
    return left


def shard_rows_of(lengths):
    ends = np.cumsum(lengths, dtype=np.int64)
    return [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]


def epoch_rows(shards, seed, epochs):
    orders = [range(len(shards))]
    orders += [np.random.default_rng([seed, e, 2]).permutation(len(shards)) for e in range(1, epochs)]
    return [[int(row) for number in order for row in shards[number]] for order in orders]


def drawn(shards, chunks, **options):
    draws = Draws(lambda n: shards[n] if n < len(shards) else None, **options)
    held = draws.held_S.copy()
    rows = []
    while (exchange := draws.step(next(chunks))) is not None:
        rows += exchange.numbers(held).tolist()
        np.testing.assert_array_equal(held, draws.held_S)
    return rows


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    buffer=st.integers(1, 40),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
    chunk=st.integers(1, 60),
)
def test_the_buffer_is_its_definition_whatever_the_batch_size(lengths, buffer, epochs, seed, chunk):
    shards = shard_rows_of(lengths)
    expected = naive_order(epoch_rows(shards, seed, epochs), buffer, seed)
    options = {"buffer": buffer, "seed": seed, "epochs": epochs}
    assert drawn(shards, iter(lambda: chunk, None), **options) == expected
    count = sum(lengths)
    for epoch in range(epochs):
        assert sorted(expected[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    buffer=st.integers(1, 40),
    skip=st.integers(0, 150),
    chunk=st.integers(1, 20),
)
def test_skipping_is_drawing_without_looking(lengths, buffer, skip, chunk):
    shards = shard_rows_of(lengths)
    options = {"buffer": buffer, "seed": 1, "epochs": 2}
    everything = drawn(shards, iter(lambda: chunk, None), **options)
    draws = Draws(lambda n: shards[n] if n < len(shards) else None, **options)
    assert draws.skip(skip) == min(skip, len(everything))
    held, rest = draws.held_S.copy(), []
    while (exchange := draws.step(chunk)) is not None:
        rest += exchange.numbers(held).tolist()
    assert rest == everything[skip:]


def test_a_long_draw_mixes_far_and_wide():
    shards = shard_rows_of([1000] * 20)
    rows = np.array(drawn(shards, iter(lambda: 512, None), buffer=4000, seed=0, epochs=1))
    moved = np.abs(rows - np.arange(len(rows)))
    assert np.median(moved) > 1000
    assert len(np.unique(rows[:512] // 1000)) >= 4


# The stream


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stream_gives_each_row_once_an_epoch_and_restarts_anywhere(tmp_path, dtype):
    written, _ = write(tmp_path, [[9, 4], [20], [], [3, 8, 8]], dtype=dtype)
    shards = Shards.open(tmp_path)
    stream = ShuffledStream(shards, buffer=16, seed=3, epochs=3)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    expected = torch.cat([block.states_ND for block in written]).to(kind).float()
    assert stream.width == WIDTH
    batches = list(stream.batches(4))
    assert len(batches) == 3 * 52 // 4 == stream.steps(4)
    assert all(batch.dtype == torch.float32 and batch.shape == (4, WIDTH) for batch in batches)
    for epoch in range(3):
        rows = torch.cat(batches[epoch * 13 : (epoch + 1) * 13])
        assert sorted(rows.tolist()) == sorted(expected.tolist())
    assert not torch.equal(torch.cat(batches[:13]), torch.cat(batches[13:26]))
    for first in range(len(batches) + 2):
        rest = list(stream.batches(4, first=first))
        assert len(rest) == max(0, len(batches) - first)
        assert all(torch.equal(a, b) for a, b in zip(rest, batches[first:], strict=True))
    whole = torch.cat(batches)
    assert torch.equal(torch.cat(list(stream.batches(7))), whole[: len(whole) // 7 * 7])
    again = ShuffledStream(shards, buffer=16, seed=4, epochs=3)
    assert not torch.equal(torch.cat(list(again.batches(4))), whole)


def test_a_batch_reads_its_own_rows_only(tmp_path, monkeypatch):
    write(tmp_path, [[400], [400]], shard_rows=100)
    read = []
    from clearsight.harvest import stream as module

    stored = module._Rows.stored
    monkeypatch.setattr(module._Rows, "stored", lambda self, n: read.append(len(n)) or stored(self, n))
    batches = ShuffledStream(Shards.open(tmp_path), buffer=200, seed=0, epochs=2).batches(10)
    next(batches)
    assert read[0] == 200
    for _ in range(100):
        read.clear()
        next(batches)
        assert sum(read) <= 10


def test_filters_are_applied_at_reading(tmp_path):
    written, _ = write(tmp_path, [[60], [60]], shard_rows=25)
    shards = Shards.open(tmp_path)
    types_N = np.concatenate([block.type_N for block in written])
    norm_N = np.concatenate([block.norm_N for block in written])
    rows_ND = torch.cat([block.states_ND for block in written])

    def given_rows(**options):
        return torch.cat(list(ShuffledStream(shards, buffer=9, **options).batches(1)))

    def assert_kept(rows, keep_N):
        expected = rows_ND[torch.from_numpy(keep_N)]
        assert 0 < len(expected) < 120
        assert sorted(rows.tolist()) == sorted(expected.tolist())

    assert_kept(given_rows(token_types=("image", "text")), np.isin(types_N, [1, 2]))
    first = norm_N[:60]
    assert_kept(given_rows(norm_limit=1.2), norm_N <= 1.2 * np.median(first))
    special = types_N == 3
    limit = 1.1 * np.median(first[special[:60]])
    assert_kept(given_rows(token_types="special", norm_limit=1.1), special & (norm_N <= limit))
    np.testing.assert_array_equal(
        shards.select(token_types="special", norm_limit=1.1), np.flatnonzero(special & (norm_N <= limit))
    )
    of_images = np.concatenate([block.item_N for block in written]) % 3 == 1
    np.testing.assert_array_equal(shards.select(modality="image"), np.flatnonzero(of_images))


def test_too_few_rows_are_said(tmp_path):
    write(tmp_path, [[5]])
    shards = Shards.open(tmp_path)
    with pytest.raises(DataError, match="10 rows, fewer than a batch of 11"):
        next(ShuffledStream(shards, epochs=2).batches(11))
    assert len(list(ShuffledStream(shards, epochs=2).batches(10))) == 1
    with pytest.raises(DataError, match=r"All epochs together give 0 rows"):
        next(ShuffledStream(shards, norm_limit=1e-9).batches(1))


@pytest.mark.parametrize(
    "options",
    [{"buffer": 0}, {"epochs": 0}, {"norm_limit": 0.0}, {"token_types": ("words",)}, {"token_types": ()}],
)
def test_a_stream_refuses_what_means_nothing(tmp_path, options):
    write(tmp_path, [[5]])
    with pytest.raises(UsageError):
        ShuffledStream(Shards.open(tmp_path), **options)


# Shards on disk


@pytest.mark.parametrize("shard_rows", [1, 4, 7, 1000])
def test_shards_hold_what_was_written_in_files_of_bounded_size(tmp_path, shard_rows):
    written, opened = write(tmp_path, [[9, 4], [], [8], [3, 5, 6]], shard_rows=shard_rows)
    shards = Shards.open(tmp_path)
    assert len(shards) == 35
    assert shards.complete
    assert shards.lengths_F.max() <= shard_rows
    assert [shard.part for shard in shards if shard.last] == [0, 1, 2, 3]
    assert [len(s) for s in opened] == shards.lengths_F.tolist()
    assert [(s.path, s.part, s.last) for s in opened] == [(s.path, s.part, s.last) for s in shards]
    for name in COLUMNS:
        expected = np.concatenate([getattr(block, name) for block in written])
        np.testing.assert_array_equal(getattr(shards, name), expected)
        assert getattr(shards, name).dtype == expected.dtype
    rows_ND = torch.cat([block.states_ND for block in written])
    assert torch.equal(shards.rows(slice(None)), rows_ND)
    index = np.random.default_rng(0).integers(35, size=100)
    assert torch.equal(shards.rows(index), rows_ND[torch.from_numpy(index)])
    assert torch.equal(shards.rows(shards.type_N == 2), rows_ND[torch.from_numpy(shards.type_N == 2)])
    assert shards.rows(np.array([], np.int64)).shape == (0, WIDTH)
    items = shards.item_N
    for item in range(50):
        np.testing.assert_array_equal(shards.rows_of(item), np.flatnonzero(items == item))
    np.testing.assert_array_equal(shards.modality_N, items % 3)


def test_the_same_rows_give_the_same_bytes_however_they_come(tmp_path):
    rng = np.random.default_rng(0)
    block = tokens(rng, 40, 50)
    files = []
    for name, cuts in (("a", [0, 40]), ("b", [0, 1, 2, 17, 40]), ("c", [0, 39, 40])):
        writer = PartWriter(worker(tmp_path / name, shard_rows=9), 0, 0)
        for start, stop in pairwise(cuts):
            writer.add(block.take(slice(start, stop)))
        writer.add({"bad": "why", "also": "so"})
        writer.finish()
        files.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 5


def test_a_truncated_shard_is_named(tmp_path):
    write(tmp_path, [[20], [20]])
    path = shard_path(tmp_path, 2)
    whole = path.read_bytes()
    for cut in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"shard-000002.*Delete it and all shards after it"):
            Shards.open(tmp_path)
    path.write_bytes(whole + b"more")
    with pytest.raises(DataError, match="shard-000002"):
        Shards.open(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, [[20], [20]])
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(DataError, match=r"missing.*shard-000001"):
        Shards.open(tmp_path)


def test_an_unfinished_harvest_is_opened_only_when_asked(tmp_path):
    write(tmp_path, [[20], [20]])
    for number in (5, 4):
        shard_path(tmp_path, number).unlink()
    with pytest.raises(DataError, match="1 of 2 parts"):
        Shards.open(tmp_path)
    shards = Shards.open(tmp_path, partial=True)
    assert (len(shards), shards.complete) == (27, False)


def test_a_shard_of_another_harvest_is_refused(tmp_path):
    write(tmp_path / "a", [[20]])
    write(tmp_path / "b", [[20]], dtype="bfloat16")
    shard_path(tmp_path / "a", 1).write_bytes(shard_path(tmp_path / "b", 1).read_bytes())
    with pytest.raises(DataError, match="BF16"):
        Shards.open(tmp_path / "a")


def test_a_folder_without_a_harvest_is_refused(tmp_path):
    with pytest.raises(DataError, match="no harvest"):
        Shards.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Shards.open(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": "clearsight harvest 99"}))
    with pytest.raises(DataError, match="99"):
        Shards.open(tmp_path)


def test_a_folder_of_another_harvest_says_what_differs(tmp_path):
    claim(tmp_path, manifest(2))
    claim(tmp_path, manifest(2))
    other = manifest(3) | {"origin": {"model": "b"}}
    with pytest.raises(UsageError, match=r"origin.model is 'a' there and 'b' here; parts is 2 there and 3"):
        claim(tmp_path, other)
    write(tmp_path / "x", [[3]])
    (tmp_path / "x" / MANIFEST).unlink()
    with pytest.raises(DataError, match="without a manifest"):
        claim(tmp_path / "x", manifest(1))


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"shard_bytes": 0}, {"part_items": 0}])
def test_a_config_refuses_what_means_nothing(options):
    with pytest.raises(UsageError):
        HarvestConfig(**options)


# Overlap: a producer of any speed


class Producing:
    """A harvest that hands over finished shards at its own pace, and may fail."""

    def __init__(self, folder, shards, pace, fails_after=None):
        self.folder, self.shards, self.pace, self.fails_after = folder, shards, pace, fails_after
        self.states, self.dtype = SimpleNamespace(width=WIDTH), torch.float32
        self.handed = 0

    def run(self, progress):
        for number, shard in enumerate(self.shards):
            time.sleep(self.pace(number))
            if number == self.fails_after:
                raise ItemError("An image is gone.", where="seven")
            self.handed += 1
            yield [shard]
            yield []


def overlapping(folder, shards, pace, fails_after=None, **options):
    producing = Producing(folder, shards, pace, fails_after)
    options = {"buffer": 30, "seed": 1, "epochs": 2, "norm_limit": 2.0, **options}
    arriving = Arriving(producing, Silent())
    return producing, HarvestStream(arriving, ShuffledStream(arriving, **options))


def test_the_order_does_not_depend_on_who_is_faster(tmp_path):
    _, opened = write(tmp_path, [[30, 30], [40], [35]], shard_rows=13)
    shards = Shards.open(tmp_path)
    stream = ShuffledStream(shards, buffer=30, seed=1, epochs=2, norm_limit=2.0)
    expected = list(stream.batches(8))
    for pace, think in (
        (lambda n: 0.0, 0.004),
        (lambda n: 0.01, 0.0),
        (lambda n: 0.02 * (n % 3 == 0), 0.001),
    ):
        _, overlapped = overlapping(tmp_path, opened, pace)
        assert overlapped.width == WIDTH
        got = []
        for batch in overlapped.batches(8):
            got.append(batch)
            time.sleep(think)
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        for first in (1, 7, len(expected) - 1):
            assert torch.equal(next(iter(overlapped.batches(8, first=first))), expected[first])
    assert len(overlapped.shards()) == len(shards)


def test_what_stops_the_producer_reaches_the_consumer_after_the_rows_before(tmp_path):
    _, opened = write(tmp_path, [[200]], shard_rows=10)
    _, overlapped = overlapping(tmp_path, opened, lambda n: 0.0, fails_after=12, norm_limit=None)
    batches = overlapped.batches(5)
    got = []
    with pytest.raises(ItemError, match="seven"):
        got.extend(batches)
    assert len(got) == 18  # 120 rows came, 30 of them fill the buffer
    expected = list(ShuffledStream(Shards.open(tmp_path), buffer=30, seed=1).batches(5))
    assert all(torch.equal(a, b) for a, b in zip(got, expected[: len(got)], strict=True))


def test_a_reader_that_leaves_stops_the_producer(tmp_path):
    _, opened = write(tmp_path, [[400]], shard_rows=10)
    producing, overlapped = overlapping(tmp_path, opened, lambda n: 0.005, norm_limit=None)
    batches = overlapped.batches(5)
    next(batches)
    with pytest.raises(UsageError, match="read already"):
        next(overlapped.batches(5))
    batches.close()
    handed = producing.handed
    time.sleep(0.03)
    assert producing.handed == handed < 40


@pytest.mark.gpu
def test_a_slab_on_a_gpu_gives_the_same_batches(tmp_path):
    write(tmp_path, [[60], [60]], shard_rows=25, dtype="bfloat16")
    shards = Shards.open(tmp_path)
    expected = list(ShuffledStream(shards, buffer=30, epochs=2).batches(8))
    got = list(ShuffledStream(shards, buffer=30, epochs=2, device="cuda").batches(8))
    assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(expected, got, strict=True))
