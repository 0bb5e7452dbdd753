"""Maps: what they promise about seeds, directions, fallbacks and bad input. UMAP itself is slow."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearsight.errors import DataError, UsageError
from clearsight.metrics.maps import embed_map


def two_sides(rows: int = 120, width: int = 24, gap: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows_ND = rng.normal(size=(rows, width))
    rows_ND[rows // 2 :, 0] += gap * 4
    return rows_ND


def between_over_within(points_N2: np.ndarray) -> float:
    """How far apart both halves lie, in their own spreads."""
    half = len(points_N2) // 2
    left, right = points_N2[:half], points_N2[half:]
    return float(np.linalg.norm(left.mean(0) - right.mean(0)) / (left.std() + right.std()))


def test_pacmap_keeps_sides_apart_and_repeats_itself() -> None:
    rows_ND = two_sides()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (embed_map(rows_ND, seed=5) for _ in range(2))
    assert first.method.startswith("PaCMAP")
    assert first.note == ""
    assert (first.points_N2 == second.points_N2).all()
    assert between_over_within(first.points_N2) > 1.5
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002 - the caller's randomness is untouched
    assert not np.allclose(embed_map(rows_ND, seed=6).points_N2, first.points_N2)


@pytest.mark.slow
def test_umap_runs_with_the_settings_of_the_paper() -> None:
    found = embed_map(two_sides(200), method="umap")
    assert found.method == "UMAP, 64 neighbours, least distance 0.5"
    assert between_over_within(found.points_N2) > 1


@pytest.mark.parametrize("method", ["pacmap", "umap"])
def test_what_is_not_installed_is_said_and_stood_in_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, method, None)
    found = embed_map(two_sides(200), method=method)
    assert found.method == "principal components"
    assert "not installed" in found.note
    assert "clearsight[maps]" in found.note
    assert (found.points_N2 == embed_map(two_sides(200), method="pca").points_N2).all()


def test_too_few_rows_are_said_and_stood_in_for() -> None:
    found = embed_map(two_sides(10))
    assert found.method == "principal components"
    assert "10 points are too few for PaCMAP" in found.note


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 12))
def test_principal_components_are_those_of_the_directions(seed: int, count: int, width: int) -> None:
    """Lengths of rows don't matter, the axes fall in variance, and two dimensions keep every distance."""
    rng = np.random.default_rng(seed)
    rows_ND = rng.normal(size=(count, width))
    found = embed_map(rows_ND, method="pca").points_N2
    stretched = embed_map(rows_ND * rng.uniform(0.5, 9, (count, 1)), method="pca").points_N2
    assert found.shape == (count, 2)
    assert np.abs(found.mean(0)).max() < 1e-5
    assert found[:, 0].var() >= found[:, 1].var() - 1e-6
    assert np.sort(np.abs(found), axis=0) == pytest.approx(np.sort(np.abs(stretched), axis=0), abs=1e-4)
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    variance_D = np.linalg.svd(unit_ND - unit_ND.mean(0), compute_uv=False) ** 2
    assert (found.astype(float) ** 2).sum() == pytest.approx(variance_D[:2].sum(), abs=1e-4)


def test_rows_all_alike_are_a_point() -> None:
    assert (embed_map(np.ones((5, 3)), method="pca").points_N2 == 0).all()
    assert (embed_map(np.zeros((5, 3)), method="pca").points_N2 == 0).all()


@pytest.mark.parametrize("rows", [np.ones((1, 3)), np.ones(4), np.ones((3, 0)), np.array([[1.0], [np.nan]])])
def test_rows_without_a_map_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(DataError):
        embed_map(rows)


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="pca, pacmap, umap"):
        embed_map(np.ones((3, 3)), method="tsne")
