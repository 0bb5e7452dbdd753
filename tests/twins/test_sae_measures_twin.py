"""The measures against their definitions, written out densely: every pair, every class, every concept."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score

from clearsight.sae.concept_probes import classify_by_concepts, monosemanticity, sparse_probe
from clearsight.sae.dictionary import coherence, effective_rank, stability
from clearsight.sae.measures import measure_reconstruction
from clearsight.sae.recovered import retrieval_recovered
from clearsight.types import Embeddings
from sae_forms import FORMS, make_rows, make_sae


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("name", [name for name in FORMS if "attention" not in name])
def test_reconstruction_measures(name: str, block: int) -> None:
    sae, rows_ND = make_sae(name), make_rows()
    labels = np.where(np.arange(64) % 3 == 0, "image", "text")
    got = measure_reconstruction(sae, rows_ND, labels, block=block)
    codes_NC, back_ND = sae.encode(rows_ND).toarray().astype(float), sae.reconstruct(rows_ND).astype(float)
    for split, chosen in (("all", labels != ""), ("image", labels == "image"), ("text", labels == "text")):
        x, y, a = rows_ND[chosen].astype(float), back_ND[chosen], codes_NC[chosen]
        expected = {
            "rows": len(x),
            "nmse": ((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum(),
            "explained_variance": r2_score(x, y, multioutput="variance_weighted"),
            "nmse_length": ((x - y) ** 2).sum() / (x**2).sum(),
            "r2_scalar": 1 - ((x - y) ** 2).mean() / ((x - x.mean()) ** 2).mean(),
            "cosine": np.mean([u @ v / np.sqrt(u @ u * (v @ v)) for u, v in zip(x, y, strict=True)]),
            "l0": (a != 0).sum(axis=1).mean(),
            "l1": np.abs(a).sum(axis=1).mean(),
            "shrinkage": (y**2).sum() / (x * y).sum(),
            "length_ratio": (np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)).mean(),
            "dead": ((a != 0).sum(axis=0) == 0).mean(),
        }  # fmt: skip
        assert got[split].figures() == pytest.approx(expected, rel=1e-6)  # float32 products differ by block
        np.testing.assert_allclose(got[split].rate_C, (a != 0).mean(axis=0))


def test_retrieval_recovered() -> None:
    sae, random = make_sae("topk"), np.random.default_rng(0)
    left = make_rows(30)
    right = left + 0.8 * random.normal(size=left.shape).astype(np.float32)
    names = [str(i) for i in range(30)]
    got = retrieval_recovered(
        sae,
        Embeddings.of([f"q{i}" for i in names], left, side="query"),
        Embeddings.of([f"c{i}" for i in names], right),
        {f"q{i}": {f"c{i}": 1} for i in names},
    )

    def hits(queries: np.ndarray, candidates: np.ndarray, k: int) -> float:
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        candidates = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
        best = np.argsort(-(queries @ candidates.T), axis=1)[:, :k]
        return float(np.mean([i in best[i] for i in range(len(best))]))

    for k in (1, 5, 10):
        before, after = hits(left, right, k), hits(sae.reconstruct(left), sae.reconstruct(right), k)
        assert got[f"hit_rate@{k}"].ratio == pytest.approx(after / before)
        assert got[f"hit_rate@{k}"].low <= after / before <= got[f"hit_rate@{k}"].high


@pytest.mark.parametrize("tile", [1, 3, 100])
@pytest.mark.parametrize(("concepts", "width"), [(2, 3), (17, 5), (9, 9)])
def test_coherence(concepts: int, width: int, tile: int) -> None:
    dictionary = np.random.default_rng(concepts).normal(size=(concepts, width))
    unit = dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T) - 2 * np.eye(concepts)
    got = coherence(dictionary, tile=tile)
    assert got.largest == pytest.approx(cosines.max(), abs=1e-6)
    assert cosines[got.pair] == pytest.approx(cosines.max(), abs=1e-6)
    np.testing.assert_allclose(got.nearest_C, cosines.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("tile", [2, 100])
@pytest.mark.parametrize(("concepts", "width"), [(4, 9), (17, 5)])
def test_effective_rank(concepts: int, width: int, tile: int) -> None:
    dictionary = np.random.default_rng(concepts).normal(size=(concepts, width))
    singular = np.linalg.svd(dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True))[1]
    share = singular / singular.sum()
    assert effective_rank(dictionary, tile=tile) == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-5
    )


@pytest.mark.parametrize("tile", [2, 100])
@pytest.mark.parametrize("exact_to", [0, 100])
@pytest.mark.parametrize(("first", "second"), [(6, 6), (4, 6), (6, 4)])
def test_stability_tries_every_matching(first: int, second: int, exact_to: int, tile: int) -> None:
    random = np.random.default_rng(first * 10 + second)
    a, b = random.normal(size=(first, 3)), random.normal(size=(second, 3))
    got = stability(a, b, exact_to=exact_to, neighbours=10, tile=tile, threshold=0.7)
    unit_a = a / np.linalg.norm(a, axis=1, keepdims=True)
    unit_b = b / np.linalg.norm(b, axis=1, keepdims=True)
    cosines = unit_a @ unit_b.T
    assert got.mmcs == pytest.approx(cosines.max(axis=1).mean(), abs=1e-6)
    assert got.mmcs_back == pytest.approx(cosines.max(axis=0).mean(), abs=1e-6)
    kept = np.maximum(cosines if first <= second else cosines.T, 0)
    smaller, larger = kept.shape
    best = max(kept[np.arange(smaller), list(order)].sum() for order in permutations(range(larger), smaller))
    assert got.matched == pytest.approx(best / smaller, abs=1e-6)  # with all as neighbours: exact either way
    rows = np.flatnonzero(got.partner_C >= 0)
    np.testing.assert_allclose(got.cosine_C[rows], cosines[rows, got.partner_C[rows]], atol=1e-6)
    assert got.shared == pytest.approx((got.cosine_C >= 0.7).sum() / smaller)


def test_near_neighbours_find_the_matching_of_two_related_seeds() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(300, 16))
    second = (first + 0.4 * random.normal(size=first.shape))[random.permutation(300)]
    exact = stability(first, second)
    near = stability(first, second, exact_to=0, neighbours=8, tile=64)
    assert (exact.exact, near.exact) == (True, False)
    assert near.matched == pytest.approx(exact.matched, abs=1e-4)
    assert near.matched <= exact.matched + 1e-6 <= near.matched_limit + 2e-6


@pytest.mark.parametrize("block_values", [1, 40, 10_000])
def test_monosemanticity_sums_over_every_pair(block_values: int) -> None:
    random = np.random.default_rng(0)
    dense = random.normal(size=(25, 9)) * (random.random((25, 9)) < 0.35)
    dense[:, 3], dense[:, 4] = 0, 0
    dense[7, 4] = 2
    embeddings = random.normal(size=(25, 6))
    embeddings[11] = 0
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(length > 0, length, 1)
    got = monosemanticity(csr_array(dense), embeddings, block_values=block_values)
    for concept in range(9):
        a = np.abs(dense[:, concept])
        above = sum(a[i] * a[j] * (unit[i] @ unit[j]) for i in range(25) for j in range(25) if i != j)
        below = sum(a[i] * a[j] for i in range(25) for j in range(25) if i != j)
        assert got[concept] == pytest.approx(above / below if below else np.nan, nan_ok=True, abs=1e-12)


def task(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, size=90)
    dense = random.random((90, 12)) * (random.random((90, 12)) < 0.4)
    dense[np.arange(90), classes] += random.random(90) * 0.6
    dense[:, 9] = 0
    dense[:5] = 0  # rows without a code tie for every class
    return dense, np.array(["a", "b", "c", "d"])[classes]


@pytest.mark.parametrize("block", [7, 4096])
def test_classification_by_concepts(block: int) -> None:
    (train, train_labels), (test, test_labels) = task(0), task(1)
    got = classify_by_concepts(
        csr_array(train), train_labels, csr_array(test), test_labels, n=(1, 3, 20), block=block
    )
    loudness = np.sqrt((train**2).mean(axis=0))
    loudness[loudness == 0] = np.inf
    z_train, z_test = train / loudness, test / loudness
    for n in (1, 3, 20):
        scores = []
        for one in got.classes:
            inside, outside = z_train[train_labels == one], z_train[train_labels != one]
            association = inside.mean(axis=0) - outside.mean(axis=0)
            chosen = [c for c in np.argsort(-association, kind="stable")[:n] if association[c] > 0]
            assert chosen == [c for c in got.concepts_YK[got.classes.index(one), :n] if c >= 0]
            weights = association[chosen] / np.linalg.norm(association[chosen])
            scores.append(z_test[:, chosen] @ weights)
        credit = 0.0
        for row, label in zip(np.array(scores).T, test_labels, strict=True):
            winners = np.flatnonzero(np.isclose(row, row.max(), rtol=1e-12, atol=0))
            credit += (got.classes.index(label) in winners) / len(winners)
        assert got.accuracy[n] == pytest.approx(credit / 90)


def test_sparse_probes() -> None:
    (train, train_labels), (test, test_labels) = task(0), task(1)
    got = sparse_probe(csr_array(train), train_labels, csr_array(test), test_labels, k=(1, 4))
    loudness = np.sqrt((train**2).mean(axis=0))
    loudness[loudness == 0] = np.inf
    for place, one in enumerate(got.classes):
        difference = (
            train[train_labels == one].mean(axis=0) - train[train_labels != one].mean(axis=0)
        ) / loudness
        for k in (1, 4):
            chosen = np.argsort(-np.abs(difference), kind="stable")[:k]
            probe = LogisticRegression(class_weight="balanced", max_iter=1000)
            probe.fit(train[:, chosen] / loudness[chosen], train_labels == one)
            expected = balanced_accuracy_score(
                test_labels == one, probe.predict(test[:, chosen] / loudness[chosen])
            )
            assert got.accuracy[k][place] == pytest.approx(expected)
