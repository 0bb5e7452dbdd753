"""Laws of the concept profile, its sets and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clearsight.concepts import (
    code_disagreement,
    energy_curve,
    expected_jaccard,
    gini,
    jaccard,
    mean_of_codes,
    modality_density,
    overlap_table,
    profile,
    profile_codes,
    reconstructed_similarity,
    set_size,
    top_set,
    top_sets,
)
from clearsight.concepts.published import OVERLAPS, POOLINGS, REMOVALS
from clearsight.errors import DataError, UsageError

Array = NDArray[Any]


def codes(rows: int, concepts: int, active: int, seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    dense = np.zeros((rows, concepts), dtype=np.float32)
    for row in dense:
        row[rng.choice(concepts, active, replace=False)] = rng.exponential(size=active) + 0.1
    return csr_array(dense)


@dataclass(frozen=True)
class TopK:
    """The smallest SAE: the k highest of rows @ directions, where they are above 0."""

    dictionary_CD: Array
    k: int = 3
    bias: float = 0.0

    def encode(self, rows_ND: Any) -> csr_array:
        score_NC = np.asarray(rows_ND) @ self.dictionary_CD.T
        limit_N1 = np.partition(score_NC, -self.k, axis=1)[:, [-self.k]]
        return csr_array(np.where((score_NC >= limit_N1) & (score_NC > 0), score_NC, 0).astype(np.float32))

    def decode(self, codes: csr_array) -> Array:
        return np.asarray(codes @ self.dictionary_CD + self.bias)


def coder(seed: int = 0, concepts: int = 40, width: int = 8) -> TopK:
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((concepts, width)).astype(np.float32)
    return TopK(directions / np.linalg.norm(directions, axis=1, keepdims=True))


class TestIdentities:
    @settings(deadline=None, max_examples=30)
    @given(
        seed=st.integers(0, 10**6),
        concepts=st.integers(3, 30),
        pairs=st.integers(1, 20),
        width=st.integers(1, 9),
    )
    def test_attribution_bridge_and_similarity(
        self, seed: int, concepts: int, pairs: int, width: int
    ) -> None:
        rng = np.random.default_rng(seed)
        image, text = codes(7, concepts, 3, seed), codes(9, concepts, 2, seed + 1)
        directions = rng.standard_normal((concepts, width))
        rows = np.stack([rng.integers(0, 7, pairs), rng.integers(0, 9, pairs)], axis=1)
        found = profile_codes(image, text, directions, rows)
        scale = found.bridge_C("abs").max()
        # A = rowsum(B) + colsum(B), one computed without B, the other tile by tile.
        assert np.allclose(found.influence_C(), found.bridge_C("sum"), rtol=0, atol=1e-12 * scale)
        twice = 2 * reconstructed_similarity(image[rows[:, 0]], text[rows[:, 1]], directions)
        assert found.influence_C().sum() == pytest.approx(twice, rel=1e-9, abs=1e-12 * scale * concepts)
        assert found.similarity == pytest.approx(twice / 2, rel=1e-9, abs=1e-12 * scale * concepts)
        # What the reductions promise of each other.
        assert (np.abs(found.bridge_C("sum")) <= found.bridge_C("abs") + 1e-12 * scale).all()
        assert (found.bridge_C("offdiag") <= found.bridge_C("abs")).all()
        assert (found.bridge_C("max") <= found.bridge_C("abs") + 1e-12 * scale).all()

    @settings(deadline=None, max_examples=20)
    @given(seed=st.integers(0, 10**6))
    def test_exchanging_the_modalities_mirrors_the_scores(self, seed: int) -> None:
        image, text, directions = codes(8, 20, 3, seed), codes(5, 20, 4, seed + 1), np.eye(20)
        rows = np.array([[0, 0], [1, 3], [7, 4]])
        one = profile_codes(image, text, directions, rows)
        other = profile_codes(text, image, directions, rows[:, ::-1])
        assert np.allclose(other.modality_score_C, 1 - one.modality_score_C, atol=1e-12, equal_nan=True)
        assert np.allclose(other.energy_C, one.energy_C)
        assert np.allclose(other.influence_C(), one.influence_C(), atol=1e-12)
        for name in ("abs", "max", "offdiag", "sum"):
            assert np.allclose(other.bridge_C(name), one.bridge_C(name), atol=1e-12)

    def test_orthogonal_directions_bridge_only_to_themselves(self) -> None:
        image, text = codes(6, 12, 4, 0), codes(6, 12, 4, 1)
        found = profile_codes(image, text, np.eye(12), np.repeat(np.arange(6)[:, None], 2, axis=1))
        own = (image.toarray().astype(float) * text.toarray()).mean(0)
        assert np.allclose(found.bridge_C("abs"), 2 * own)
        assert np.allclose(found.bridge_C("max"), own)
        assert not found.bridge_C("offdiag").any()

    def test_energy_is_over_all_rows_so_the_larger_side_weighs_more(self) -> None:
        image, text = csr_array(np.ones((1, 1))), csr_array(np.full((3, 1), 5.0))
        found = profile_codes(image, text, np.ones((1, 2)))
        assert found.energy_C.tolist() == [4.0]
        assert found.modality_score_C[0] == pytest.approx(5 / 6)  # means, whatever the counts

    def test_figures_come_as_columns_of_one_length(self) -> None:
        found = profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), [[0, 0]])
        table = found.columns()
        assert {len(column) for column in table.values()} == {12}
        assert {"energy", "modality_score", "attribution", "bridge_abs", "bridge_offdiag"} <= set(table)


class TestInput:
    def test_without_pairs_the_rest_is_computed_and_the_reason_said(self) -> None:
        for pairs in (None, [], np.zeros((0, 2), dtype=int)):
            found = profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), pairs)
            assert found.energy_C.sum() > 0
            assert found.attribution_C is None
            assert found.bridge is None
            assert found.similarity is None
            assert "no matched pairs" in found.missing
            assert overlap_table(found) == ()
            for ask in (found.influence_C, found.bridge_C, lambda found=found: top_sets(found)):
                with pytest.raises(DataError, match="no matched pairs"):
                    ask()
            assert "attribution" not in found.columns()

    def test_the_bridge_can_be_left_out(self) -> None:
        found = profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), [[0, 0]], with_bridge=False)
        assert found.attribution_C is not None
        with pytest.raises(DataError, match="left out"):
            found.bridge_C()

    @pytest.mark.parametrize("pair", [[6, 0], [0, 6], [-1, 0]])
    def test_pairs_out_of_range(self, pair: list[int]) -> None:
        with pytest.raises(DataError, match=r"pair 1\]"):
            profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), [[0, 0], pair])

    @pytest.mark.parametrize("pairs", [[[0.5, 1.0]], [0, 1], [[0, 1, 2]]])
    def test_pairs_of_another_kind(self, pairs: Any) -> None:
        with pytest.raises(UsageError, match="Pairs of shape"):
            profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), pairs)

    def test_no_rows(self) -> None:
        with pytest.raises(DataError, match="Text codes hold no row"):
            profile_codes(codes(6, 12, 4, 0), csr_array((0, 12)), np.eye(12))
        with pytest.raises(DataError, match="Image rows: there are none"):
            profile(coder(), np.zeros((0, 8)), np.ones((2, 8)))

    def test_no_concept_fires(self) -> None:
        with pytest.raises(DataError, match="No concept fires"):
            profile_codes(csr_array((6, 12)), csr_array((5, 12)), np.eye(12))

    def test_pairs_whose_rows_are_silent(self) -> None:
        image = csr_array(np.vstack([np.zeros(4), np.ones(4)]))
        found = profile_codes(image, image, np.eye(4), [[0, 0]])
        assert not found.influence_C().any()
        assert not found.bridge_C().any()

    def test_widths_that_differ(self) -> None:
        with pytest.raises(UsageError, match="12 concepts, the dictionary 11"):
            profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(11))
        with pytest.raises(UsageError, match="the SAE is 8 wide"):
            profile(coder(), np.ones((3, 8)), np.ones((3, 9)))

    def test_dense_codes_and_bad_numbers(self) -> None:
        fine = codes(6, 12, 4, 0)
        with pytest.raises(UsageError, match="not a sparse matrix"):
            profile_codes(fine.toarray(), fine, np.eye(12))
        broken = fine.copy()
        broken.data[3] = np.nan
        with pytest.raises(DataError, match="Image codes hold NaN"):
            profile_codes(broken, fine, np.eye(12))
        directions = np.eye(12)
        directions[2, 2] = np.inf
        with pytest.raises(DataError, match="dictionary holds NaN"):
            profile_codes(fine, fine, directions)

    def test_codes_with_duplicates_and_stored_zeros_are_put_right_and_left_alone(self) -> None:
        value, column = np.array([1.0, 2.0, 0.0, 4.0]), np.array([3, 3, 2, 0])
        untidy = csr_array((value, column, np.array([0, 3, 4])), shape=(2, 5))
        tidy = csr_array(untidy.toarray())
        pairs = [[0, 1], [1, 0], [1, 1]]
        one, other = (profile_codes(c, tidy, np.eye(5) + 0.5, pairs) for c in (untidy, tidy))
        assert untidy.nnz == 4
        assert (one.image_firing_C == other.image_firing_C).all()
        assert np.allclose(one.influence_C(), other.influence_C(), atol=1e-15)
        assert np.allclose(one.bridge_C(), other.bridge_C(), atol=1e-15)

    def test_progress_is_told_and_closed(self) -> None:
        told: list[Any] = []

        class Listener:
            def start(self, total: int | None, label: str) -> None:
                told.append(total)

            def advance(self, n: int = 1) -> None:
                told.append(n)

            def close(self) -> None:
                told.append("closed")

        profile_codes(codes(6, 12, 4, 0), codes(6, 12, 4, 1), np.eye(12), [[0, 0]], progress=Listener())
        assert told == [1, 1, "closed"]


class TestProfileOfRows:
    def test_rows_are_encoded_as_the_sae_encodes_them(self) -> None:
        sae, rng = coder(), np.random.default_rng(0)
        images, texts = rng.standard_normal((20, 8)), rng.standard_normal((15, 8)) + 1
        pairs = np.repeat(np.arange(15)[:, None], 2, axis=1)
        one = profile(sae, images, texts, pairs)
        other = profile_codes(sae.encode(images), sae.encode(texts), sae.dictionary_CD, pairs)
        assert (one.energy_C == other.energy_C).all()
        assert (one.influence_C() == other.influence_C()).all()
        assert (one.attribution_with_bias_C == other.influence_C()).all()

    def test_the_bias_of_the_sae_is_counted_apart(self) -> None:
        rng, plain = np.random.default_rng(0), coder()
        sae = TopK(plain.dictionary_CD, bias=0.7)
        images, texts = rng.standard_normal((9, 8)), rng.standard_normal((9, 8)) + 1
        found = profile(sae, images, texts, np.repeat(np.arange(9)[:, None], 2, axis=1))
        assert found.attribution_with_bias_C is not None
        z = [sae.encode(rows).toarray() for rows in (images, texts)]
        whole = [sae.decode(csr_array(part)) @ sae.dictionary_CD.T for part in z]
        twin = (z[0] * whole[1] + z[1] * whole[0]).mean(axis=0)
        assert np.allclose(found.attribution_with_bias_C, twin, atol=1e-5)
        assert not np.allclose(found.influence_C(), twin, atol=1e-2)
        with pytest.raises(UsageError, match="bias of shape"):
            profile_codes(csr_array(z[0]), csr_array(z[1]), sae.dictionary_CD, [[0, 0]], bias_D=np.ones(3))

    def test_the_houses_own_sae(self) -> None:
        from clearsight.sae import SaeConfig, SparseAutoencoder

        rng, directions = np.random.default_rng(0), coder().dictionary_CD
        weights = {"encoder_CD": directions, "decoder_CD": directions, "decoder_bias_D": rng.random(8)}
        sae = SparseAutoencoder(SaeConfig(8, 40, k=4), weights)
        images, texts = (rng.standard_normal((9, 8)).astype(np.float32) for _ in range(2))
        found = profile(sae, images, texts, np.repeat(np.arange(9)[:, None], 2, axis=1))
        whole = [sae.reconstruct(rows).astype(np.float64) for rows in (images, texts)]
        part = [rows - weights["decoder_bias_D"] for rows in whole]
        assert found.similarity == pytest.approx(np.mean((part[0] * part[1]).sum(1)), abs=1e-5)
        assert found.attribution_with_bias_C is not None
        twice = np.mean((part[0] * whole[1] + part[1] * whole[0]).sum(1))
        assert found.attribution_with_bias_C.sum() == pytest.approx(twice, abs=1e-4)


class TestMeans:
    def tokens(self, count: int = 9) -> list[Array]:
        rng = np.random.default_rng(3)
        return [rng.standard_normal((rng.integers(1, 7), 8)).astype(np.float32) for _ in range(count)]

    def test_mean_of_codes_is_the_mean(self) -> None:
        sae, items = coder(), self.tokens()
        found = mean_of_codes(sae, iter(items))
        twin = np.array([sae.encode(rows).toarray().mean(0) for rows in items])
        assert np.allclose(found.toarray(), twin, atol=1e-6)
        assert found.dtype == np.float32
        assert found.has_canonical_format

    def test_blocks_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sae, items = coder(), self.tokens()
        whole = mean_of_codes(sae, items)
        monkeypatch.setattr("clearsight.concepts.means.BLOCK_TOKENS", 5)
        assert np.allclose(mean_of_codes(sae, items).toarray(), whole.toarray(), atol=1e-7)

    def test_one_token_has_nothing_to_disagree_about(self) -> None:
        sae, rows = coder(), np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
        found = code_disagreement(sae, rows, [row[None] for row in rows]).summary()
        assert found["cosine"] == pytest.approx(1, abs=1e-6)
        assert found["jaccard"] == found["l1_share"] == 1
        assert found["l1_distance"] == pytest.approx(0, abs=1e-6)

    def test_a_nonlinear_code_disagrees_where_eq_13_says_it_cannot(self) -> None:
        sae, items = coder(), self.tokens(30)
        found = code_disagreement(sae, [rows.mean(0) for rows in items], items).summary()
        assert found["cosine"] < 0.95
        assert found["jaccard"] < 0.8
        assert found["active_in_mean_of_codes"] > found["active_in_code_of_mean"]

    def test_bad_items(self) -> None:
        with pytest.raises(DataError, match="item 1"):
            mean_of_codes(coder(), [np.ones((2, 8)), np.ones((0, 8))])
        with pytest.raises(DataError, match="no item"):
            mean_of_codes(coder(), [])
        with pytest.raises(UsageError, match="not of the same items"):
            code_disagreement(coder(), np.ones((3, 8)), [np.ones((2, 8))])


class TestSets:
    def test_size(self) -> None:
        assert [set_size(c) for c in (1, 50, 100, 101, 700, 2900, 32768)] == [1, 1, 1, 2, 7, 29, 328]
        assert set_size(7, 1.0) == 7
        for share in (0, -0.1, 1.1, float("nan")):
            with pytest.raises(UsageError, match="share"):
                set_size(100, share)

    @given(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=1, max_size=300), st.floats(0.01, 1)
    )
    def test_every_chosen_score_is_at_least_every_other(self, scores: list[float], share: float) -> None:
        score_C = np.array(scores)
        if np.isnan(score_C).all():
            with pytest.raises(DataError, match="No concept is alive"):
                top_set(score_C, share)
            return
        chosen = top_set(score_C, share)
        assert len(chosen) == min(set_size(len(scores), share), int((~np.isnan(score_C)).sum()))
        rest = np.setdiff1d(np.flatnonzero(~np.isnan(score_C)), chosen)
        if len(rest):
            assert score_C[chosen].min() >= score_C[rest].max()
            tied = score_C[rest] == score_C[chosen].min()
            last = chosen[score_C[chosen] == score_C[chosen].min()].max()
            assert (rest[tied] > last).all()
        assert (top_set(-score_C, share, lowest=True) == chosen).all()

    def test_only_from_those_allowed(self) -> None:
        assert top_set([5.0, 4, 3], 0.5, among_C=np.array([False, True, True])).tolist() == [1, 2]
        with pytest.raises(DataError, match="No concept is alive"):
            top_set([5.0, 4], among_C=np.zeros(2, dtype=bool))
        with pytest.raises(UsageError, match="shape"):
            top_set([5.0, 4], among_C=np.ones(3, dtype=bool))

    @given(st.integers(1, 60), st.data())
    def test_expectation_is_a_jaccard(self, population: int, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(1, population), min_size=2, max_size=3))
        expected = expected_jaccard(population, *sizes)
        assert 0 <= expected <= min(sizes) / max(sizes) + 1e-12
        assert expected == pytest.approx(expected_jaccard(population, *sizes[::-1]), rel=1e-9)
        assert expected_jaccard(population, population, population, population) == pytest.approx(1)

    def test_expectation_at_the_papers_size(self) -> None:
        # E|A & B| is 328 * 328 / 32768 = 3.28 of a union of about 653.
        assert expected_jaccard(32768, 328, 328) == pytest.approx(3.2833 / 652.7, rel=5e-3)
        assert expected_jaccard(32768, 328, 328, 328) == pytest.approx(328 * 1e-4 / 974, rel=3e-2)

    def test_jaccard(self) -> None:
        assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
        assert jaccard([1, 2], [2, 3], [2, 4]) == 0.25
        with pytest.raises(UsageError, match="two sets"):
            jaccard([], [])
        with pytest.raises(UsageError, match="sizes"):
            expected_jaccard(5, 6, 1)

    def test_table_has_a_row_for_each_reduction(self) -> None:
        found = profile_codes(
            codes(40, 300, 20, 0), codes(40, 300, 20, 1), np.eye(300), [[i, i] for i in range(40)]
        )
        table = overlap_table(found)
        assert [row.reduction for row in table] == ["abs", "max", "offdiag", "sum"]
        by_sum = table[-1]
        # The signed row and column sum is the attribution itself: the paper's table cannot have used it.
        assert by_sum.attribution_bridge == 1
        assert by_sum.energy_attribution == by_sum.energy_bridge
        assert {row.size for row in table} == {3}
        assert {row.population for row in table} == {int(found.alive_C.sum())}

    def test_a_dead_concept_enters_no_set(self) -> None:
        image, text = np.zeros((2, 6)), np.zeros((2, 6))
        image[:, 5], text[:, 5] = 1.0, 1.0
        directions = -np.eye(6)
        directions[4, 4] = 9.0
        found = profile_codes(csr_array(image), csr_array(text), directions, [[0, 0]])
        assert all(chosen.tolist() == [5] for chosen in top_sets(found, share=0.5).values())


class TestCurves:
    @given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200).filter(lambda e: sum(e) > 1e-6))
    def test_a_cumulative_curve_rises_ever_slower_from_0_to_1(self, energy: list[float]) -> None:
        curve = energy_curve(energy)
        assert curve.share_X[0] == 0
        assert curve.share_X[-1] == 1
        steps = np.diff(curve.share_X)
        assert (steps >= -1e-12).all()
        assert (np.diff(steps) <= 1e-9).all()
        assert -1e-12 <= curve.gini <= 1 - 1 / len(energy) + 1e-9
        assert curve.share_X[curve.half_at] >= 0.5 > curve.share_X[curve.half_at - 1]

    def test_known_shapes(self) -> None:
        assert gini([3.0, 3, 3, 3]) == 0
        assert gini([0.0, 0, 0, 3]) == 0.75
        assert np.isnan(gini([0.0, 0.0]))
        even = energy_curve(np.ones(200))
        assert even.top_share == pytest.approx(0.01)
        assert even.half_at == 100

    def test_thinned_curves_keep_their_ends_and_their_figures(self) -> None:
        energy = np.random.default_rng(0).pareto(1.2, 5000)
        whole, thin = energy_curve(energy), energy_curve(energy, points=60)
        assert len(thin.rank_X) <= 61
        assert thin.rank_X[[0, -1]].tolist() == [0, 5000]
        assert (thin.gini, thin.top_share, thin.half_at) == (whole.gini, whole.top_share, whole.half_at)
        assert (thin.share_X == whole.share_X[thin.rank_X.astype(int)]).all()

    @pytest.mark.parametrize("energy", [[], [0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]])
    def test_energies_without_a_curve(self, energy: list[float]) -> None:
        with pytest.raises(DataError, match="energies"):
            energy_curve(energy)

    @settings(deadline=None)
    @given(
        st.lists(st.floats(0, 1), min_size=1, max_size=60),
        st.booleans(),
        st.sampled_from([None, 0.01, 0.3, 2.0]),
    )
    def test_density_integrates_to_one(
        self, scores: list[float], weighted: bool, width: float | None
    ) -> None:
        energy = np.linspace(1, 3, len(scores)) if weighted else None
        found = modality_density(
            [*scores, float("nan")], None if energy is None else [*energy, 5.0], bandwidth=width
        )
        assert (found.density_X >= 0).all()
        assert np.trapezoid(found.density_X, found.score_X) == pytest.approx(1, abs=1e-6)
        assert found.concepts == len(scores)

    def test_even_scores_are_flat_to_the_very_ends(self) -> None:
        found = modality_density(np.linspace(0, 1, 2001))
        assert np.abs(found.density_X - 1).max() < 0.02

    def test_weights_move_the_mass(self) -> None:
        score, energy = np.array([0.1] * 90 + [0.9] * 10), np.array([1.0] * 90 + [100.0] * 10)
        plain, weighted = (modality_density(score, w, bandwidth=0.05) for w in (None, energy))
        half = plain.score_X > 0.5
        assert plain.density_X[half].sum() < 0.2 * plain.density_X.sum()
        assert weighted.density_X[half].sum() > 0.8 * weighted.density_X.sum()

    def test_density_of_nothing(self) -> None:
        with pytest.raises(DataError, match="modality score"):
            modality_density([np.nan, np.nan])
        with pytest.raises(DataError, match="modality score"):
            modality_density([0.5], [0.0])
        with pytest.raises(UsageError, match="outside"):
            modality_density([1.5])
        for settings_ in ({"points": 1}, {"bandwidth": 0.0}, {"energy_C": [1.0, 2.0]}):
            with pytest.raises(UsageError, match="Scores"):
                modality_density([0.5], **settings_)  # type: ignore[arg-type]


def test_published_figures_are_figures_with_a_source() -> None:
    for row in OVERLAPS:
        assert row.triple < min(row.energy_attribution, row.energy_bridge, row.attribution_bridge) < 1
    assert {row.kind for row in OVERLAPS} == {"contrastive", "generative"}
    for row in REMOVALS:
        assert list(row.base) == sorted(row.base)
        assert all(after > before for before, after in zip(row.base, row.removal, strict=True))
    for row in POOLINGS:
        assert list(row.mean) == sorted(row.mean)
    assert all("Table" in row.source for row in (*OVERLAPS, *REMOVALS, *POOLINGS))
