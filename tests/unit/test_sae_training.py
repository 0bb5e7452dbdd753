"""What training does to a state, step by step, for every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.sae import (
    AdamConfig,
    LossConfig,
    SaeConfig,
    TrainConfig,
    TrainState,
    make_step,
    presets,
    train_sae,
)
from clearsight.sae.forward import forward

WIDTH, CONCEPTS, K, BATCH = 16, 48, 3, 64
FORMS = {
    "relu": SaeConfig(WIDTH, CONCEPTS, "relu"),
    "topk": SaeConfig(WIDTH, CONCEPTS, k=K),
    "batchtopk": SaeConfig(WIDTH, CONCEPTS, "batchtopk", k=K),
    "jumprelu": SaeConfig(WIDTH, CONCEPTS, "jumprelu", k=K),
    "simplex": SaeConfig(WIDTH, CONCEPTS, "sparsemax"),
    "mask": SaeConfig(WIDTH, CONCEPTS, "sparsemax", sparsemax_mode="mask", dense_limit=0.3),
    "relu attention": SaeConfig(WIDTH, CONCEPTS, "relu", "attention"),
    "topk attention": SaeConfig(WIDTH, CONCEPTS, "topk", "attention", k=K),
    "simplex attention": SaeConfig(WIDTH, CONCEPTS, "sparsemax", "attention"),
    "mask attention": SaeConfig(WIDTH, CONCEPTS, "sparsemax", "attention", sparsemax_mode="mask"),
}
Rows = NDArray[np.float32]


def planted(count: int = 3000, directions: int = 24, seed: int = 0) -> tuple[Rows, Rows]:
    """Rows of a few random directions each, off the origin, and these directions."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((directions, WIDTH))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = rng.gamma(3, 1, (count, directions)) * (rng.random((count, directions)) < 2.5 / directions)
    rows = codes @ dictionary + 3 * rng.standard_normal(WIDTH) + 0.1 * rng.standard_normal((count, WIDTH))
    return (rows * 5).astype(np.float32), dictionary.astype(np.float32)


def unexplained(rows: Rows, again: Rows) -> float:
    return float(((rows - again) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum())


def run(config: TrainConfig, rows: Rows, steps: int) -> tuple[TrainState, list[float]]:
    """The first rows again and again, in order."""
    batches = torch.from_numpy(rows).split(config.batch)
    state, step = TrainState.start(config, batches[0]), make_step(config, "reference")
    losses = [step(state, batches[i % len(batches)] / state.scale).loss.item() for i in range(steps)]
    return state, losses


@pytest.mark.parametrize("name", FORMS)
class TestEveryForm:
    def test_training_explains_the_rows(self, name: str) -> None:
        rows, _ = planted(1280)
        config = TrainConfig(FORMS[name], AdamConfig(lr=1e-2), batch=BATCH, epochs=5)
        before = TrainState.start(config, torch.from_numpy(rows[:BATCH])).autoencoder(config)
        after = train_sae(rows, config, engine="reference")
        left = unexplained(rows, after.reconstruct(rows))
        assert left < 0.6 * unexplained(rows, before.reconstruct(rows))
        assert left < 0.5
        history = after.history
        assert history is not None
        assert history.loss_S.shape == (100,)
        assert history.error_S[-20:].mean() < history.error_S[:20].mean()

    def test_the_result_is_the_state_without_its_scale(self, name: str) -> None:
        rows, _ = planted(640)
        config = TrainConfig(FORMS[name], batch=BATCH)
        state, _ = run(config, rows, 30)
        assert state.scale > 2
        sae, scaled = state.autoencoder(config), torch.from_numpy(rows) / state.scale
        observed = dict(state.weights)
        if config.sae.kind.observe is not None:
            observed["threshold_C"] = config.sae.kind.threshold(state.estimate_C, config.sae)
        inside = forward(observed, config.sae, scaled, training=False)
        again = inside.reconstruction_BD * state.scale
        assert np.allclose(sae.reconstruct(rows), again, atol=1e-3)

    def test_scale_of_the_rows_does_not_matter(self, name: str) -> None:
        rows, _ = planted(640)
        config = TrainConfig(FORMS[name], batch=BATCH)
        one = run(config, rows, 20)[0].autoencoder(config).reconstruct(rows)
        big = run(config, rows * 1024, 20)[0].autoencoder(config).reconstruct(rows * 1024)
        assert np.allclose(one * 1024, big, rtol=1e-4, atol=1)

    def test_the_seed_decides(self, name: str) -> None:
        rows, _ = planted(640)
        config = TrainConfig(FORMS[name], batch=BATCH)
        one, same = (run(config, rows, 10)[0] for _ in range(2))
        other, _ = run(replace(config, seed=1), rows, 10)
        for key, value in one.weights.items():
            assert torch.equal(value, same.weights[key])
        key = "decoder_CD" if config.sae.score == "linear" else "concepts_CD"
        assert not torch.allclose(one.weights[key], other.weights[key], atol=0.1)

    def test_constant_dimensions_and_constant_rows(self, name: str) -> None:
        rows, _ = planted(640)
        rows[:, 3], rows[:, 4] = 7.0, 0.0
        config = TrainConfig(FORMS[name], AdamConfig(lr=3e-3), batch=BATCH)
        state, losses = run(config, rows, 40)
        assert np.isfinite(losses).all()
        wrong_D = np.abs(state.autoencoder(config).reconstruct(rows) - rows).mean(axis=0)
        assert wrong_D[3:5].max() < np.median(wrong_D)
        alike = np.repeat(rows[:1], 2 * BATCH, axis=0)
        state, losses = run(config, alike, 5)
        assert np.isfinite(losses).all()
        assert np.isfinite(state.autoencoder(config).reconstruct(alike)).all()

    def test_state_travels_as_tensors(self, name: str) -> None:
        rows, _ = planted(640)
        config = TrainConfig(FORMS[name], batch=BATCH)
        state, _ = run(config, rows, 5)
        copy = TrainState.from_tensors({k: v.clone() for k, v in state.to_tensors().items()}, config)
        step, batch = make_step(config, "reference"), torch.from_numpy(rows[:BATCH]) / state.scale
        step(state, batch)
        step(copy, batch)
        assert copy.step == 6
        for key, value in state.to_tensors().items():
            assert value.is_contiguous()
            assert torch.equal(value, copy.to_tensors()[key]), key


def test_topk_finds_the_planted_directions() -> None:
    rows, dictionary = planted(3000)
    config = TrainConfig(replace(FORMS["topk"], concepts=32), AdamConfig(lr=1e-2), batch=BATCH, epochs=6)
    found = train_sae(rows, config, engine="reference").dictionary_CD
    best = (dictionary @ found.T).max(axis=1)
    assert np.median(best) > 0.97
    assert (best > 0.9).mean() > 0.8


class TestStart:
    def test_decoder_bias_is_the_mean_where_rows_are_centred(self) -> None:
        rows = torch.from_numpy(planted(BATCH)[0])
        config = TrainConfig(FORMS["topk"], batch=BATCH)
        state = TrainState.start(config, rows)
        assert torch.allclose(state.weights["decoder_bias_D"] * state.scale, rows.mean(0), atol=1e-4)
        scaled = rows / state.scale - state.weights["decoder_bias_D"]
        assert scaled.square().mean().item() == pytest.approx(1, rel=1e-5)
        plain = TrainState.start(TrainConfig(replace(FORMS["topk"], centred=False), batch=BATCH), rows)
        assert not plain.weights["decoder_bias_D"].any()
        assert TrainState.start(replace(config, scaled=False), rows).scale == 1

    def test_jumprelu_starts_at_its_aim(self) -> None:
        rows = torch.from_numpy(planted(BATCH)[0])
        config = TrainConfig(FORMS["jumprelu"], batch=BATCH)
        state = TrainState.start(config, rows)
        stats = make_step(config, "reference")(state, rows / state.scale)
        assert stats.active.item() == pytest.approx(K, rel=0.05)


@pytest.mark.parametrize("norm", ["tangent", "project"])
def test_decoder_rows_stay_at_length_one(norm: str) -> None:
    config = TrainConfig(FORMS["topk"], batch=BATCH, decoder_norm=norm)  # type: ignore[arg-type]
    state, _ = run(config, planted(640)[0], 20)
    assert torch.allclose(state.weights["decoder_CD"].norm(dim=1), torch.ones(CONCEPTS), atol=1e-6)


class TestDead:
    def dying(self, aux_k: int) -> tuple[TrainConfig, TrainState, Tensor, Tensor]:
        """Three quarters of the concepts score too low to be among the k, and are dead by their count."""
        rows = torch.from_numpy(planted(BATCH)[0])
        config = TrainConfig(
            FORMS["topk"], loss=LossConfig(aux_k=aux_k, aux_weight=0.1, dead_window=1000), batch=BATCH
        )
        state = TrainState.start(config, rows)
        dead = torch.arange(CONCEPTS) % 4 > 0
        state.weights["encoder_CD"][dead] *= 1e-3
        state.vectors_since_fired_C[dead] = 1000
        return config, state, rows / state.scale, dead

    def test_the_auxiliary_loss_reaches_encoder_and_decoder_of_the_dead(self) -> None:
        for aux_k, moved in ((0, False), (8, True)):
            config, state, rows, dead = self.dying(aux_k)
            before = {name: value.clone() for name, value in state.weights.items()}
            stats = make_step(config, "reference")(state, rows)
            assert stats.dead.item() == dead.sum()
            still = state.vectors_since_fired_C == 1000 + BATCH  # a row with few positive scores wakes some
            assert still.sum() > 0.8 * dead.sum()
            for name in ("encoder_CD", "encoder_bias_C", "decoder_CD"):
                change = (state.weights[name] - before[name]).abs()[still]
                first = state.first[name][still].abs()
                assert bool(first.max() > 0) == moved, name
                assert bool(change.max() > 1e-5) == moved, name

    def test_the_dead_come_back(self) -> None:
        left = {}
        for aux_k in (0, 8):
            config, state, rows, _ = self.dying(aux_k)
            step = make_step(replace(config, adam=AdamConfig(lr=3e-3)), "reference")
            for _ in range(100):
                stats = step(state, rows)
            left[aux_k] = stats.dead.item()
        assert left[8] < 0.7 * left[0]

    @settings(max_examples=10, deadline=None)
    @given(batch=st.sampled_from([8, 16, 32, 64]))
    def test_the_window_counts_vectors(self, batch: int) -> None:
        rows = torch.from_numpy(planted(256)[0])
        config = TrainConfig(FORMS["topk"], loss=LossConfig(dead_window=192), batch=batch)
        state = TrainState.start(config, rows)
        state.weights["encoder_bias_C"][5] = -1e6
        step = make_step(config, "reference")
        seen = [step(state, part).dead.item() for part in (rows / state.scale).split(batch)]
        assert state.vectors_since_fired_C[5] == 256
        first = next(number for number, dead in enumerate(seen) if dead)
        assert first * batch == 192


def test_batchtopk_keeps_k_on_average_and_learns_its_threshold() -> None:
    rows, _ = planted()
    config = TrainConfig(replace(FORMS["batchtopk"], k=2), AdamConfig(lr=1e-2), batch=BATCH, epochs=4)
    sae = train_sae(rows, config, engine="reference")
    assert sae.history is not None
    assert np.allclose(sae.history.active_S, 2)
    codes = sae.encode(rows)
    per_row = np.diff(codes.indptr)
    assert per_row.mean() == pytest.approx(2, rel=0.1)
    assert per_row.max() > 2, "rows share: some have more than k"
    threshold = sae.threshold_C.detach().numpy()
    assert threshold[0] > 0
    assert (threshold == threshold[0]).all()
    assert codes.data.min() > threshold[0]


def test_jumprelu_reaches_the_aimed_number() -> None:
    rows, _ = planted()
    config = TrainConfig(FORMS["jumprelu"], AdamConfig(lr=1e-2), batch=BATCH, epochs=4)
    sae = train_sae(rows, config, engine="reference")
    assert sae.encode(rows).nnz / len(rows) == pytest.approx(K, rel=0.3)
    assert len(set(sae.threshold_C.tolist())) > CONCEPTS / 2, "each concept has a threshold of its own"


def test_mask_shuts_concepts_that_fire_too_often() -> None:
    rows, _ = planted(640)
    config = TrainConfig(replace(FORMS["mask attention"], centred=False, dense_limit=0.2), batch=BATCH)
    state, _ = run(config, rows, 60)
    shut = state.estimate_C > 0.2
    assert 0 < shut.sum() < CONCEPTS
    sae = state.autoencoder(config)
    assert torch.equal(sae.threshold_C.isinf(), shut)
    assert not sae.encode(rows)[:, shut.numpy()].nnz


def test_the_rate_rises_and_falls() -> None:
    config = TrainConfig(FORMS["topk"], AdamConfig(lr=1.0, warmup=4, decay=0.5), steps=10)
    assert [round(config.rate(step), 6) for step in range(11)] == [
        *(0.25, 0.5, 0.75, 1.0, 1.0, 1.0),
        *(0.8, 0.6, 0.4, 0.2, 0.0),
    ]
    assert TrainConfig(FORMS["topk"]).rate(10**9) == 8e-4


def test_the_penalty_of_free_decoders_counts_their_lengths() -> None:
    """Twice the decoder and half the encoder: the same function, so the same loss."""
    rows = torch.from_numpy(planted(BATCH)[0])
    config = TrainConfig(FORMS["relu"], batch=BATCH, decoder_norm="free")
    losses = []
    for factor in (1.0, 2.0):
        state = TrainState.start(config, rows)
        state.weights["encoder_CD"] /= factor
        state.weights["decoder_CD"] *= factor
        losses.append(make_step(config, "reference")(state, rows / state.scale).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class TestConfig:
    def test_what_makes_no_training(self) -> None:
        topk = FORMS["topk"]
        with pytest.raises(UsageError, match="at least 1"):
            TrainConfig(topk, batch=0)
        with pytest.raises(UsageError, match="number of steps"):
            TrainConfig(topk, AdamConfig(decay=0.2))
        with pytest.raises(UsageError, match="products"):
            TrainConfig(FORMS["topk attention"], decoder_norm="project")
        with pytest.raises(UsageError, match="decoder_norm"):
            TrainConfig(topk, decoder_norm="unit")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="aux_k is 49"):
            TrainConfig(topk, loss=LossConfig(aux_k=49))
        with pytest.raises(UsageError, match="sparsemax"):
            TrainConfig(FORMS["mask"], loss=LossConfig(aux_k=4))
        with pytest.raises(UsageError, match="Adam"):
            AdamConfig(lr=0)
        with pytest.raises(UsageError, match="clip"):
            AdamConfig(clip=0)
        with pytest.raises(UsageError, match="negative"):
            LossConfig(sparsity=-1)
        with pytest.raises(UsageError, match="'mse' or 'relative'"):
            LossConfig(error="mae")  # type: ignore[arg-type]

    def test_plain_and_back(self) -> None:
        config = TrainConfig(FORMS["mask"], AdamConfig(clip=None), LossConfig(aux_k=0), steps=5)
        assert TrainConfig.from_plain(config.to_plain()) == config
        with pytest.raises(UsageError, match="no field 'topk'"):
            TrainConfig.from_plain({**config.to_plain(), "sae": {"width": 3, "concepts": 4, "topk": 2}})

    def test_nothing_is_left_open(self) -> None:
        for form in FORMS.values():
            loss = TrainConfig(form).resolved_loss
            assert None not in (loss.error, loss.sparsity, loss.aux_k)
        assert TrainConfig(FORMS["topk"]).resolved_loss.aux_k == WIDTH // 2
        assert TrainConfig(FORMS["mask"]).resolved_loss.error == "relative"

    @given(
        width=st.integers(1, 5000), concepts=st.integers(1, 40000), vectors=st.none() | st.integers(0, 10**9)
    )
    def test_presets_fit_any_size(self, width: int, concepts: int, vectors: int | None) -> None:
        config = presets.get("default")(width, concepts, vectors=vectors)
        assert 64 <= config.batch <= 4096
        assert config.loss.dead_window >= config.batch
        if vectors is not None and vectors >= 6400:
            assert 100 * config.batch <= vectors

    def test_unknown_engines_and_presets(self) -> None:
        with pytest.raises(UsageError, match="reference"):
            make_step(TrainConfig(FORMS["topk"]), "numpy")
        with pytest.raises(UsageError, match="default, release"):
            presets.get("paper")
