"""Each figure against a naive twin of its definition, and at the ends of its range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.decomposition import PCA

from clearsight.errors import DataError, UsageError
from clearsight.metrics import geometry
from clearsight.metrics.geometry import (
    directions,
    hubness,
    mean_cosine,
    modality_gap,
    separability,
    uniformity,
)
from clearsight.types import Embeddings


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return random.normal(size=(80, 12)) * np.linspace(3, 0.1, 12) + random.normal(size=12)


@pytest.fixture
def other():
    return np.random.default_rng(1).normal(size=(50, 12)) - 0.3


def cosine(x, y):
    return float(x @ y / math.sqrt(x @ x) / math.sqrt(y @ y))


def test_spread_equals_its_definitions(rows):
    found = geometry(rows)
    pairs = [cosine(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    assert found["anisotropy"] == pytest.approx(np.mean(pairs), abs=1e-12)

    singular = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    share = singular / singular.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-9)

    # IsoScore as published: rotate by PCA, take the variances along the axes, compare with the unit vector.
    variance = np.cov(PCA().fit_transform(rows), rowvar=False).diagonal()
    n = len(variance)
    defect = np.linalg.norm(variance * math.sqrt(n) / np.linalg.norm(variance) - 1) / math.sqrt(
        2 * (n - math.sqrt(n))
    )
    phi = (n - defect**2 * (n - math.sqrt(n))) ** 2 / n**2
    assert found["isoscore"] == pytest.approx((n * phi - 1) / (n - 1), rel=1e-9)

    squared = np.linalg.svd(directions(rows), compute_uv=False) ** 2
    assert found["common_share"] == pytest.approx(squared[0] / squared.sum(), rel=1e-9)

    distances = [
        sum((a - b) ** 2)
        for i, a in enumerate(directions(rows))
        for j, b in enumerate(directions(rows))
        if i != j
    ]
    assert found["uniformity"] == pytest.approx(math.log(np.mean(np.exp(-2 * np.array(distances)))), rel=1e-9)


def naive_hubness(queries, candidates, k, own):
    counts = np.zeros(len(candidates))
    for i, query in enumerate(queries):
        scores = [-2.0 if own and i == j else cosine(query, c) for j, c in enumerate(candidates)]
        counts[np.argsort(scores)[-k:]] += 1
    z = (counts - counts.mean()) / counts.std()
    return float((z**3).mean())


def test_hubness_equals_its_definition(rows, other):
    assert hubness(rows, k=4) == pytest.approx(naive_hubness(rows, rows, 4, own=True), rel=1e-9)
    assert hubness(rows, other, k=4) == pytest.approx(naive_hubness(rows, other, 4, own=False), rel=1e-9)
    assert geometry(rows, other, k=4)["hubness"] == pytest.approx(hubness(rows, other, k=4))


def test_a_hub_is_found(other):
    assert hubness(np.random.default_rng(0).normal(size=(200, 300)) + 1, k=5) > 0.5
    queries = np.random.default_rng(3).normal(size=(50, 12)) + 2  # all of them near the diagonal
    assert hubness(queries, np.vstack([np.ones(12), other]), k=1) > hubness(queries, other, k=1) > 0


def test_between_two_sides(rows, other):
    pairs = np.array([[0, 1], [5, 0], [79, 49]])
    found = geometry(rows, other, pairs=pairs)
    unit_rows, unit_other = directions(rows), directions(other)
    assert found["modality_gap"] == pytest.approx(np.linalg.norm(unit_rows.mean(0) - unit_other.mean(0)))
    distances = [np.sum((unit_rows[i] - unit_other[j]) ** 2) for i, j in pairs]
    assert found["alignment"] == pytest.approx(np.mean(distances))
    both = geometry(np.vstack([rows, other]))
    for name in ("anisotropy", "effective_rank", "isoscore", "common_share"):
        assert found[name] == pytest.approx(both[name], rel=1e-9)
    assert found["uniformity"] == pytest.approx((uniformity(rows) + uniformity(other)) / 2)


def test_separability_at_both_ends(rows):
    assert separability(rows, rows + 20 * np.eye(12)[11]) > 0.95
    random = np.random.default_rng(2)
    assert separability(random.normal(size=(400, 4)), random.normal(size=(400, 4))) == pytest.approx(
        0.5, abs=0.08
    )
    assert math.isnan(separability(rows, rows[:1]))


def test_ends_of_the_ranges():
    alike = geometry(np.tile([1.0, 2.0, 0.1], (30, 1)))
    assert alike["anisotropy"] == pytest.approx(1)
    assert alike["common_share"] == pytest.approx(1)
    assert alike["hubness"] == 0
    assert alike["uniformity"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(alike["effective_rank"])
    assert math.isnan(alike["isoscore"])

    cross = np.vstack([np.eye(5), -np.eye(5)])
    isotropic = geometry(cross)
    assert isotropic["effective_rank"] == pytest.approx(5)
    assert isotropic["isoscore"] == pytest.approx(1)
    assert isotropic["common_share"] == pytest.approx(1 / 5)
    assert isotropic["anisotropy"] == pytest.approx(-1 / 9)

    line = geometry(np.outer(np.arange(-4.0, 5.0), [1.0, 2.0, 3.0]))
    assert line["effective_rank"] == pytest.approx(1)
    assert line["isoscore"] == pytest.approx(0, abs=1e-12)
    assert modality_gap(cross[:5], cross[:5]) == 0
    assert modality_gap(np.ones((3, 2)), -np.ones((3, 2))) == pytest.approx(2)


def test_a_far_mean_does_not_blur_the_figures(rows):
    shifted = geometry(rows.astype(np.float64) + 1e4)
    assert shifted["effective_rank"] == pytest.approx(geometry(rows)["effective_rank"], rel=1e-6)


def test_sampling_is_seeded_and_leaves_the_rest_alone(rows):
    first, again, whole = geometry(rows, sample=30, seed=1), geometry(rows, sample=30, seed=1), geometry(rows)
    assert first == again
    assert first["uniformity"] != whole["uniformity"]
    assert first["anisotropy"] == whole["anisotropy"]
    assert mean_cosine(rows) == pytest.approx(whole["anisotropy"])


def test_embeddings_are_taken_as_they_are(rows, other):
    left = Embeddings.of([f"q{i}" for i in range(80)], rows, side="query")
    right = Embeddings.of([f"c{i}" for i in range(50)], other)
    expected = geometry(left.rows_ND, right.rows_ND)
    assert geometry(left, right) == expected


def test_zero_rows_are_allowed():
    found = geometry(np.vstack([np.zeros((2, 3)), np.eye(3)]))
    assert found["anisotropy"] == 0
    assert all(math.isfinite(value) for value in found.values())


def test_refusals(rows, other):
    with pytest.raises(DataError, match="at least two rows"):
        geometry(rows[:1])
    with pytest.raises(DataError, match="12 wide, the other 11"):
        geometry(rows, other[:, :11])
    with pytest.raises(DataError, match="not there"):
        geometry(rows, other, pairs=np.array([[0, 50]]))
    with pytest.raises(DataError, match="at least one"):
        geometry(rows, other, pairs=np.zeros((0, 2), dtype=int))
    with pytest.raises(UsageError, match="k is 0"):
        geometry(rows, k=0)
    with pytest.raises(DataError, match="NaN"):
        geometry(np.full((3, 2), np.nan))
