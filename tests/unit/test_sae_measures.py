"""Measures of an autoencoder: laws, ranges, edges, bad input. Their naive twins: tests/twins."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from clearsight.errors import DataError, UsageError
from clearsight.sae.concept_probes import classify_by_concepts, monosemanticity, sparse_probe
from clearsight.sae.dictionary import (
    coherence,
    effective_rank,
    encoder_decoder_cosine,
    seed_stability,
    stability,
)
from clearsight.sae.measures import ReconstructionMeasures, measure_reconstruction, measure_stream
from clearsight.sae.recovered import retrieval_recovered
from clearsight.types import Embeddings
from sae_forms import make_rows, make_sae


class Given:
    """An autoencoder that answers with what it was made of: codes are the rows, the decoder is a matrix."""

    def __init__(self, decoder_CD: np.ndarray) -> None:
        self.decoder_CD = decoder_CD

    def encode(self, rows_ND: Any) -> csr_array:
        return csr_array(np.asarray(rows_ND, dtype=np.float32))

    def decode(self, codes: csr_array) -> np.ndarray:
        return (codes @ self.decoder_CD).astype(np.float32)


IDENTITY = Given(np.eye(6))


# Reconstruction


def test_a_perfect_reconstruction() -> None:
    got = measure_reconstruction(IDENTITY, make_rows(width=6))["all"]
    assert (got.rows, got.nmse, got.explained_variance, got.r2_scalar, got.nmse_length) == (64, 0, 1, 1, 0)
    assert [got.cosine, got.shrinkage, got.length_ratio] == pytest.approx([1, 1, 1])
    assert got.dead == 0
    assert got.figures().keys() == vars(got).keys() - {"rate_C"}


def test_a_shrunken_reconstruction() -> None:
    got = measure_reconstruction(Given(np.eye(6) * 0.8), make_rows(width=6))["all"]
    assert [got.shrinkage, got.length_ratio, got.cosine] == pytest.approx([0.8, 0.8, 1])
    assert got.nmse_length == pytest.approx(0.04)


def test_the_mean_alone_explains_nothing() -> None:
    rows_ND = make_rows(width=6)
    back_ND = np.broadcast_to(rows_ND.mean(axis=0, dtype=np.float64), rows_ND.shape)
    measures = ReconstructionMeasures(6, 3)
    measures.update(rows_ND, csr_array((64, 3), dtype=np.float32), back_ND)
    got = measures.results()["all"]
    assert got.nmse == pytest.approx(1)
    assert (got.dead, got.l0, got.l1) == (1, 0, 0)
    assert got.density().sum() == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    shift=st.sampled_from([0.0, 1e3, 1e6]),
)
def test_blocks_and_a_large_mean_change_nothing(seed: int, cuts: list[int], shift: float) -> None:
    random = np.random.default_rng(seed)
    rows_ND = random.normal(size=(30, 5)) + shift
    back_ND = rows_ND + random.normal(size=(30, 5)) * 0.3
    codes = csr_array(random.normal(size=(30, 7)) * (random.random((30, 7)) < 0.3))
    labels = random.choice(["image", "text"], size=30)
    whole, parts = ReconstructionMeasures(5, 7), ReconstructionMeasures(5, 7)
    whole.update(rows_ND, codes, back_ND, labels)
    edges = [0, *sorted(cuts), 30]
    for start, end in pairwise(edges):
        part = np.arange(start, end)
        parts.update(rows_ND[part], codes[part], back_ND[part], labels[part])
    assert whole.results().keys() == parts.results().keys() == {"all", *labels}
    for name, first in whole.results().items():
        second = parts.results()[name]
        for figure, value in first.figures().items():
            assert second.figures()[figure] == pytest.approx(value, rel=1e-7, abs=1e-9, nan_ok=True), figure
        np.testing.assert_array_equal(first.rate_C, second.rate_C)


def test_splits_are_measured_about_their_own_mean() -> None:
    """Two modalities far apart, each given back as its mean: all looks explained, neither is."""
    rows_ND = np.concatenate([make_rows(50, width=6), make_rows(50, width=6, seed=1) + 100])
    means_ND = np.repeat([rows_ND[:50].mean(axis=0), rows_ND[50:].mean(axis=0)], 50, axis=0)
    measures = ReconstructionMeasures(6, 2)
    labels = {"modality": ["image"] * 50 + ["text"] * 50, "token_type": ["special"] * 100}
    measures.update(rows_ND, csr_array((100, 2), dtype=np.float32), means_ND, labels)
    got = measures.results()
    assert list(got) == ["all", "modality=image", "modality=text", "token_type=special"]
    assert got["all"].explained_variance > 0.99
    assert got["modality=image"].explained_variance == pytest.approx(0, abs=1e-5)
    assert got["modality=text"].explained_variance == pytest.approx(0, abs=1e-5)
    assert got["token_type=special"].figures() == got["all"].figures()


def test_where_nothing_varies() -> None:
    got = measure_reconstruction(IDENTITY, np.full((5, 6), 0.1, dtype=np.float32))["all"]
    assert np.isnan(got.nmse)
    assert np.isnan(got.explained_variance)
    assert got.cosine == pytest.approx(1)
    zeros = measure_reconstruction(IDENTITY, np.zeros((5, 6), dtype=np.float32))["all"]
    assert zeros.cosine == 0
    assert np.isnan(
        [zeros.nmse, zeros.nmse_length, zeros.shrinkage, zeros.length_ratio, zeros.r2_scalar]
    ).all()


def test_firing_rates_and_their_histogram() -> None:
    fires = np.zeros((1000, 4), dtype=np.float32)
    fires[:, 0], fires[:100, 1], fires[:1, 2] = 1, 1, -1
    got = measure_reconstruction(Given(np.ones((4, 4))), fires)["all"]
    np.testing.assert_allclose(got.rate_C, [1, 0.1, 0.001, 0])
    assert got.dead == 0.25
    edges = np.array([-2.0, -1.0, 0.0])
    assert got.density(edges).tolist() == [1, 2]  # 0.001 lies below: in the first bin; dead in none
    assert got.density().sum() == 3


def test_stored_zeros_do_not_fire() -> None:
    codes = csr_array((np.array([0.0, 2.0], np.float32), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    measures = ReconstructionMeasures(1, 2)
    measures.update(np.ones((1, 1)), codes, np.ones((1, 1)))
    got = measures.results()["all"]
    assert (got.l0, got.l1, got.dead) == (1, 2, 0.5)


def test_bfloat16_tensors_are_measured() -> None:
    rows = torch.from_numpy(make_rows()).bfloat16()
    got = measure_reconstruction(make_sae("relu"), rows, block=7)["all"]
    assert got.figures() == pytest.approx(
        measure_reconstruction(make_sae("relu"), rows.float())["all"].figures()
    )


def test_bad_input_to_the_reconstruction_measures() -> None:
    rows_ND = make_rows()
    sae = make_sae("topk")
    with pytest.raises(DataError, match="no row"):
        measure_reconstruction(sae, rows_ND[:0])
    with pytest.raises(DataError, match="no row"):
        measure_stream(sae, [])
    with pytest.raises(DataError, match="do not fit an autoencoder of width 12"):
        measure_reconstruction(sae, make_rows(width=13))
    with pytest.raises(DataError, match="3 labels do not fit 64 rows"):
        measure_reconstruction(sae, rows_ND, ["a"] * 3)
    with pytest.raises(DataError, match="labels do not fit"):
        measure_stream(sae, [(rows_ND, {"modality": ["a"] * 3})])
    with pytest.raises(UsageError, match="block is 0"):
        measure_reconstruction(sae, rows_ND, block=0)
    with pytest.raises(UsageError, match="'all' is the split"):
        measure_reconstruction(sae, rows_ND, ["all"] * 64)
    measures = ReconstructionMeasures(12, 40)
    with pytest.raises(DataError, match="do not fit an autoencoder of width 12 with 40"):
        measures.update(rows_ND, sae.encode(rows_ND), rows_ND[:3])
    with pytest.raises(DataError, match="NaN"):
        measures.update(rows_ND, sae.encode(rows_ND), np.full_like(rows_ND, np.nan))


# Retrieval recovered


def task(noise: float = 0.3) -> tuple[Embeddings, Embeddings, dict[str, dict[str, float]]]:
    random = np.random.default_rng(0)
    left = random.normal(size=(40, 12)).astype(np.float32)
    right = left + noise * random.normal(size=left.shape).astype(np.float32)
    names = [str(i) for i in range(40)]
    return (
        Embeddings.of([f"q{i}" for i in names], left, side="query"),
        Embeddings.of([f"c{i}" for i in names], right),
        {f"q{i}": {f"c{i}": 1} for i in names},
    )


def test_a_perfect_autoencoder_recovers_everything() -> None:
    for name, got in retrieval_recovered(Given(np.eye(12)), *task()).items():
        assert (got.ratio, got.low, got.high) == (1, 1, 1), name
        assert got.test.difference == 0


def test_half_the_dimensions_recover_less() -> None:
    half = np.diag([1.0] * 3 + [0.0] * 9)
    got = retrieval_recovered(Given(half), *task(1.0), measures=("hit_rate@1", "mrr"))
    assert list(got) == ["hit_rate@1", "mrr"]
    hit = got["hit_rate@1"]
    assert hit.ratio == pytest.approx(hit.reconstructed.mean / hit.original.mean)
    assert 0 < hit.low < hit.ratio < hit.high < 1
    assert hit.test.p_value < 0.05


def test_nothing_to_recover() -> None:
    queries, candidates, relevance = task()
    got = retrieval_recovered(
        Given(np.eye(12)),
        queries,
        candidates.with_rows(-queries.rows_ND),
        relevance,
        measures=("hit_rate@1",),
    )
    assert np.isnan([got["hit_rate@1"].ratio, got["hit_rate@1"].low]).all()


# Dictionary


def test_coherence_of_known_directions() -> None:
    got = coherence(np.array([[1.0, 0], [0, 2], [3, 3], [0, 0]]))
    assert got.largest == pytest.approx(np.sqrt(0.5))
    assert got.pair == (0, 2)
    np.testing.assert_allclose(got.nearest_C, [np.sqrt(0.5)] * 3 + [0], atol=1e-6)
    assert got.mean == pytest.approx(0.75 * np.sqrt(0.5))
    assert coherence(np.eye(4)).largest == 0
    assert coherence(np.array([[1.0, 0], [-1, 0], [0, 1]])).pair == (0, 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), concepts=st.integers(2, 20), width=st.integers(1, 6))
def test_no_dictionary_is_below_the_welch_bound(seed: int, concepts: int, width: int) -> None:
    got = coherence(np.random.default_rng(seed).normal(size=(concepts, width)))
    assert got.floor - 1e-6 <= got.largest <= 1
    assert got.mean <= got.largest + 1e-6


def test_effective_rank_of_known_dictionaries() -> None:
    assert effective_rank(np.eye(5) * [[1], [9], [2], [3], [4]]) == pytest.approx(5)
    assert effective_rank(np.ones((7, 3))) == pytest.approx(1)
    assert np.isnan(effective_rank(np.zeros((2, 3))))


def test_encoder_and_decoder_cosine() -> None:
    encoder, decoder = np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[2.0, 0], [-1, -1], [1, 0]])
    np.testing.assert_allclose(encoder_decoder_cosine(encoder, decoder), [1, -1, 0], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), exact=st.booleans(), concepts=st.integers(2, 12))
def test_a_permuted_dictionary_is_wholly_stable(seed: int, exact: bool, concepts: int) -> None:
    random = np.random.default_rng(seed)
    first_CD = random.normal(size=(concepts, 16))
    order = random.permutation(concepts)
    lengths_C1 = random.uniform(0.5, 2, size=(concepts, 1))
    got = stability(first_CD, (first_CD * lengths_C1)[order], exact_to=100 if exact else 0, tile=5)
    assert got.exact == exact
    assert [got.mmcs, got.mmcs_back, got.matched, got.shared] == pytest.approx([1, 1, 1, 1], abs=1e-5)
    np.testing.assert_array_equal(order[got.partner_C], np.arange(concepts))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), concepts=st.integers(1, 15), others=st.integers(1, 15))
def test_the_matching_lies_between_its_bounds(seed: int, concepts: int, others: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(concepts, 4)), random.normal(size=(others, 4))
    exact = stability(first, second)
    near = stability(first, second, exact_to=0, neighbours=3, tile=4)
    assert near.matched <= exact.matched + 1e-6
    assert exact.matched <= near.matched_limit + 1e-6
    assert [near.mmcs, near.mmcs_back] == pytest.approx([exact.mmcs, exact.mmcs_back], abs=1e-6)
    for got in (exact, near):
        partners = got.partner_C[got.partner_C >= 0]
        assert len(set(partners)) == len(partners) <= min(concepts, others)
        assert (got.cosine_C[got.partner_C < 0] == 0).all()
    back = stability(second, first)
    assert back.matched == pytest.approx(exact.matched, abs=1e-6)
    assert back.mmcs == pytest.approx(exact.mmcs_back, abs=1e-6)


def test_opposite_directions_are_not_the_same_concept() -> None:
    got = stability(np.eye(3), -np.eye(3))
    assert (got.mmcs, got.matched, got.shared) == (0, 0, 0)
    assert got.partner_C.tolist() == [-1, -1, -1]


def test_several_seeds_are_compared_in_pairs() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(5, 3)), random.normal(size=(5, 3))
    got = seed_stability([first, second, first])
    assert list(got) == [(0, 1), (0, 2), (1, 2)]
    assert got[0, 2].matched == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="nothing to be compared"):
        seed_stability([first])


def test_bad_dictionaries() -> None:
    with pytest.raises(DataError, match="at least 2"):
        coherence(np.ones((1, 3)))
    with pytest.raises(DataError, match="NaN"):
        effective_rank(np.full((2, 2), np.nan))
    with pytest.raises(DataError, match="differ"):
        encoder_decoder_cosine(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(DataError, match="width 3, the other 4"):
        stability(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(UsageError, match="neighbours is 0"):
        stability(np.ones((2, 3)), np.ones((2, 3)), neighbours=0)


# Concepts


def test_monosemanticity_of_known_concepts() -> None:
    same, apart = np.array([[1.0, 0], [5, 0], [0, 1]]), np.array([[1.0, 0], [-1, 0], [0, 0]])
    codes = csr_array(np.array([[1.0, 1, 1, 0], [2, 0, 0, 0], [0, 3, 0, 0]]))
    got = monosemanticity(codes, same)
    assert got[:2] == pytest.approx([1, 0])
    assert np.isnan(got[2:]).all()  # one row; none
    assert monosemanticity(codes, apart)[0] == pytest.approx(-1)
    assert monosemanticity(codes, apart)[1] == 0  # a row of zeros has cosine 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_monosemanticity_does_not_depend_on_scales(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    codes = csr_array(random.random((20, 6)) * (random.random((20, 6)) < 0.4))
    embeddings = random.normal(size=(20, 4))
    got = monosemanticity(codes, embeddings)
    known = np.isfinite(got)
    assert (np.abs(got[known]) <= 1).all()
    lengths_N1 = random.uniform(0.1, 9, size=(20, 1))
    np.testing.assert_allclose(monosemanticity(codes * scale, embeddings * lengths_N1), got, atol=1e-9)
    alike = monosemanticity(codes, np.ones((20, 4)))
    np.testing.assert_allclose(alike[known], 1)


def labelled(seed: int = 0, rows: int = 120) -> tuple[csr_array, np.ndarray]:
    """Class i fires concept 2 i strongly; concept 7 fires anywhere, loudly."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, size=rows)
    dense = random.random((rows, 8)) * 0.3 * (random.random((rows, 8)) < 0.3)
    dense[np.arange(rows), 2 * classes] += 1
    dense[:, 7] = random.random(rows) * 50
    return csr_array(dense.astype(np.float32)), np.array(["ant", "bee", "cow"])[classes]


def test_clear_concepts_classify() -> None:
    got = classify_by_concepts(*labelled(), *labelled(1), n=(1, 3))
    assert got.classes == ("ant", "bee", "cow")
    assert got.concepts_YK[:, 0].tolist() == [0, 2, 4]
    assert got.accuracy[1] == pytest.approx(1, abs=0.01)
    assert got.accuracy[3] > 0.95
    assert got.chance < 0.5


def test_clear_concepts_probe() -> None:
    got = sparse_probe(*labelled(), *labelled(1), k=(1, 2))
    assert got.concepts_YK[:, 0].tolist() == [0, 2, 4]
    assert got.mean(1) > 0.99
    assert got.accuracy[2].shape == (3,)


def test_labels_that_have_nothing_to_do_with_codes_score_chance() -> None:
    random = np.random.default_rng(0)
    (train, _), (test, _) = labelled(0, 600), labelled(1, 600)
    train_labels, test_labels = random.choice(["a", "b"], 600), random.choice(["a", "b"], 600)
    got = classify_by_concepts(train, train_labels, test, test_labels, n=(5,))
    assert got.accuracy[5] == pytest.approx(0.5, abs=0.08)
    assert sparse_probe(train, train_labels, test, test_labels, k=(5,)).mean(5) == pytest.approx(
        0.5, abs=0.08
    )


def test_silent_rows_are_shared_among_the_classes() -> None:
    train, labels = labelled()
    got = classify_by_concepts(train, labels, csr_array((30, 8), dtype=np.float32), ["ant"] * 30, n=(2,))
    assert got.accuracy[2] == pytest.approx(1 / 3)


def test_concepts_that_never_fire_say_nothing() -> None:
    silent = csr_array((6, 4), dtype=np.float32)
    labels = ["a", "b"] * 3
    got = classify_by_concepts(silent, labels, silent, labels, n=(1,))
    assert got.concepts_YK.tolist() == [[-1], [-1]]
    assert got.accuracy[1] == pytest.approx(0.5)
    assert sparse_probe(silent, labels, silent, labels, k=(1,)).mean(1) == 0.5


def test_a_class_that_was_never_seen_is_never_right() -> None:
    train, labels = labelled()
    got = classify_by_concepts(train, labels, train[:4], ["dog"] * 4, n=(1,))
    assert got.accuracy[1] == 0
    probe = sparse_probe(train, labels, train[:4], ["dog"] * 4, k=(1,))
    assert np.isnan(probe.mean(1))


def test_bad_input_to_the_concept_measures() -> None:
    train, labels = labelled()
    with pytest.raises(DataError, match="do not fit codes of 120 rows"):
        monosemanticity(train, np.ones((3, 2)))
    with pytest.raises(DataError, match="NaN"):
        monosemanticity(train, np.full((120, 2), np.nan))
    for measure in (classify_by_concepts, sparse_probe):
        with pytest.raises(DataError, match="labels do not fit"):
            measure(train, labels[:3], train, labels)
        with pytest.raises(DataError, match="All training rows are 'a'"):
            measure(train, ["a"] * 120, train, labels)
        with pytest.raises(DataError, match="8 concepts, test codes 7"):
            measure(train, labels, train[:, :7], labels)
    with pytest.raises(UsageError, match=r"n is \[0\]"):
        classify_by_concepts(train, labels, train, labels, n=(0,))
    with pytest.raises(UsageError, match=r"k is \[\]"):
        sparse_probe(train, labels, train, labels, k=())
