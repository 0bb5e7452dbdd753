"""Laws of `fuse`, and its naive twin: the whole order written out, every order of the tied tried."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError, UsageError
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.ranking.fusion import FUSIONS, fuse, oracle
from clearsight.ranking.reorder import of_queries
from clearsight.types import Embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""
MEASURES = ("hit_rate@1", "hit_rate@3", "recall@2", "mrr", "mrr@2", "ndcg", "ndcg@3", "map", "precision@2")
SEEDS = st.integers(0, 2**32 - 1)


def coarse_of(scores_QN, k, relevance=None, pools=None):
    """A ranking whose scores are these numbers (exact in float32)."""
    scores = np.asarray(scores_QN, dtype=np.float32)
    queries = Embeddings.of([f"q{q}" for q in range(len(scores))], np.eye(len(scores)))
    candidates = Embeddings.of([f"c{c}" for c in range(scores.shape[1])], scores.T)
    return rank(queries, candidates, k, relevance=relevance, pools=pools, normalize=False)


def random_case(seed, *, levels=3, queries=4, candidates=6, missing=0.0):
    """(coarse scores, k, depth, relevance, pools, fine scores, entropies), full of ties."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (queries, candidates)).astype(float)
    k = int(random.integers(1, candidates + 1))
    depth = int(random.integers(1, k + 1))
    relevance = {
        f"q{q}": {f"c{c}": int(random.integers(1, 3)) for c in random.permutation(candidates)[:size]}
        for q, size in enumerate(random.integers(1, 4, queries))
    }
    pools = {"q1": [f"c{c}" for c in random.permutation(candidates)[: max(1, candidates - 3)]]}
    fine = random.integers(0, levels, (queries, depth)).astype(float)
    fine[random.random(fine.shape) < missing] = np.nan
    entropy = random.integers(0, 2, fine.shape).astype(float)
    return scores, k, depth, relevance, pools, fine, entropy


def naive_groups(query, ranking, scores_N, pool, fine_T, entropy_T, how, unparsed):
    """Tied candidates of one query together, best first, by plain sorting."""
    top = [(t, int(row)) for t, row in enumerate(ranking.rows_QK[query, : len(fine_T)]) if row >= 0]
    missing = [row for t, row in top if math.isnan(fine_T[t])]
    judged = [] if missing and unparsed == "coarse" else [(t, r) for t, r in top if not math.isnan(fine_T[t])]

    def mean_rank(value, values):
        above, equal = sum(v > value for v in values), sum(v == value for v in values)
        return above + (1 + equal) / 2

    def z(value, values):
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return (value - mean) / spread if spread else 0.0

    coarse_J = [scores_N[row] for _, row in judged]
    fine_J = [fine_T[t] for t, _ in judged]
    keys = {}
    for t, row in judged:
        if how == "fine":
            fused = fine_T[t]
        elif how == "zscore":
            fused = round(z(scores_N[row], coarse_J) + z(fine_T[t], fine_J), 9)
        else:
            fused = 1 / (60 + mean_rank(scores_N[row], coarse_J)) + 1 / (60 + mean_rank(fine_T[t], fine_J))
        keys[row] = (1, fused, 0.0 if entropy_T is None else -entropy_T[t])
    for row in pool:
        keys.setdefault(row, (0, scores_N[row], 0.0))
    return [
        sorted(row for row in keys if keys[row] == key) for key in sorted(set(keys.values()), reverse=True)
    ]


def naive_value(measure, groups, grades):
    """The mean of a measure over every order that the ties allow."""
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    values = [plain(measure, [grades.get(row, 0) for row in itertools.chain(*order)]) for order in orders]
    return sum(values) / len(values)


def plain(measure, gains):
    kind, _, cut = measure.partition("@")
    shown = gains[: int(cut)] if cut else gains
    hits, relevant = [i for i, g in enumerate(shown, 1) if g > 0], sum(g > 0 for g in gains)
    if kind == "hit_rate":
        return float(bool(hits))
    if kind == "recall":
        return len(hits) / relevant
    if kind == "precision":
        return len(hits) / int(cut)
    if kind == "mrr":
        return 1 / hits[0] if hits else 0.0
    if kind == "map":
        return sum(place / i for place, i in enumerate(hits, 1)) / relevant
    ideal = sorted(gains, reverse=True)[: len(shown)]
    return sum(g / math.log2(i + 1) for i, g in enumerate(shown, 1)) / sum(
        g / math.log2(i + 1) for i, g in enumerate(ideal, 1)
    )


@settings(PATIENT, max_examples=60)
@given(
    SEEDS,
    st.sampled_from(["fine", "zscore", "rrf"]),
    st.sampled_from(["coarse", "below"]),
    st.booleans(),
    st.sampled_from([0.0, 0.2, 0.6]),
)
def test_scores_are_those_of_every_order_written_out(seed, how, unparsed, broken, missing):
    scores, k, _, relevance, pools, fine, entropy = random_case(seed, missing=missing)
    coarse = coarse_of(scores, k, relevance, pools)
    entropy_QT = entropy if broken else None
    fused = fuse(coarse, fine, how=how, entropy_QT=entropy_QT, unparsed=unparsed).ranking
    judged = [q for q, name in enumerate(coarse.query_ids) if name != "q1" or relevant_in(pools, relevance)]
    got = score(fused, relevance, MEASURES, resamples=1)
    for query in judged:
        pool = [int(name[1:]) for name in pools.get(f"q{query}", [f"c{c}" for c in range(scores.shape[1])])]
        row_entropy = None if entropy_QT is None else entropy_QT[query]
        groups = naive_groups(query, coarse, scores[query], pool, fine[query], row_entropy, how, unparsed)
        grades = {int(c[1:]): g for c, g in relevance[f"q{query}"].items() if int(c[1:]) in pool}
        for measure in MEASURES:
            want = naive_value(measure, groups, grades)
            assert got[measure].values_Q[query] == pytest.approx(want, abs=1e-9), (measure, groups)
        assert_list_is(fused, query, groups)


def relevant_in(pools, relevance):
    return bool(set(pools["q1"]) & set(relevance["q1"]))


def assert_list_is(ranking, query, groups):
    """The list is the beginning of these groups, and its scores say which of them tie."""
    kept = min(ranking.rows_QK.shape[1], sum(map(len, groups)))
    rows, scores = ranking.rows_QK[query].tolist(), ranking.scores_QK[query]
    group_of = {row: place for place, group in enumerate(groups) for row in group}
    places = [group_of[row] for row in rows[:kept]]
    assert places == sorted(places)
    assert len(set(rows[:kept])) == kept
    starts = np.cumsum([0, *map(len, groups)])
    np.testing.assert_array_equal(scores[:kept], [-starts[place] for place in places])
    assert (scores[kept:] == -np.inf).all()
    assert rows[kept:] == [-1] * (len(rows) - kept)
    shown = sum(place == places[-1] for place in places)
    assert ranking.tied_out_Q[query] == len(groups[places[-1]]) - shown


@settings(PATIENT, max_examples=60)
@given(SEEDS, st.sampled_from(sorted(FUSIONS)), st.sampled_from([0.0, 0.3]))
def test_only_the_top_is_permuted(seed, how, missing):
    scores, k, depth, relevance, pools, fine, _ = random_case(seed, candidates=9, missing=missing)
    coarse = coarse_of(scores, k, relevance, pools)
    fused = fuse(coarse, fine, how=how)
    assert (np.sort(fused.ranking.rows_QK[:, :depth]) == np.sort(coarse.rows_QK[:, :depth])).all()
    np.testing.assert_array_equal(fused.ranking.rows_QK[:, depth:], coarse.rows_QK[:, depth:])
    back = fused.fell_back_Q
    np.testing.assert_array_equal(fused.ranking.rows_QK[back], coarse.rows_QK[back])
    seen = (coarse.rows_QK[:, :depth] >= 0).sum(axis=1)
    np.testing.assert_array_equal(fused.judged_Q, np.where(back, 0, seen))
    assert (back == (fused.unparsed_Q > 0)).all()
    listed = fuse(coarse_of(scores, scores.shape[1], None), np.zeros((len(scores), 1))).ranking
    assert not listed.counted
    assert len(listed.above_R) == 0


@settings(PATIENT, max_examples=40)
@given(SEEDS, st.sampled_from(["fine", "zscore", "rrf"]))
def test_a_constant_fine_score_says_nothing(seed, how):
    """Alone it makes one tie of all it saw, whose expectation is scored; fused, the coarse order stands."""
    scores, k, depth, relevance, _, fine, _ = random_case(seed)
    coarse = coarse_of(scores, k, relevance)
    both = fuse(coarse, np.full_like(fine, 0.3), how=how)
    got = score(both.ranking, relevance, ("hit_rate@1", "ndcg"), resamples=1)
    if how != "fine":
        if not both.cut_tied_Q.any():
            want = score(coarse, relevance, ("ndcg",), resamples=1)
            np.testing.assert_allclose(got["ndcg"].values_Q, want["ndcg"].values_Q, atol=1e-12)
        return
    for query in range(len(scores)):
        top = [f"c{row}" for row in coarse.rows_QK[query, :depth]]
        share = len(set(top) & set(relevance[f"q{query}"])) / depth
        assert got["hit_rate@1"].values_Q[query] == pytest.approx(share)


@settings(PATIENT, max_examples=60)
@given(SEEDS, st.sampled_from(sorted(FUSIONS)))
def test_the_oracle_bounds_every_fine_stage(seed, how):
    scores, k, depth, relevance, pools, fine, entropy = random_case(seed)
    relevance["q1"] = {pools["q1"][0]: 2}
    coarse = coarse_of(scores, k, relevance, pools)
    best = score(oracle(coarse, depth, relevance), relevance, MEASURES, resamples=1)
    got = score(fuse(coarse, fine, how=how, entropy_QT=entropy).ranking, relevance, MEASURES, resamples=1)
    for measure in MEASURES:
        assert (best[measure].values_Q >= got[measure].values_Q - 1e-12).all(), measure
    reached = [
        any(f"c{row}" in relevance[f"q{q}"] for row in coarse.rows_QK[q, :depth]) for q in range(len(scores))
    ]
    assert (best["hit_rate@1"].values_Q[reached] == 1).all()


def test_the_oracle_needs_no_grades_where_they_were_counted():
    scores, _, _, relevance, pools, _, _ = random_case(3)
    relevance = {query: dict.fromkeys(of_query, 1) for query, of_query in relevance.items()}
    coarse = coarse_of(scores, 5, relevance, pools)
    with_grades, without = oracle(coarse, 4, relevance), oracle(coarse, 4)
    np.testing.assert_array_equal(with_grades.rows_QK, without.rows_QK)
    np.testing.assert_array_equal(with_grades.above_R, without.above_R)
    with pytest.raises(DataError, match="relevant"):
        oracle(coarse_of(scores, 5), 4)


def test_a_relevant_item_beyond_the_list_is_counted_exactly():
    """Nine candidates stand before it; three of them are judged, and stay before it in any order."""
    coarse = coarse_of([np.arange(20, 0, -1)], 5, {"q0": {"c9": 1}})
    fused = fuse(coarse, [[0.1, 0.9, 0.5]]).ranking
    assert fused.above_R.tolist() == [9]
    assert fused.equal_R.tolist() == [0]
    assert fused.rows_QK.tolist() == [[1, 2, 0, 3, 4]]
    assert fused.scores_QK.tolist() == [[0, -1, -2, -3, -4]]
    assert score(fused, measures=("mrr",))["mrr"].mean == pytest.approx(0.1)


def test_an_item_tied_with_the_judged_falls_below_them():
    """Four coarse equals, two of them judged: for the relevant one among the others two places are left."""
    coarse = coarse_of([[1.0, 1.0, 1.0, 1.0, 0.0]], 5, {"q0": {"c3": 1}})
    assert (coarse.above_R.tolist(), coarse.equal_R.tolist()) == ([0], [3])
    fused = fuse(coarse, [[0.2, 0.7]])
    assert (fused.ranking.above_R.tolist(), fused.ranking.equal_R.tolist()) == ([2], [1])
    assert fused.cut_tied_Q.tolist() == [True]
    assert score(fused.ranking, measures=("hit_rate@3",))["hit_rate@3"].mean == 0.5


def test_entropy_breaks_ties_and_nothing_else():
    coarse = coarse_of([[3.0, 2.0, 1.0]], 3, {"q0": {"c1": 1}})
    fine = [[0.9, 0.9, 0.2]]
    assert fuse(coarse, fine).ranking.equal_R.tolist() == [1]
    broken = fuse(coarse, fine, entropy_QT=[[0.5, 0.1, 0.0]]).ranking
    assert broken.rows_QK.tolist() == [[1, 0, 2]]
    assert broken.equal_R.tolist() == [0]
    kept = fuse(coarse, fine, entropy_QT=[[0.1, 0.1, 0.0]]).ranking
    assert kept.equal_R.tolist() == [1]
    unsure = fuse(coarse, fine, entropy_QT=[[np.nan, 0.1, 0.0]]).ranking
    assert unsure.rows_QK.tolist() == [[1, 0, 2]]


def test_an_unparsed_answer_is_counted_and_falls_back():
    coarse = coarse_of([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], 3, {"q0": {"c2": 1}, "q1": {"c0": 1}})
    fine = np.array([[0.1, np.nan, 0.9], [0.1, 0.2, 0.9]])
    fused = fuse(coarse, fine)
    assert fused.ranking.rows_QK.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert (fused.fell_back_Q.tolist(), fused.unparsed_Q.tolist()) == ([True, False], [1, 0])
    assert fused.judged_Q.tolist() == [0, 3]
    below = fuse(coarse, fine, unparsed="below")
    assert below.ranking.rows_QK.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert (below.fell_back_Q.tolist(), below.unparsed_Q.tolist()) == ([False, False], [1, 0])


def test_orders_that_differ_in_the_last_bits_only_are_ties():
    coarse = coarse_of([[3.0, 2.0, 1.0]], 3, {"q0": {"c0": 1}})
    fused = fuse(coarse, [[0.1, 0.2, 0.30000000000000004]], how="zscore").ranking
    assert fused.equal_R.tolist() == [2]


@pytest.mark.parametrize("how", ["fine", "rrf"])
def test_infinite_scores_have_an_order(how):
    coarse = coarse_of([[3.0, 2.0, 1.0]], 3, {"q0": {"c1": 1}})
    assert fuse(coarse, [[-np.inf, np.inf, 0.0]], how=how).ranking.rows_QK[0, 0] == 1
    with pytest.raises(DataError, match="infinite"):
        fuse(coarse, [[-np.inf, np.inf, 0.0]], how="zscore")


def test_what_does_not_fit_is_refused():
    coarse = coarse_of([[3.0, 2.0, 1.0]], 2)
    with pytest.raises(DataError, match="keeps 2"):
        fuse(coarse, np.zeros((1, 3)))
    with pytest.raises(DataError, match="1 queries"):
        fuse(coarse, np.zeros((2, 2)))
    with pytest.raises(DataError, match="Entropies"):
        fuse(coarse, np.zeros((1, 2)), entropy_QT=np.zeros((1, 1)))
    with pytest.raises(UsageError, match="top is 0"):
        fuse(coarse, np.zeros((1, 0)))
    with pytest.raises(UsageError, match="zscore"):
        fuse(coarse, np.zeros((1, 2)), how="z-score")


@settings(PATIENT, max_examples=30)
@given(SEEDS)
def test_a_ranking_of_some_queries_is_that_of_these_queries(seed):
    scores, k, _, relevance, pools, _, _ = random_case(seed)
    relevance["q1"] = {pools["q1"][0]: 2}
    whole = coarse_of(scores, k, relevance, pools)
    chosen = ["q3", "q1"]
    some = of_queries(whole, chosen)
    got = score(some, relevance, MEASURES, resamples=1)
    want = score(whole, relevance, MEASURES, resamples=1)
    for measure in MEASURES:
        np.testing.assert_array_equal(got[measure].values_Q, want[measure].values_Q[[3, 1]])
    with pytest.raises(DataError, match="no such query"):
        of_queries(whole, ["q9"])
    with pytest.raises(DataError, match="twice"):
        of_queries(whole, ["q1", "q1"])
