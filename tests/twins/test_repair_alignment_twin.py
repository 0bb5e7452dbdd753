"""Self-alignment and its refinement against the equations, written out without any of the room's code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clearsight.repair import SelfAlign, mutual_neighbours
from clearsight.repair.refine import reciprocal_ranks

Array = NDArray[np.float64]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs(count: int, width_i: int = 20, width_t: int = 14, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((count, 6))
    image = shared @ rng.standard_normal((6, width_i)) + rng.standard_normal((count, width_i)) + 2
    text = shared @ rng.standard_normal((6, width_t)) + rng.standard_normal((count, width_t)) - 1
    return image, text


def inverse_root(rows: Array, a: float) -> Array:
    covariance = np.cov(rows.T)
    shrunk = (1 - a) * covariance + a * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(shrunk)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("count", [10, 17, 200])  # fewer pairs than either width, than one, than none
@pytest.mark.parametrize("wanted", [1, 5, 50])
def test_maps_are_the_closed_form(count: int, wanted: int) -> None:
    image, text = pairs(count)
    x, y = unit(image), unit(text)
    left, right = inverse_root(x, 0.1), inverse_root(y, 0.1)
    cross = left @ ((x - x.mean(0)).T @ (y - y.mean(0)) / (count - 1)) @ right
    u, s, vt = np.linalg.svd(cross)
    kept = min(wanted, int((s > 1e-6 * s[0]).sum()))
    scores = ((x - x.mean(0)) @ left @ u[:, :kept] * s[:kept] ** 0.5) @ (
        (y - y.mean(0)) @ right @ vt[:kept].T * s[:kept] ** 0.5
    ).T
    fitted = SelfAlign(0.1, wanted).fit(image, text)
    assert fitted.correlations_ == pytest.approx(s[:kept], rel=1e-6)
    ours = fitted.transform(image) @ fitted.transform_text(text).T
    assert np.allclose(ours, scores, rtol=0, atol=1e-8 * np.abs(scores).max())
    assert np.allclose(fitted.image_map_.apply(x), fitted.transform(image), atol=1e-10)
    assert np.allclose(fitted.text_map_.apply(y), fitted.transform_text(text), atol=1e-10)


@pytest.mark.parametrize("count", [15, 120])
def test_weights_are_repetitions(count: int) -> None:
    image, text = pairs(count)
    times = np.random.default_rng(1).integers(0, 3, count)
    weighted = SelfAlign().fit(image, text, sample_weight=times)
    repeated = SelfAlign().fit(np.repeat(image, times, axis=0), np.repeat(text, times, axis=0))
    assert np.allclose(weighted.transform(image), repeated.transform(image), atol=1e-8)
    assert weighted.n_pairs_ == times.sum()


def naive_csls(left: Array, right: Array, k: int) -> dict[int, tuple[int, float]]:
    cosine = unit(left) @ unit(right).T
    near_l = np.sort(cosine, axis=1)[:, -k:].mean(axis=1)
    near_r = np.sort(cosine, axis=0)[-k:].mean(axis=0)
    score = 2 * cosine - near_l[:, None] - near_r[None, :]
    found = {}
    for i in range(len(left)):
        j = int(score[i].argmax())
        if int(score[:, j].argmax()) == i:
            rivals = [
                np.delete(score[i], j).max(initial=-np.inf),
                np.delete(score[:, j], i).max(initial=-np.inf),
            ]
            found[i] = (j, float(score[i, j] - max(rivals)))
    return found


@pytest.mark.parametrize(("left", "right", "k"), [(50, 70, 10), (7, 5, 10), (30, 30, 1), (1, 4, 3)])
@pytest.mark.parametrize("block", [4, 1024])
def test_mutual_neighbours_by_csls(
    left: int, right: int, k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearsight.repair.refine.BLOCK", block)
    rng = np.random.default_rng(left)
    a, b = rng.standard_normal((left, 6)), rng.standard_normal((right, 6))
    twin = naive_csls(a, b, min(k, left, right) if left == right else k)
    index, other, margin = mutual_neighbours(a, b, k)
    assert dict(zip(index.tolist(), other.tolist(), strict=True)) == {i: j for i, (j, _) in twin.items()}
    assert margin == pytest.approx([twin[i][1] for i in index.tolist()], abs=1e-5)


@pytest.mark.parametrize("block", [3, 1024])
def test_reciprocal_ranks_with_ties(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearsight.repair.refine.BLOCK", block)
    rng = np.random.default_rng(3)
    a, b = rng.integers(-1, 2, (20, 3)) + 0.1, rng.integers(-1, 2, (20, 3)) + 0.1
    cosine = np.round(unit(a) @ unit(b).T, 12)
    twin = [
        sum(
            0.5 / (1 + (line > line[i]).sum() + 0.5 * ((line == line[i]).sum() - 1))
            for line in (cosine[i], cosine[:, i])
        )
        for i in range(20)
    ]
    distinct = [i for i in range(20) if (np.abs(cosine - cosine[i, i]) < 1e-9).sum() == 1]
    assert reciprocal_ranks(a, b)[distinct] == pytest.approx(np.array(twin)[distinct])
    same = np.ones((4, 2))
    assert reciprocal_ranks(same, same) == pytest.approx(1 / 2.5)
