"""Laws of every form: activation times score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.sae import (
    Activation,
    SaeConfig,
    SparseAutoencoder,
    TrainConfig,
    TrainState,
    activations,
    autoencoder,
    make_step,
)
from clearsight.sae.activations import active_count
from clearsight.sae.forward import forward, score_rows, shapes, trained_names

WIDTH, CONCEPTS, K = 12, 30, 4
KINDS = [("relu", "simplex"), ("topk", "simplex"), ("batchtopk", "simplex"), ("jumprelu", "simplex")]
KINDS += [("sparsemax", "simplex"), ("sparsemax", "mask")]
FORMS = {
    f"{activation} {mode} {score} {'centred' if centred else 'plain'}": SaeConfig(
        WIDTH,
        CONCEPTS,
        activation,
        score,
        K,
        centred,
        centred,
        mode,  # type: ignore[arg-type]
    )
    for activation, mode in KINDS
    for score in ("linear", "attention")
    for centred in (True, False)
}


def draw(count: int = 50, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32) * 3 + 1


def make(config: SaeConfig, seed: int = 0) -> SparseAutoencoder:
    """Random weights of every name, biases and thresholds included."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    weights["threshold_C"] = weights["threshold_C"].abs() * 0.3
    if config.activation == "batchtopk":
        weights["threshold_C"].fill_(0.7)
    if config.sparsemax_mode == "mask":
        weights["threshold_C"] = torch.where(weights["threshold_C"] > 0.5, torch.inf, 0)
    if not config.decoder_bias:
        weights["decoder_bias_D"].zero_()
    if not config.scoring.encoder_bias:
        weights["encoder_bias_C"].zero_()
    return SparseAutoencoder(config, weights)


@pytest.fixture(params=FORMS, scope="module")
def sae(request: pytest.FixtureRequest) -> SparseAutoencoder:
    return make(FORMS[request.param])


class TestEveryForm:
    def test_codes_are_canonical(self, sae: SparseAutoencoder) -> None:
        codes = sae.encode(draw())
        assert codes.shape == (50, CONCEPTS)
        assert codes.dtype == np.float32
        assert codes.nnz > 0
        again = codes.copy()
        again.has_canonical_format = False
        again.sum_duplicates()
        again.eliminate_zeros()
        assert np.array_equal(again.indices, codes.indices)
        assert np.array_equal(again.data, codes.data)
        assert (codes.data != 0).all()

    def test_any_block_gives_the_same(self, sae: SparseAutoencoder) -> None:
        rows = draw()
        whole = sae.encode(rows).toarray()
        for block in (1, 7, 50, 1000):
            assert np.allclose(sae.encode(rows, block=block).toarray(), whole, atol=1e-5)

    def test_codes_are_the_activation_of_the_scores(self, sae: SparseAutoencoder) -> None:
        rows = torch.from_numpy(draw())
        pre = sae.preactivations(rows).detach()
        codes = sae.config.kind.activate(pre, sae.config, sae.threshold_C, False)
        if sae.config.kind.unit_input:
            shifted = rows - sae.decoder_bias_D if sae.config.centred else rows
            codes = codes * shifted.norm(dim=1, keepdim=True)
        assert np.allclose(sae.encode(rows).toarray(), codes.detach().numpy(), atol=1e-5)

    def test_decode_is_linear(self, sae: SparseAutoencoder) -> None:
        one, two = sae.encode(draw(seed=1)), sae.encode(draw(seed=2))
        zero = sae.decode(one * 0)
        mixed = sae.decode(one * 2.0 + two * -0.5) - zero
        parts = 2.0 * (sae.decode(one) - zero) - 0.5 * (sae.decode(two) - zero)
        assert np.allclose(mixed, parts, atol=1e-3)
        bias = sae.decoder_bias_D.detach().numpy()
        assert np.array_equal(
            zero, np.broadcast_to(bias if sae.config.decoder_bias else 0 * bias, zero.shape)
        )
        assert np.allclose(sae.decode(one) - zero, one.toarray() @ sae.dictionary_CD, atol=1e-4)

    def test_reconstruct_is_forward(self, sae: SparseAutoencoder) -> None:
        rows = draw()
        assert np.allclose(sae.reconstruct(rows), sae(torch.from_numpy(rows)).detach().numpy(), atol=1e-4)

    def test_folding_changes_nothing(self, sae: SparseAutoencoder) -> None:
        rows, plain = draw(), sae.folded()
        assert plain.config.score == "linear"
        assert set(plain.weights) == set(shapes(plain.config))
        assert np.allclose(plain.encode(rows).toarray(), sae.encode(rows).toarray(), atol=1e-4)
        assert np.allclose(plain.reconstruct(rows), sae.reconstruct(rows), atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_dtypes_are_converted_row_by_row(self, sae: SparseAutoencoder, dtype: torch.dtype) -> None:
        rows = torch.from_numpy(draw()).to(dtype)
        assert (sae.encode(rows) != sae.encode(rows.float().numpy())).nnz == 0

    def test_bad_rows(self, sae: SparseAutoencoder) -> None:
        rows = draw()
        rows[31, 4] = np.nan
        with pytest.raises(DataError, match="row 31"):
            sae.encode(rows, block=7)
        with pytest.raises(DataError, match="width 12"):
            sae.encode(draw()[:, :5])
        with pytest.raises(DataError, match="width 12"):
            sae.encode(draw()[0])
        with pytest.raises(DataError, match="30 concepts"):
            sae.decode(sae.encode(draw())[:, :9])
        with pytest.raises(UsageError, match="block"):
            sae.encode(draw(), block=0)

    def test_no_rows_zero_rows_constant_rows(self, sae: SparseAutoencoder) -> None:
        assert sae.encode(draw(0)).shape == (0, CONCEPTS)
        assert sae.reconstruct(draw(0)).shape == (0, WIDTH)
        assert np.isfinite(sae.reconstruct(np.zeros((3, WIDTH)))).all()
        assert np.isfinite(sae.reconstruct(np.full((3, WIDTH), 7.0))).all()

    def test_weights_survive_state_dict(self, sae: SparseAutoencoder) -> None:
        other = make(sae.config, seed=1)
        other.load_state_dict(sae.state_dict())
        assert (other.encode(draw()) != sae.encode(draw())).nnz == 0


@settings(max_examples=40, deadline=None)
@given(
    rows=arrays(np.float32, (6, WIDTH), elements=st.floats(-5, 5, width=32)),
    k=st.integers(1, CONCEPTS),
    score=st.sampled_from(["linear", "attention"]),
)
def test_topk_keeps_the_k_largest_positive(rows: NDArray[np.float32], k: int, score: str) -> None:
    sae = make(SaeConfig(WIDTH, CONCEPTS, "topk", score, k))
    codes = sae.encode(rows)
    pre = sae.preactivations(torch.from_numpy(rows)).detach().numpy()
    assert (codes.data > 0).all()
    for row in range(len(rows)):
        kept = np.sort(codes[[row]].data)[::-1]
        assert len(kept) == min(k, int((pre[row] > 0).sum()))
        assert np.allclose(kept, np.sort(pre[row])[::-1][: len(kept)], atol=1e-4)


@pytest.mark.parametrize("score", ["linear", "attention"])
def test_the_kernel_gives_the_codes_that_torch_gives(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, rows = make(SaeConfig(WIDTH, CONCEPTS, score=score, k=K)), draw(200)
    rows[7] = sae.decoder_bias_D.detach().numpy() if score == "attention" else 0
    plain = sae.encode(rows)
    monkeypatch.setattr(autoencoder, "KERNEL_ENTRIES", 0)
    for block in (None, 7):
        fast = sae.encode(rows, block=block)
        assert np.array_equal(fast.indptr, plain.indptr)
        assert np.array_equal(fast.indices, plain.indices)
        assert np.allclose(fast.data, plain.data, atol=1e-5)
    assert sae.encode(draw(0)).shape == (0, CONCEPTS)


def test_encode_holds_a_bounded_number_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def spy(*given: Any) -> Any:
        scored = score_rows(*given)
        held.append(scored[0].numel())
        return scored

    monkeypatch.setattr(autoencoder, "score_rows", spy)
    monkeypatch.setattr(autoencoder, "BLOCK_ENTRIES", 10 * CONCEPTS + 5)
    make(SaeConfig(WIDTH, CONCEPTS, k=K)).encode(draw(95))
    assert max(held) <= 10 * CONCEPTS
    assert sum(held) == 95 * CONCEPTS


@settings(max_examples=40, deadline=None)
@given(
    rows=arrays(np.float32, (5, WIDTH), elements=st.floats(-5, 5, width=32)),
    score=st.sampled_from(["linear", "attention"]),
)
def test_simplex_codes_sum_to_one(rows: NDArray[np.float32], score: str) -> None:
    codes = make(SaeConfig(WIDTH, CONCEPTS, "sparsemax", score)).encode(rows)
    assert (codes.data > 0).all()
    assert np.allclose(codes.sum(axis=1), 1, atol=1e-5)


def test_mask_codes_grow_with_the_row_and_shut_concepts_stay_silent() -> None:
    sae = make(FORMS["sparsemax mask attention plain"])
    rows = draw()
    codes = sae.encode(rows).toarray()
    assert np.allclose(sae.encode(rows * 8).toarray(), codes * 8, atol=1e-4)
    shut = sae.threshold_C.isinf().numpy()
    assert shut.any()
    assert not codes[:, shut].any()


def test_batchtopk_codes_do_not_depend_on_the_company() -> None:
    sae = make(FORMS["batchtopk simplex linear centred"])
    rows = draw()
    together = sae.encode(rows).toarray()
    alone = np.concatenate([sae.encode(rows[i : i + 1]).toarray() for i in range(len(rows))])
    assert np.allclose(together, alone, atol=1e-5)
    assert (sae.encode(rows).data > 0.7).all()


def test_gradients_of_the_straight_through_estimators() -> None:
    """By hand: one score inside the window of its threshold, one above, one below."""
    pre = torch.tensor([[0.51, 2.0, 0.1]], requires_grad=True)
    threshold = torch.full((3,), 0.5, requires_grad=True)
    config = SaeConfig(WIDTH, 3, "jumprelu", k=1)
    codes = activations.get("jumprelu").activate(pre, config, threshold, True)
    assert codes.tolist() == [[pytest.approx(0.51), 2.0, 0.0]]
    for_pre, for_threshold = torch.autograd.grad(codes.sum(), [pre, threshold])
    assert for_pre.tolist() == [[1.0, 1.0, 0.0]]
    assert for_threshold.tolist() == [pytest.approx(-0.5 / 0.05), 0.0, 0.0]
    count = active_count(pre, threshold)
    assert count.tolist() == [2.0]
    assert torch.autograd.grad(count.sum(), threshold)[0].tolist() == [pytest.approx(-1 / 0.05), 0.0, 0.0]


class TestConfig:
    @pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu"])
    def test_k_above_the_concepts(self, activation: str) -> None:
        with pytest.raises(UsageError, match="k is 31 with 30 concepts"):
            SaeConfig(WIDTH, CONCEPTS, activation, k=31)
        with pytest.raises(UsageError, match="k is 0"):
            SaeConfig(WIDTH, CONCEPTS, activation, k=0)
        assert SaeConfig(WIDTH, CONCEPTS, "relu", k=31).k == 31

    def test_names_and_sizes(self) -> None:
        with pytest.raises(UsageError, match="Did you mean 'topk'"):
            SaeConfig(WIDTH, CONCEPTS, "topkk")
        with pytest.raises(UsageError, match="attention, linear"):
            SaeConfig(WIDTH, CONCEPTS, k=K, score="mlp")
        with pytest.raises(UsageError, match="sparsemax_mode"):
            SaeConfig(WIDTH, CONCEPTS, k=K, sparsemax_mode="soft")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="width is 0"):
            SaeConfig(0, CONCEPTS)
        with pytest.raises(UsageError, match="Centring"):
            SaeConfig(WIDTH, CONCEPTS, k=K, centred=True, decoder_bias=False)
        with pytest.raises(UsageError, match="dense_limit"):
            SaeConfig(WIDTH, CONCEPTS, k=K, dense_limit=0)

    def test_weights_that_do_not_fit(self) -> None:
        config = SaeConfig(WIDTH, CONCEPTS, k=K)
        good = make(config).weights
        with pytest.raises(UsageError, match="'decoder_CD' is missing"):
            SparseAutoencoder(config, {"encoder_CD": good["encoder_CD"]})
        with pytest.raises(UsageError, match="no weight 'W_enc'"):
            SparseAutoencoder(config, {**good, "W_enc": good["encoder_CD"]})
        with pytest.raises(UsageError, match=r"\(12, 30\)"):
            SparseAutoencoder(config, {**good, "encoder_CD": good["encoder_CD"].T})
        with pytest.raises(DataError, match="NaN"):
            SparseAutoencoder(config, {**good, "encoder_CD": good["encoder_CD"] * torch.nan})

    def test_only_trained_weights_ask_for_gradients(self) -> None:
        for config in FORMS.values():
            sae = make(config)
            asking = {name for name, value in sae.weights.items() if value.requires_grad}
            assert asking == set(trained_names(config))
            assert ("threshold_C" in asking) == (config.activation == "jumprelu")


def test_a_strangers_activation_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same door as the built-ins': a kind that keeps scores above a half."""

    def above_half(pre: Tensor, config: SaeConfig, threshold: Tensor, training: bool) -> Tensor:
        return pre * (pre > 0.5)

    monkeypatch.setattr(activations, "_values", dict(activations._values))
    activations.add("above half", Activation(above_half, sparsity=lambda width, concepts: 0.1))
    with pytest.raises(UsageError, match="already registered"):
        activations.add("above half", Activation(above_half))
    config = TrainConfig(SaeConfig(WIDTH, CONCEPTS, "above half"), batch=25)
    rows = torch.from_numpy(draw(25))
    state, step = TrainState.start(config, rows), make_step(config)
    losses = [step(state, rows / state.scale).loss.item() for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    inside = forward(state.weights, config.sae, rows / state.scale, training=True)
    sae = state.autoencoder(config)  # for rows that are not scaled: the decoder carries the scale
    assert np.allclose(sae.encode(rows).toarray(), inside.codes_BC.numpy(), atol=1e-5)
    assert np.allclose(sae.reconstruct(rows), (inside.reconstruction_BD * state.scale).numpy(), atol=1e-4)
