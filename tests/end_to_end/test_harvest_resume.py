"""A harvest that is killed, or runs out of disk, goes on where it was and ends with the same bytes."""

from __future__ import annotations

import random
import signal
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import DataError, ItemError, UsageError
from clearsight.harvest import HarvestConfig, Shards, ShuffledStream, harvest, harvest_stream
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.progress import Silent
from clearsight.types import Item
from killed_worker import start

CONFIG = HarvestConfig(part_items=10, shard_bytes=32 * 2 * 150)

# `passed` is printed for every forward pass, `done` when progress is told.
WORKER = """
import sys, time
from clearsight.harvest import harvest, produce
from test_harvest_resume import CONFIG, encoder, items

class Told:
    def start(self, total, label): pass
    def advance(self, n=1): print("done", n, flush=True)
    def close(self): pass

class Slow(produce.TokenStates):
    def __call__(self, window):
        for tokens in super().__call__(window):
            print("passed", len(set(tokens.item_N.tolist())), flush=True)
            time.sleep(0.01)  # leaves room for a kill between any two steps
            yield tokens

produce.TokenStates = Slow
print("ready", flush=True)
harvest(encoder(sys.argv[1]), items(), sys.argv[2], config=CONFIG, progress=Told())
print("end", flush=True)
"""


def items():
    """Texts and images; the same in every process."""
    texts = [Item(f"text-{n}", text=f"a {'red ' * (n % 7)}square, number {n}") for n in range(70)]
    pixels = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), dtype=np.uint8)
    return [*texts, *(Item(f"image-{n}", image=Image.fromarray(one)) for n, one in enumerate(pixels))]


def encoder(folder):
    return Encoder(load_model(folder), workers=2, token_budget=150)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(folder_of, tmp_path_factory):
    """The folder of a harvest that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert len(harvest(encoder(folder_of("qwen2_vl")), items(), out, config=CONFIG).lengths_F) > 20
    return out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(folder_of, tmp_path, whole, kills):
    folder, out = folder_of("qwen2_vl"), tmp_path / "out"
    moments = random.Random()  # the law holds at every moment, so every run of the test tries others
    told = 0
    for _ in range(kills):
        done = run_and_kill(folder, out, moments)
        assert done[0] >= told, "what progress was told of had to be done again"
        told = sum(done)
        for name, data in contents(out).items():
            assert name.endswith(".tmp") or data == (whole / name).read_bytes()
        assert sum(shard.last for shard in Shards.open(out, partial=True)) >= told // 10
    harvest(encoder(folder), items(), out, config=CONFIG)
    assert contents(out) == contents(whole)


def run_and_kill(folder, out, moments):
    """What progress was told of: items that were there, then those of every part, until the kill."""
    with start(WORKER, folder, out) as worker:
        line = worker.stdout.readline()
        assert line.startswith("done")
        lines = [line, *(worker.stdout.readline() for _ in range(moments.randrange(1, 40)))]
        time.sleep(moments.uniform(0, 0.02))
        worker.send_signal(signal.SIGKILL)
        lines += worker.stdout.read().splitlines(keepends=True)
    return [int(line.split()[1]) for line in lines if line.startswith("done") and line.endswith("\n")]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_full_disk_is_said_and_the_harvest_goes_on_when_there_is_room(folder_of, tmp_path, whole):
    import resource

    folder, out = folder_of("qwen2_vl"), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillsUp(Silent):
        """Room for four parts, and then for no more than 4 kB."""

        parts = 0

        def advance(self, n=1):
            self.parts += n // 10
            if self.parts == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(DataError, match=r"File too large.*shard-0000.*call again"):
            harvest(encoder(folder), items(), out, config=CONFIG, progress=FillsUp())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = contents(out)
    assert 4 <= sum(shard.last for shard in Shards.open(out, partial=True)) < 9
    assert all(data == (whole / name).read_bytes() for name, data in left.items())
    harvest(encoder(folder), items(), out, config=CONFIG)
    assert contents(out) == contents(whole)


def test_nothing_is_done_twice_and_a_finished_harvest_needs_no_pass(folder_of, tmp_path, whole, monkeypatch):
    tool = encoder(folder_of("qwen2_vl"))
    out = tmp_path / "out"
    stream = harvest_stream(tool, items(), out, config=CONFIG, buffer=100)
    batches = stream.batches(64)
    for _ in range(6):
        next(batches)
    batches.close()
    known = contents(out)
    assert 0 < len(known) < len(contents(whole))
    harvest(tool, items(), out, config=CONFIG)
    assert contents(out) == contents(whole)

    def never(*_):
        raise AssertionError("a finished harvest is passed again")

    monkeypatch.setattr(tool.loaded.base, "forward", never)
    assert len(harvest(tool, items(), out, config=CONFIG)) == len(Shards.open(whole))
    rest = list(harvest_stream(tool, items(), out, config=CONFIG, buffer=100).batches(64, first=5))
    expected = list(ShuffledStream(Shards.open(whole), buffer=100).batches(64))[5:]
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))


def test_training_that_was_killed_while_harvesting_reads_on_exactly(folder_of, tmp_path, whole):
    """Both halves of a run resume: the harvest at its part, the stream at its batch."""
    tool, out = encoder(folder_of("qwen2_vl")), tmp_path / "out"
    expected = list(ShuffledStream(Shards.open(whole), buffer=200, seed=7, epochs=2).batches(32))

    def stream():
        return harvest_stream(tool, items(), out, config=CONFIG, buffer=200, seed=7, epochs=2)

    got = []
    for stop in (3, 20, len(expected)):
        batches = stream().batches(32, first=len(got))
        while len(got) < stop:
            got.append(next(batches))
        batches.close()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_folder_of_another_model_config_role_or_items_is_refused(folder_of, tmp_path, whole):
    tool = encoder(folder_of("qwen2_vl"))
    before = contents(whole)
    other = encoder(folder_of("qwen2_5_vl"))
    for named, call in (
        (r"origin\.family is 'qwen2-vl' there and 'qwen2.5-vl' here", (other, items(), CONFIG, "candidate")),
        (r"config\.dtype is 'bfloat16'", (tool, items(), HarvestConfig(dtype="float32"), "candidate")),
        (r"items\.count is 85 there and 84 here", (tool, items()[1:], CONFIG, "candidate")),
        (r"items\.digest", (tool, items()[::-1], CONFIG, "candidate")),
        (r"role is 'candidate' there and 'query' here", (tool, items(), CONFIG, "query")),
    ):
        model, some, config, role = call
        with pytest.raises(UsageError, match=named):
            harvest(model, some, whole, config=config, role=role)
    assert contents(whole) == before


def test_a_bad_item_stops_the_harvest_or_is_skipped_and_named(folder_of, tmp_path):
    tool = encoder(folder_of("qwen2_vl"))
    thin = Item("thin", image=Image.new("RGB", (1, 300)))  # the processor refuses such a shape
    missing = Item("missing", image=tmp_path / "no.png")
    with pytest.raises(ItemError, match="missing"):
        harvest(tool, [*items(), missing], tmp_path / "a", config=CONFIG)
    with pytest.raises(ItemError, match="thin"):
        harvest(tool, [*items(), thin], tmp_path / "b", config=CONFIG)
    stream = harvest_stream(tool, [*items(), thin], tmp_path / "b", config=CONFIG)
    with pytest.raises(ItemError, match="thin"):
        list(stream.batches(8))
    tool.on_error = "skip"
    shards = harvest(tool, [thin, *items(), missing], tmp_path / "c", config=CONFIG)
    assert set(shards.skipped) == {"thin", "missing"}
    assert sorted(set(shards.item_N.tolist())) == list(range(1, 86))
    with pytest.raises(UsageError, match="no items"):
        harvest(tool, [], tmp_path / "d")


def test_states_that_are_not_finite_never_reach_the_disk(folder_of, tmp_path, monkeypatch):
    from clearsight.harvest import produce

    class Broken(produce.TokenStates):
        def __call__(self, window):
            for tokens in super().__call__(window):
                tokens.norm_N[(tokens.item_N == 3) & (tokens.position_N == 2)] = np.nan
                yield tokens

    monkeypatch.setattr(produce, "TokenStates", Broken)
    tool = encoder(folder_of("qwen2_vl"))
    with pytest.raises(ItemError, match=r"NaN.*text-3"):
        harvest(tool, items(), tmp_path / "a", config=CONFIG)
    tool.on_error = "skip"
    shards = harvest(tool, items(), tmp_path / "b", config=CONFIG)
    assert set(shards.skipped) == {"text-3"}
    assert np.isfinite(shards.norm_N).all()
    assert 3 not in shards.item_N


def test_the_shipped_model_harvests_its_world(tmp_path):
    from clearsight.data.world import image_to_text

    task = image_to_text(24)
    pairs = [*task.queries, *task.candidates]
    tool = Encoder.load("tiny", device="cpu", dtype=torch.float32)
    shards = harvest(tool, pairs, tmp_path, config=HarvestConfig(dtype="float32", part_items=20))
    assert shards.width == 192
    rows_ND = tool.embed(pairs).rows_ND
    for index in range(len(pairs)):
        mean_D = shards.rows(shards.rows_of(index)).double().mean(0).numpy()
        np.testing.assert_allclose(mean_D, rows_ND[index], atol=1e-5 * np.abs(rows_ND).max())
    batches = list(ShuffledStream(shards, token_types="image").batches(64))
    assert len(batches) == 24 * 16 // 64


def test_an_autoencoder_trained_while_harvesting_equals_one_trained_afterwards(folder_of, tmp_path, whole):
    from clearsight.sae import SaeConfig, TrainConfig, train_sae

    config = TrainConfig(SaeConfig(width=32, concepts=64, k=4), batch=64, seed=3)
    tool = encoder(folder_of("qwen2_vl"))
    stream = harvest_stream(tool, items(), tmp_path / "out", config=CONFIG, buffer=300, epochs=2)
    during = train_sae(stream, config, engine="reference")
    after = train_sae(ShuffledStream(Shards.open(whole), buffer=300, epochs=2), config, engine="reference")
    assert torch.equal(during.encoder_CD, after.encoder_CD)
    assert torch.equal(during.decoder_CD, after.decoder_CD)
    assert contents(tmp_path / "out") == contents(whole)
