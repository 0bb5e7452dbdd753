"""The reference step against a straight transcription of each kind: torch's own Adam and clipping, no code of
the room, float64. Both start from the same weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clearsight.sae import AdamConfig, LossConfig, SaeConfig, TrainConfig, TrainState, make_step, presets

WIDTH, CONCEPTS, BATCH, STEPS = 10, 40, 32, 25


def draw(steps: int = STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    dictionary = torch.randn(20, WIDTH, generator=generator)
    codes = torch.rand(steps, BATCH, 20, generator=generator)
    codes = codes * (torch.rand(codes.shape, generator=generator) < 0.2)
    return (codes @ dictionary + 0.5).double()


def begin(config: TrainConfig, rows: Tensor) -> tuple[TrainState, dict[str, Tensor]]:
    """A state in float64 and copies of its weights."""
    state = TrainState.start(config, rows[0].float())
    for held in (state.weights, state.first, state.second):
        for name, value in held.items():
            held[name] = value.double()
    state.estimate_C = state.estimate_C.double()
    return state, {name: value.clone().requires_grad_() for name, value in state.weights.items()}


def sorted_sparsemax(scores: Tensor) -> Tensor:
    """With a whole sort, differentiable by autograd through the threshold."""
    ordered = scores.sort(dim=1, descending=True).values
    sums = ordered.cumsum(1)
    count = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype)
    size = (1 + count * ordered > sums).sum(1, keepdim=True)
    return (scores - (sums.gather(1, size - 1) - 1) / size).clamp(min=0)


class JumpReLU(torch.autograd.Function):
    """z H(z - t) and H(z - t) with the estimators of Rajamanoharan et al. 2024, row by row."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, t)
        return torch.where(z > t, z, 0), torch.where(z > t, 1.0, 0.0).to(z)

    @staticmethod
    def backward(ctx: Any, for_code: Tensor, for_count: Tensor) -> tuple[Tensor, Tensor]:
        z, t = ctx.saved_tensors
        width = 0.05
        threshold = torch.zeros_like(t)
        for row in range(len(z)):
            kernel = ((z[row] - t) / width).abs() < 0.5
            threshold += -(t / width) * kernel * for_code[row] - (1 / width) * kernel * for_count[row]
        return for_code * (z > t), threshold


def transcribed(config: TrainConfig, weights: dict[str, Tensor], x: Tensor, dead: Tensor) -> dict[str, Any]:
    """Loss and codes of a batch, written out for the kind."""
    sae, w = config.sae, weights
    target = x
    shifted = x - w["decoder_bias_D"] if sae.centred else x
    mask_mode = sae.activation == "sparsemax" and sae.sparsemax_mode == "mask"
    norm = shifted.norm(dim=1, keepdim=True)
    scored = shifted / norm if mask_mode else shifted
    if sae.score == "linear":
        pre, decoder = scored @ w["encoder_CD"].T + w["encoder_bias_C"], w["decoder_CD"]
    else:
        keys, decoder = w["concepts_CD"] @ w["key_DD"], w["concepts_CD"] @ w["value_DD"]
        pre = scored @ keys.T if mask_mode else (scored @ w["query_DD"]) @ keys.T / math.sqrt(sae.width)
    count = None
    if sae.activation == "relu":
        codes = pre.clamp(min=0)
    elif sae.activation == "topk":
        best = pre.clamp(min=0).sort(dim=1, descending=True, stable=True).values[:, sae.k - 1 : sae.k]
        codes = torch.where((pre >= best) & (pre > 0), pre, 0)
    elif sae.activation == "batchtopk":
        best = pre.clamp(min=0).flatten().sort(descending=True).values[sae.k * len(x) - 1]
        codes = torch.where((pre >= best) & (pre > 0), pre, 0)
    elif sae.activation == "jumprelu":
        codes, count = JumpReLU.apply(pre, w["threshold_C"])
    elif mask_mode:
        support = sorted_sparsemax(pre.detach()) > 0
        codes = pre * (support & (support.double().mean(0) <= sae.dense_limit)) * norm
    else:
        codes = sorted_sparsemax(pre)
    again = codes @ decoder + (w["decoder_bias_D"] if sae.decoder_bias else 0)
    error = (again - target).pow(2)
    loss = 10 * (error / norm.detach()).mean() if mask_mode else error.mean()
    sparsity = config.loss.sparsity or 0
    if count is not None:
        loss = loss + sparsity * (count.sum(1).mean() / sae.k - 1) ** 2
    elif sparsity:
        lengths = decoder.norm(dim=1) if config.row_norm == "free" else torch.ones(CONCEPTS)
        loss = loss + sparsity * (codes.abs() * lengths).mean()
    if config.loss.aux_k and dead.any():
        residual = (target - again).detach()
        of_dead = torch.zeros_like(residual)
        for row in range(len(x)):
            shown = pre[row].clamp(min=0) * dead
            for concept in shown.argsort(descending=True)[: config.loss.aux_k]:
                of_dead[row] += shown[concept] * decoder[concept]
        loss = loss + config.loss.aux_weight * (residual - of_dead).pow(2).mean()
    return {"loss": loss, "codes": codes}


def settings(form: dict[str, Any], **more: Any) -> TrainConfig:
    loss = LossConfig(**{"sparsity": 0.0, "aux_k": 0, "dead_window": 3 * BATCH, **more.pop("loss", {})})
    return TrainConfig(SaeConfig(WIDTH, CONCEPTS, **{"k": 4, **form}), loss=loss, batch=BATCH, **more)


release = presets.get("release")(WIDTH, CONCEPTS, 4)
CASES = {
    "release": replace(release, batch=BATCH),
    "topk": settings({}),
    "topk, revived": settings({}, loss={"aux_k": 5, "aux_weight": 0.5}),
    "topk, project, no clip": settings({}, decoder_norm="project", adam=AdamConfig(clip=None)),
    "topk, free": settings({"centred": False}, decoder_norm="free", adam=AdamConfig(clip=0.01)),
    "topk, attention, revived": settings({"score": "attention"}, loss={"aux_k": 5, "aux_weight": 0.5}),
    "relu": settings({"activation": "relu"}, loss={"sparsity": 0.3}),
    "relu, attention": settings({"activation": "relu", "score": "attention"}, loss={"sparsity": 0.3}),
    "batchtopk": settings({"activation": "batchtopk"}, loss={"aux_k": 3}),
    "jumprelu": settings({"activation": "jumprelu"}, loss={"sparsity": 1.0}),
    "simplex": settings({"activation": "sparsemax"}),
    "simplex, attention": settings({"activation": "sparsemax", "score": "attention"}),
    "mask": settings({"activation": "sparsemax", "sparsemax_mode": "mask", "dense_limit": 0.5}),
    "mask, attention": settings(
        {"activation": "sparsemax", "sparsemax_mode": "mask", "score": "attention", "centred": False}
    ),
}
CASES = {name: replace(case, adam=replace(case.adam, lr=5e-3, warmup=7)) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_transcription(name: str) -> None:
    config, rows = CASES[name], draw()
    state, twin = begin(config, rows)
    trained = {key: twin[key] for key in state.first}
    optimiser = torch.optim.Adam(
        trained.values(), config.adam.lr, (config.adam.beta1, config.adam.beta2), config.adam.eps
    )
    silent = torch.zeros(CONCEPTS, dtype=torch.int64)
    step = make_step(config, "reference")
    clipped, revived = 0, 0
    for number, batch in enumerate(rows):
        x = batch / state.scale
        dead = silent >= config.loss.dead_window
        revived += bool(dead.any())
        done = transcribed(config, twin, x, dead)
        optimiser.zero_grad()
        done["loss"].backward()
        if config.row_norm == "tangent":
            decoder, gradient = twin["decoder_CD"].detach(), twin["decoder_CD"].grad
            assert gradient is not None
            gradient -= (gradient * decoder).sum(1, keepdim=True) * decoder
        if config.adam.clip is not None:
            total = torch.nn.utils.clip_grad_norm_(trained.values(), config.adam.clip)
            clipped += bool(total > config.adam.clip)
        optimiser.param_groups[0]["lr"] = config.adam.lr * min(1, (number + 1) / config.adam.warmup)
        optimiser.step()
        with torch.no_grad():
            if "threshold_C" in trained:
                twin["threshold_C"].clamp_(min=0)
            if config.row_norm != "free":
                twin["decoder_CD"] /= twin["decoder_CD"].norm(dim=1, keepdim=True)
        fired = (done["codes"] != 0).any(0)
        silent = torch.where(fired, 0, silent + BATCH)
        stats = step(state, x)
        assert stats.loss.item() == pytest.approx(done["loss"].item(), rel=1e-9)
        assert stats.dead.item() == dead.sum().item()
        assert stats.active.item() == pytest.approx((done["codes"] != 0).sum(1).double().mean().item())
        assert torch.equal(state.vectors_since_fired_C, silent)
    for key in trained:
        assert (state.weights[key] - twin[key]).abs().max() < 1e-8, key
        assert not torch.equal(twin[key].detach(), begin(config, rows)[1][key].detach()), f"{key} never moved"
    if config.adam.clip == 0.01:
        assert clipped
    if config.loss.aux_k:
        assert revived, "no concept was dead: the auxiliary loss was never on"


def test_release_is_what_it_says() -> None:
    sae, loss, adam = release.sae, release.resolved_loss, release.adam
    assert (sae.activation, sae.score, sae.centred, sae.decoder_bias) == ("topk", "linear", False, False)
    assert presets.get("release")(WIDTH, 100).sae.k == 50
    assert (adam.lr, adam.beta1, adam.beta2, adam.eps, adam.clip) == (8e-4, 0.9, 0.999, 1e-8, 1.0)
    assert (loss.error, loss.sparsity, loss.aux_k) == ("mse", 1e-2, 0)
    assert (release.batch, release.epochs, release.scaled, release.row_norm) == (4096, 5, False, "project")
