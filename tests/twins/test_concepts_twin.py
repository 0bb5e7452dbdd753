"""The concept figures against the paper's formulas, written out densely in float64."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import gaussian_kde

from clearsight.concepts import (
    attribution,
    bridge,
    compare_codes,
    expected_jaccard,
    gini,
    jaccard,
    modality_density,
    profile_codes,
    reconstructed_similarity,
    top_set,
)

Array = NDArray[np.float64]


def dense_codes(rows: int, concepts: int, active: int, seed: int, *, signed: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    codes = np.zeros((rows, concepts))
    for row in codes:  # popular concepts first: real codes have a long tail
        weight = 1 / np.arange(3, concepts + 3)
        chosen = rng.choice(concepts, rng.integers(0, active + 1), replace=False, p=weight / weight.sum())
        row[chosen] = rng.exponential(size=len(chosen)) * (rng.choice([-1, 1], len(chosen)) if signed else 1)
    return codes


def world(seed: int = 0, *, signed: bool = False) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    image, text = dense_codes(23, 41, 6, seed, signed=signed), dense_codes(31, 41, 5, seed + 1, signed=signed)
    image[:, 7], text[:, 9], image[:, 11], text[:, 11] = 0, 0, 0, 0  # text only, image only, dead
    text[3, 7], image[4, 9] = 0.5, 0.25
    pairs = np.stack([rng.integers(0, 23, 60), rng.integers(0, 31, 60)], axis=1)  # rows occur often or never
    return image, text, rng.standard_normal((41, 13)), pairs


def dense_bridge(image: Array, text: Array, dictionary: Array, pairs: NDArray[np.int64]) -> Array:
    """Eq. 5 with the whole matrices: the mean outer product, times the Gram matrix of the directions."""
    together = np.mean([np.outer(image[i], text[j]) for i, j in pairs], axis=0)
    return np.asarray(together * (dictionary @ dictionary.T))


def dense_attribution(image: Array, text: Array, dictionary: Array, pairs: NDArray[np.int64]) -> Array:
    """Eq. 6 with M written out."""
    gram = dictionary @ dictionary.T
    terms = [image[i] * (gram @ text[j]) + text[j] * (gram @ image[i]) for i, j in pairs]
    return np.asarray(np.mean(terms, axis=0))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
class TestProfile:
    def test_energy_modality_and_firing(self, seed: int, signed: bool) -> None:
        image, text, dictionary, _ = world(seed, signed=signed)
        found = profile_codes(csr_array(image), csr_array(text), dictionary)
        assert np.allclose(found.energy_C, np.abs(np.concatenate([image, text])).mean(0), rtol=1e-12, atol=0)
        e_image, e_text = np.abs(image).mean(0), np.abs(text).mean(0)
        with np.errstate(invalid="ignore"):
            score = e_text / (e_image + e_text)
        assert np.allclose(found.modality_score_C, score, rtol=1e-12, atol=0, equal_nan=True)
        assert found.modality_score_C[7] == 1
        assert found.modality_score_C[9] == 0
        assert np.isnan(found.modality_score_C[11])
        assert found.unscored == int(((e_image + e_text) == 0).sum())
        assert (found.image_firing_C == (image != 0).sum(0)).all()
        assert (found.text_firing_C == (text != 0).sum(0)).all()

    def test_attribution_and_bridge(self, seed: int, signed: bool) -> None:
        image, text, dictionary, pairs = world(seed, signed=signed)
        found = profile_codes(csr_array(image), csr_array(text), dictionary, pairs)
        whole = dense_bridge(image, text, dictionary, pairs)
        size = np.abs(whole)
        assert found.bridge is not None
        twins = {
            "abs": size.sum(0) + size.sum(1),
            "max": np.maximum(size.max(0), size.max(1)),
            "offdiag": size.sum(0) + size.sum(1) - 2 * size.diagonal(),
            "sum": whole.sum(0) + whole.sum(1),
        }
        for name, twin in twins.items():
            assert np.allclose(found.bridge[name], twin, rtol=0, atol=1e-13), name  # type: ignore[index]
        assert np.allclose(
            found.influence_C(), dense_attribution(image, text, dictionary, pairs), rtol=0, atol=1e-13
        )

    @pytest.mark.parametrize("tile", [1, 5, 16, 41, 1000])
    def test_tiles_of_any_size(self, seed: int, signed: bool, tile: int) -> None:
        image, text, dictionary, pairs = world(seed, signed=signed)
        left, right = csr_array(image[pairs[:, 0]]), csr_array(text[pairs[:, 1]])
        whole = dense_bridge(image, text, dictionary, pairs)
        found = bridge(left, right, dictionary, tile=tile)
        assert np.allclose(found["abs"], np.abs(whole).sum(0) + np.abs(whole).sum(1), rtol=0, atol=1e-13)
        assert np.allclose(found["sum"], whole.sum(0) + whole.sum(1), rtol=0, atol=1e-13)


def test_float32_stays_within_its_rounding() -> None:
    image, text, dictionary, pairs = world()
    exact = profile_codes(csr_array(image), csr_array(text), dictionary, pairs)
    single = profile_codes(
        csr_array(image.astype(np.float32)),
        csr_array(text.astype(np.float32)),
        dictionary.astype("f4"),
        pairs,
    )
    assert single.influence_C().dtype == single.bridge_C().dtype == np.float64
    scale = np.abs(exact.bridge_C()).max()
    assert np.abs(single.influence_C() - exact.influence_C()).max() < 2e-6 * scale
    assert np.abs(single.bridge_C() - exact.bridge_C()).max() < 2e-6 * scale


def test_more_pairs_than_parts_and_fewer() -> None:
    image, text, dictionary, _ = world()
    for count in (1, 2, 15, 16, 17, 200):
        pairs = np.random.default_rng(count).integers(0, 23, (count, 2))
        twin = dense_attribution(image, text, dictionary, pairs)
        found = attribution(csr_array(image[pairs[:, 0]]), csr_array(text[pairs[:, 1]]), dictionary)
        assert np.allclose(found, twin, rtol=0, atol=1e-13)


def test_similarity_is_that_of_the_reconstructions() -> None:
    image, text, dictionary, pairs = world()
    twin = np.mean([(image[i] @ dictionary) @ (text[j] @ dictionary) for i, j in pairs])
    codes = csr_array(image[pairs[:, 0]]), csr_array(text[pairs[:, 1]])
    assert reconstructed_similarity(*codes, dictionary) == pytest.approx(twin, rel=1e-12)


def test_disagreement_of_codes() -> None:
    u, v = dense_codes(12, 30, 6, 5, signed=True), dense_codes(12, 30, 9, 6)
    found = compare_codes(csr_array(u), csr_array(v))
    for n, (a, b) in enumerate(zip(u, v, strict=True)):
        length = np.linalg.norm(a) * np.linalg.norm(b)
        union = ((a != 0) | (b != 0)).sum()
        both = np.abs(a).sum() + np.abs(b).sum()
        twins = (
            (found.cosine_N, a @ b / length if length else np.nan),
            (found.jaccard_N, ((a != 0) & (b != 0)).sum() / union if union else np.nan),
            (found.l1_share_N, np.abs(b[a != 0]).sum() / np.abs(b).sum() if b.any() else np.nan),
            (found.l1_distance_N, np.abs(a - b).sum() / both if both else np.nan),
        )
        for value_N, twin in twins:
            assert value_N[n] == pytest.approx(twin, rel=1e-12, abs=1e-15, nan_ok=True)


class TestSets:
    def test_top_set_is_a_stable_sort(self) -> None:
        rng = np.random.default_rng(0)
        for concepts in (1, 50, 99, 100, 101, 700, 1234):
            score = rng.integers(0, 6, concepts).astype(float)  # mostly ties
            score[rng.random(concepts) < 0.1] = np.nan
            score[0] = 3.0
            ordered = sorted(
                (c for c in range(concepts) if not np.isnan(score[c])), key=lambda c: (-score[c], c)
            )
            size = -(-concepts // 100)  # ceil(C / 100) in whole numbers
            assert top_set(score).tolist() == sorted(ordered[:size])

    @pytest.mark.parametrize(
        ("population", "sizes"), [(6, (2, 3)), (7, (3, 3, 2)), (5, (5, 1, 4)), (4, (4, 4)), (6, (2, 2, 2))]
    )
    def test_expected_jaccard_over_every_set_there_is(self, population: int, sizes: tuple[int, ...]) -> None:
        every = [list(combinations(range(population), size)) for size in sizes]
        first = every[0][0]  # by symmetry the first set may stay where it is
        rest = [[one] for one in every[1]]
        for more in every[2:]:
            rest = [[*had, one] for had in rest for one in more]
        twin = np.mean([jaccard(first, *others) for others in rest])
        assert expected_jaccard(population, *sizes) == pytest.approx(twin, rel=1e-9)

    @pytest.mark.parametrize("sizes", [(10, 10), (10, 10, 10), (40, 10, 25)])
    def test_expected_jaccard_against_simulation(self, sizes: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        draws = np.array(
            [jaccard(*(rng.choice(60, size, replace=False) for size in sizes)) for _ in range(4000)]
        )
        error = draws.std() / np.sqrt(len(draws))
        assert abs(draws.mean() - expected_jaccard(60, *sizes)) < 4.5 * error


class TestCurves:
    def test_gini_is_the_mean_difference(self) -> None:
        energy = np.random.default_rng(0).exponential(size=57)
        twin = np.abs(energy[:, None] - energy).mean() / (2 * energy.mean())
        assert gini(energy) == pytest.approx(twin, rel=1e-12)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_density_is_scipys_on_scores_and_mirror_images(self, weighted: bool) -> None:
        rng = np.random.default_rng(2)
        score, energy = rng.beta(0.4, 0.3, 150), rng.exponential(size=150)
        found = modality_density(score, energy if weighted else None)
        weights = energy if weighted else np.ones(150)
        mean = weights @ score / weights.sum()
        spread = np.sqrt(weights @ (score - mean) ** 2 / weights.sum())
        effective = weights.sum() ** 2 / (weights**2).sum()
        assert found.bandwidth == pytest.approx(spread * effective**-0.2, rel=1e-12)
        folded = np.concatenate([score, -score, 2 - score, score + 2, score - 2, -score - 2, 4 - score])
        plain = gaussian_kde(folded, weights=np.tile(weights, 7))
        plain.set_bandwidth(found.bandwidth / np.sqrt(plain.covariance[0, 0]) * plain.factor)
        assert np.allclose(found.density_X, 7 * plain(found.score_X), rtol=1e-9, atol=1e-12)
