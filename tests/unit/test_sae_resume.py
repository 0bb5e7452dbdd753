"""Streams, checkpoints, resume, several autoencoders from one stream, bad input."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.sae import (
    AdamConfig,
    ArrayStream,
    Every,
    SaeConfig,
    SparseAutoencoder,
    TrainConfig,
    check_enough,
    load_checkpoint,
    train_many,
    train_sae,
)
from clearsight.sae import checkpoint as checkpoint_module
from clearsight.sae.checkpoint import FILE

WIDTH, CONCEPTS, BATCH = 10, 24, 16
TOPK = TrainConfig(SaeConfig(WIDTH, CONCEPTS, k=3), AdamConfig(warmup=5), batch=BATCH)
FORMS = {
    "topk": TOPK,
    "relu": replace(TOPK, sae=SaeConfig(WIDTH, CONCEPTS, "relu", "attention")),
    "batchtopk": replace(TOPK, sae=SaeConfig(WIDTH, CONCEPTS, "batchtopk", k=3)),
    "jumprelu": replace(TOPK, sae=SaeConfig(WIDTH, CONCEPTS, "jumprelu", k=3)),
    "simplex": replace(TOPK, sae=SaeConfig(WIDTH, CONCEPTS, "sparsemax", "attention")),
    "mask": replace(TOPK, sae=SaeConfig(WIDTH, CONCEPTS, "sparsemax", sparsemax_mode="mask")),
}


def draw(count: int = 400, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


class KilledError(Exception):
    pass


class Watched:
    """An array's stream that counts what is read and stops, or spoils a batch, where told."""

    def __init__(self, rows: NDArray[np.float32], epochs: int = 1, stop: int = -1, spoil: int = -1) -> None:
        self.inner = ArrayStream(rows, epochs=epochs)
        self.width, self.stop, self.spoil = self.inner.width, stop, spoil
        self.read: list[int] = []

    def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
        for number, batch in enumerate(self.inner.batches(size, first=first), start=first):
            if number == self.stop:
                raise KilledError
            if number == self.spoil:
                batch[4, 2] = torch.inf
            self.read.append(number)
            yield batch


class Counted:
    def __init__(self) -> None:
        self.total: int | None = -1
        self.done: list[int] = []
        self.closed = False

    def start(self, total: int | None, label: str) -> None:
        self.total = total

    def advance(self, n: int = 1) -> None:
        self.done.append(n)

    def close(self) -> None:
        self.closed = True


def same(one: SparseAutoencoder, two: SparseAutoencoder) -> bool:
    return all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())


class TestArrayStream:
    @settings(max_examples=60, deadline=None)
    @given(
        count=st.integers(1, 30), epochs=st.integers(1, 4), size=st.integers(1, 40), first=st.integers(0, 9)
    )
    def test_batch_number_b_is_the_same_from_any_start(
        self, count: int, epochs: int, size: int, first: int
    ) -> None:
        rows = np.arange(count, dtype=np.float32)[:, None]
        stream = ArrayStream(rows, epochs=epochs, seed=3)
        whole = [batch[:, 0].int().tolist() for batch in stream.batches(size)]
        assert len(whole) == stream.steps(size) == count * epochs // size
        late = [batch[:, 0].int().tolist() for batch in stream.batches(size, first=first)]
        assert late == whole[first:]
        flat = [row for batch in whole for row in batch]
        for start in range(0, len(flat) - count + 1, count):  # each epoch is each row once
            assert sorted(flat[start : start + count]) == list(range(count))

    def test_the_seed_and_the_epoch_decide_the_order(self) -> None:
        rows = draw(64)
        one, again, other = (
            torch.cat(list(ArrayStream(rows, epochs=2, seed=seed).batches(32))) for seed in (0, 0, 1)
        )
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert not torch.equal(one[:64], one[64:])

    def test_dtypes(self) -> None:
        rows = draw(64)
        for given_rows in (rows.astype(np.float64), rows.astype(np.float16), torch.tensor(rows).bfloat16()):
            (batch,) = ArrayStream(given_rows).batches(64)
            assert batch.dtype == torch.float32
            order = np.random.default_rng([0, 0]).permutation(64)
            assert np.allclose(batch.numpy(), rows[order], rtol=1e-2, atol=1e-2)

    def test_bad_arguments(self) -> None:
        with pytest.raises(DataError, match="table of floats"):
            ArrayStream(np.zeros((3, 4), dtype=np.int64))
        with pytest.raises(DataError, match="table of floats"):
            ArrayStream(np.zeros(3))
        with pytest.raises(UsageError, match="epochs"):
            ArrayStream(draw(), epochs=0)
        with pytest.raises(UsageError, match="Batch size 0"):
            next(ArrayStream(draw()).batches(0))

    def test_bfloat16_and_float32_streams_train_the_same_where_values_are_the_same(self) -> None:
        half = torch.from_numpy(draw()).bfloat16()
        assert same(train_sae(half, TOPK), train_sae(half.float().numpy(), TOPK))


class TestResume:
    @pytest.mark.parametrize("name", FORMS)
    def test_is_bit_equal(self, name: str, tmp_path: Path) -> None:
        config, rows = FORMS[name], draw()
        whole = train_sae(ArrayStream(rows, epochs=2), config)
        for stop in (20, 40):
            with pytest.raises(KilledError):
                train_sae(Watched(rows, 2, stop=stop), config, folder=tmp_path, every=Every(None, 7))
        assert load_checkpoint(tmp_path).state.step == 35
        stream = Watched(rows, 2)
        resumed = train_sae(stream, config, folder=tmp_path)
        assert stream.read == list(range(34, 50))  # one before: it proves that the stream is the same
        assert same(whole, resumed)
        assert whole.history is not None
        assert resumed.history is not None
        assert np.array_equal(whole.history.loss_S, resumed.history.loss_S)

    def test_a_finished_training_is_only_read(self, tmp_path: Path) -> None:
        config = replace(TOPK, steps=10)
        first = train_sae(ArrayStream(draw()), config, folder=tmp_path)
        stream = Watched(draw(seed=1))
        assert same(first, train_sae(stream, config, folder=tmp_path))
        assert stream.read == []

    def test_resume_false_begins_anew(self, tmp_path: Path) -> None:
        train_sae(draw(), TOPK, folder=tmp_path)
        other = replace(TOPK, seed=1)
        assert same(train_sae(draw(), other, folder=tmp_path, resume=False), train_sae(draw(), other))

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        train_sae(draw(), TOPK, folder=tmp_path)
        with pytest.raises(UsageError, match=r"adam\.lr = 0\.0008, not 0\.01"):
            train_sae(draw(), replace(TOPK, adam=AdamConfig(lr=0.01, warmup=5)), folder=tmp_path)

    def test_another_stream_is_refused(self, tmp_path: Path) -> None:
        train_sae(ArrayStream(draw()), TOPK, folder=tmp_path)
        with pytest.raises(DataError, match="Batch 24 of the stream is not the one"):
            train_sae(ArrayStream(draw(seed=1), epochs=2), TOPK, folder=tmp_path)
        with pytest.raises(DataError, match="ends before batch 24"):
            train_sae(ArrayStream(draw(200)), TOPK, folder=tmp_path)

    def test_a_longer_stream_goes_on(self, tmp_path: Path) -> None:
        train_sae(ArrayStream(draw()), TOPK, folder=tmp_path)
        longer = train_sae(ArrayStream(draw(), epochs=2), TOPK, folder=tmp_path)
        assert same(longer, train_sae(ArrayStream(draw(), epochs=2), TOPK))


class TestCheckpointFile:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        train_sae(draw(), TOPK, folder=tmp_path)
        return tmp_path

    @pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
    def test_truncated(self, folder: Path, kept: float) -> None:
        file = folder / FILE
        data = file.read_bytes()
        file.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
        with pytest.raises(DataError, match=f"truncated.*{FILE}.*Delete it"):
            train_sae(draw(), TOPK, folder=folder)

    def test_foreign(self, folder: Path) -> None:
        save_file({"weight": torch.zeros(3)}, folder / FILE)
        with pytest.raises(DataError, match="no checkpoint of a known format"):
            load_checkpoint(folder)
        (folder / FILE).write_bytes(b"PK\x03\x04" + bytes(500))
        with pytest.raises(DataError, match="truncated, or no checkpoint"):
            load_checkpoint(folder)
        with pytest.raises(DataError, match="no checkpoint here"):
            load_checkpoint(folder / "elsewhere")

    def test_not_whole(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = load_checkpoint(folder)
        del found.state.first["encoder_CD"]
        checkpoint_module.save_checkpoint(folder, found)
        with pytest.raises(DataError, match=r"not whole.*first\.encoder_CD"):
            load_checkpoint(folder)

    def test_a_full_disk_leaves_the_one_before(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = (folder / FILE).read_bytes()

        def full(path: Any, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint_module, "write_atomic", full)
        with pytest.raises(DataError, match="No space left"):
            train_sae(ArrayStream(draw(), epochs=2), TOPK, folder=folder)
        assert (folder / FILE).read_bytes() == before


class TestMany:
    def test_each_batch_is_read_once_and_each_is_as_if_alone(self) -> None:
        stream = Watched(draw())
        together = train_many(stream, list(FORMS.values()))
        assert stream.read == list(range(25))
        for config, sae in zip(FORMS.values(), together, strict=True):
            assert same(sae, train_sae(ArrayStream(draw()), config))

    def test_resume_from_different_places(self, tmp_path: Path) -> None:
        configs = [TOPK, replace(TOPK, seed=1), replace(TOPK, seed=2, steps=12)]
        folders = [tmp_path / str(i) for i in range(3)]
        train_sae(ArrayStream(draw()), replace(configs[2]), folder=folders[2])
        with pytest.raises(KilledError):
            train_sae(Watched(draw(), stop=18), configs[0], folder=folders[0], every=Every(None, 5))
        stream = Watched(draw())
        done = train_many(stream, configs, folders=folders)
        assert stream.read == list(range(25))
        for config, sae in zip(configs, done, strict=True):
            assert same(sae, train_sae(ArrayStream(draw()), config))

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="one batch size"):
            train_many(draw(), [TOPK, replace(TOPK, batch=8)])
        with pytest.raises(UsageError, match="one batch size"):
            train_many(draw(), [])
        with pytest.raises(UsageError, match="folder of its own"):
            train_many(draw(), [TOPK, TOPK], folders=[tmp_path, tmp_path])
        with pytest.raises(UsageError, match="epochs or seed"):
            train_many(draw(), [TOPK, replace(TOPK, seed=1)])


class TestProgress:
    def test_without_a_folder_every_step_counts(self) -> None:
        told = Counted()
        train_sae(ArrayStream(draw()), TOPK, progress=told)
        assert told.total is None
        assert sum(told.done) == 25
        assert told.closed

    def test_with_a_folder_only_what_is_written_counts(self, tmp_path: Path) -> None:
        told, config = Counted(), replace(TOPK, steps=25)
        with pytest.raises(KilledError):
            train_sae(Watched(draw(), stop=18), config, folder=tmp_path, progress=told, every=Every(None, 5))
        assert told.total == 25
        assert sum(told.done) == 15
        assert told.closed
        again = Counted()
        train_sae(ArrayStream(draw()), config, folder=tmp_path, progress=again)
        assert again.done[0] == 15
        assert sum(again.done) == 25


class TestBadInput:
    def test_a_bad_vector_names_its_batch(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"1 of 16 vectors.*batch 7, first in row 4"):
            train_sae(Watched(draw(), spoil=7), TOPK, folder=tmp_path, every=Every(None, 5))
        assert load_checkpoint(tmp_path).state.step == 5, "what was learnt before is kept"
        rows = draw()
        rows[100, 3] = np.nan
        with pytest.raises(DataError, match="batch"):
            train_sae(rows, TOPK)

    def test_large_but_finite_rows_pass(self) -> None:
        """Their sum overflows, they do not."""
        rows = np.full((64, WIDTH), 3e38, dtype=np.float32)
        rows[::2] *= 0.5
        history = train_sae(rows, TOPK).history
        assert history is not None
        assert np.isfinite(history.loss_S).all()

    def test_another_width(self) -> None:
        with pytest.raises(DataError, match="9 entries, the autoencoder 10"):
            train_sae(draw()[:, :9], TOPK)

    def test_a_stream_that_breaks_its_promise(self) -> None:
        class Short(Watched):
            def batches(self, size: int, *, first: int = 0) -> Iterator[Tensor]:
                yield torch.zeros(size - 1, WIDTH)

        with pytest.raises(DataError, match=r"\(15, 10\).*batch 0"):
            train_sae(Short(draw()), TOPK)

    def test_too_few_vectors(self) -> None:
        with pytest.raises(DataError, match="23 vectors are too few for 24 concepts"):
            train_sae(draw(23), TOPK)
        with pytest.raises(DataError, match="too few"):
            train_sae(Watched(draw(23)), TOPK)  # a stream that cannot tell beforehand
        with pytest.raises(DataError, match="no batch of 16"):
            train_sae(draw(15), replace(TOPK, sae=SaeConfig(WIDTH, 8, k=3)))
        with pytest.raises(DataError, match="at most 5 concepts"):
            check_enough(5, TOPK)
        check_enough(24, TOPK)

    def test_divergence_is_said_and_never_saved(self, tmp_path: Path) -> None:
        wild = replace(TOPK, adam=AdamConfig(lr=1e30, clip=None))
        with pytest.raises(UsageError, match="not finite any more at step"):
            train_sae(draw(), wild, folder=tmp_path)
        assert not list(tmp_path.iterdir())
