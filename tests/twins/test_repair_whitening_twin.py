"""Whitening against the equations, written out in float64 without any of the room's code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from sklearn.covariance import oas as sklearn_oas

from clearsight.repair import Chain, RemoveSubspace, RemoveTopComponents, ShrinkageZCA

Array = NDArray[np.float64]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def realign(rows: Array, others: Array, a: float, eps: float, *, relative: bool) -> Array:
    """Feng et al. 2026, as the published code computes it: fitted on rows, applied to others."""
    x = unit(rows)
    mean = x.mean(axis=0)
    covariance = (x - mean).T @ (x - mean) / (len(x) - 1)
    width = x.shape[1]
    floor = np.trace(covariance) / width
    values, vectors = np.linalg.eigh((1 - a) * covariance + a * floor * np.eye(width))
    matrix = vectors @ np.diag((values + eps * (floor if relative else 1)) ** -0.5) @ vectors.T
    return (unit(others) - mean) @ matrix


def draw(count: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1, 0.05, width)
    return (rng.standard_normal((count, width)) * scale) @ rng.standard_normal((width, width)) + 4.0


def close(one: Array, twin: Array, within: float) -> bool:
    return bool(np.abs(one - twin).max() <= within * np.abs(twin).max())


@pytest.mark.parametrize("count", [20, 63, 64, 65, 300])  # below, around and above the width
class TestAgainstTheEquations:
    def test_release(self, count: int) -> None:
        rows, new = draw(count, 64), draw(9, 64, seed=1)
        twin = realign(rows, new, 0.1, 1e-5, relative=False)
        fitted = ShrinkageZCA(preset="release").fit(rows)
        assert close(fitted.transform(new), twin, 1e-10)
        single = ShrinkageZCA(preset="release").fit(rows.astype(np.float32)).transform(new.astype(np.float32))
        assert single.dtype == np.float32
        assert close(unit(single.astype(float)), unit(twin), 1e-5)

    def test_default(self, count: int) -> None:
        rows, new = draw(count, 64), draw(9, 64, seed=1)
        assert close(
            ShrinkageZCA().fit(rows).transform(new), realign(rows, new, 0.5, 1e-6, relative=True), 1e-10
        )

    @pytest.mark.parametrize("rule", ["ledoit_wolf", "oas"])
    def test_rules(self, count: int, rule: str) -> None:
        rows, new = draw(count, 64), draw(9, 64, seed=1)
        twin_a = ledoit_wolf_shrinkage(unit(rows)) if rule == "ledoit_wolf" else sklearn_oas(unit(rows))[1]
        fitted = ShrinkageZCA(rule).fit(rows)  # type: ignore[arg-type]
        assert fitted.shrinkage_ == pytest.approx(twin_a, rel=1e-9)
        assert close(fitted.transform(new), realign(rows, new, twin_a, 1e-6, relative=True), 1e-9)

    def test_partial_fit_is_fit(self, count: int) -> None:
        rows, new = draw(count, 64), draw(9, 64, seed=1)
        whole = ShrinkageZCA("ledoit_wolf").fit(rows)
        for first in (0, 10):  # from nothing, and on top of a low-rank fit
            parts = ShrinkageZCA("ledoit_wolf")
            if first:
                parts.fit(rows[:first])
            for block in np.array_split(rows[first:], 5):
                parts.partial_fit(block)
            assert close(parts.transform(new), whole.transform(new), 1e-10)
            assert close(parts.whitening_, whole.whitening_, 1e-10)
            assert parts.n_samples_seen_ == count

    def test_the_affine_map_is_the_transform(self, count: int) -> None:
        rows, new = draw(count, 64), draw(9, 64, seed=1)
        chain = Chain([RemoveTopComponents(2), RemoveSubspace(draw(3, 64, seed=2)), ShrinkageZCA()])
        for repair in (ShrinkageZCA(), RemoveTopComponents(3), chain):
            fitted = repair.fit(rows)
            assert close(fitted.affine_.apply(unit(new)), fitted.transform(new), 1e-10)


def test_ledoit_wolf_covariance_becomes_the_identity() -> None:
    """With scikit-learn's own shrunk covariance S, W S W = I (C over N here and there)."""
    rows = draw(400, 16)
    fitted = ShrinkageZCA("ledoit_wolf", eps=0.0).fit(rows)
    shrunk = LedoitWolf().fit(unit(rows)).covariance_ * 400 / 399
    assert np.allclose(fitted.whitening_ @ shrunk @ fitted.whitening_, np.eye(16), atol=1e-9)


def test_removal_is_the_projection_of_equations_8_to_10() -> None:
    directions, rows = draw(5, 24), draw(30, 24, seed=1)
    _, singular, right = np.linalg.svd(directions)
    rank = 1 + int(np.argmax(np.cumsum(singular**2) >= 0.99 * np.sum(singular**2)))
    kept = right[:rank].T
    twin = unit(rows) - unit(rows) @ kept @ kept.T
    fitted = RemoveSubspace(directions).fit(rows)
    assert len(fitted.components_) == rank
    assert close(fitted.transform(rows), twin, 1e-12)
    for wanted in (0, 1, 3, 5, 9):
        some = right[: min(wanted, 5)].T
        assert close(
            RemoveSubspace(directions, rank=wanted).fit(rows).transform(rows),
            unit(rows) - unit(rows) @ some @ some.T,
            1e-12,
        )


def test_top_components_are_those_of_the_covariance() -> None:
    for count in (12, 200):
        rows = draw(count, 24)
        centred = unit(rows) - unit(rows).mean(axis=0)
        top = np.linalg.svd(centred, full_matrices=False)[2][:3]
        fitted = RemoveTopComponents(3).fit(rows)
        assert close(fitted.transform(rows), centred - centred @ top.T @ top, 1e-9)
