"""Laws of `score` and `paired_test`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError, UsageError
from clearsight.metrics import paired_test, score
from clearsight.ranking import rank
from clearsight.types import Score
from ranking_forms import embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""

ALL = (
    "hit_rate@1",
    "hit_rate@3",
    "recall@3",
    "precision@3",
    "mrr",
    "mrr@3",
    "ndcg",
    "ndcg@3",
    "map",
    "map@3",
)


def diagonal(size):
    return {f"q{i}": {f"c{i}": 1} for i in range(size)}


def test_a_collapsed_encoder_scores_chance():
    ranking = rank(embeddings(np.ones((8, 3)), "q"), embeddings(np.ones((50, 3)), "c"), relevance=diagonal(8))
    for name, found in score(ranking, measures=ALL).items():
        assert found.mean == pytest.approx(found.chance, abs=1e-15), name
        assert found.tie_rate == 1
        assert found.pessimistic < found.mean < found.optimistic
    assert score(ranking)["hit_rate@10"].mean == pytest.approx(10 / 50)


def test_a_perfect_ranking_scores_exactly_one():
    ranking = rank(embeddings(np.eye(6), "q"), embeddings(np.eye(6), "c"), relevance=diagonal(6))
    for name, found in score(ranking, measures=ALL).items():
        assert found.mean == (1 / 3 if name == "precision@3" else 1.0), name
        assert found.low == found.high == found.mean


@settings(PATIENT, max_examples=30)
@given(st.integers(0, 2**32))
def test_bounds_order_and_range(seed):
    random = np.random.default_rng(seed)
    left, right = random.integers(-1, 2, (9, 2)), random.integers(-1, 2, (12, 2))
    relevance = {
        f"q{i}": {f"c{c}": int(random.integers(1, 4)) for c in random.choice(12, 3)} for i in range(7)
    }
    ranking = rank(embeddings(left, "q"), embeddings(right, "c"), relevance=relevance)
    for name, found in score(ranking, relevance, ALL, resamples=50).items():
        assert 0 <= found.pessimistic <= found.mean + 1e-12 <= found.optimistic + 2e-12 <= 1 + 3e-12, name
        assert 0 <= found.low <= found.high <= 1 + 1e-12
        assert 0 < found.chance < 1
        assert found.judged == 7
        assert np.isnan(found.values_Q[7:]).all()
        assert np.nanmean(found.values_Q) == pytest.approx(found.mean)


def test_strict_counts_unjudged_queries_as_misses():
    ranking = rank(embeddings(np.eye(4), "q"), embeddings(np.eye(4), "c"), relevance=diagonal(2))
    loose, strict = score(ranking)["hit_rate@1"], score(ranking, strict=True)["hit_rate@1"]
    assert (loose.mean, loose.judged) == (1.0, 2)
    assert (strict.mean, strict.judged) == (0.5, 4)
    assert strict.values_Q.tolist() == [1, 1, 0, 0]
    assert strict.chance == loose.chance / 2


def test_a_group_counts_only_if_every_member_does():
    left = np.eye(6)[[0, 1, 2, 5, 4, 5]]
    groups = {"q0": "a", "q2": "b", "q1": "a", "q3": "b"}
    ranking = rank(embeddings(left, "q"), embeddings(np.eye(6), "c"), relevance=diagonal(5))
    found = score(ranking, measures=("hit_rate@1",), groups=groups)["hit_rate@1"]
    # units in order of appearance: a (hit, hit), b (hit, miss), q4 (hit), q5 (not judged)
    np.testing.assert_array_equal(found.values_Q, [1, 0, 1, np.nan])
    assert found.judged == 3
    assert found.chance == pytest.approx((2 / 36 + 1 / 6) / 3)


def test_members_of_a_group_are_independent_under_ties():
    pools = {"q0": ["c0", "c1"], "q1": ["c1", "c2"]}
    ranking = rank(
        embeddings(np.ones((2, 2)), "q"), embeddings(np.ones((3, 2)), "c"), relevance=diagonal(2), pools=pools
    )
    found = score(ranking, measures=("hit_rate@1",), groups={"q0": "g", "q1": "g"})["hit_rate@1"]
    assert (found.mean, found.optimistic, found.pessimistic, found.chance) == (0.25, 1.0, 0.0, 0.25)


def test_an_uncounted_list_gives_the_same_while_it_can():
    random = np.random.default_rng(1)
    left, right = embeddings(random.normal(size=(20, 6)), "q"), embeddings(random.normal(size=(40, 6)), "c")
    relevance = {f"q{i}": {f"c{i}": 1, f"c{i + 9}": 2} for i in range(20)}
    counted, listed = rank(left, right, 10, relevance=relevance), rank(left, right, 10)
    names = ("hit_rate@5", "ndcg@10", "map@10", "recall@10", "mrr@10")
    ours, theirs = (score(r, relevance, names, resamples=20) for r in (listed, counted))
    for name in names:
        np.testing.assert_array_equal(ours[name].values_Q, theirs[name].values_Q)
        assert ours[name].chance == theirs[name].chance
    for name in ("mrr", "hit_rate@11"):
        with pytest.raises(UsageError, match="beyond the 10 ranks"):
            score(listed, relevance, (name,))
    with pytest.raises(DataError, match="Nothing says"):
        score(listed)


def test_an_uncounted_list_with_ties_across_its_end_is_refused():
    ranking = rank(embeddings([[1, 0]], "q"), embeddings(np.ones((4, 2)), "c"), 2)
    with pytest.raises(DataError, match="Pass relevance to rank"):
        score(ranking, diagonal(1))


def test_an_uncounted_list_of_pools_is_refused_unless_whole():
    left, right = embeddings(np.eye(3), "q"), embeddings(np.eye(3), "c")
    with pytest.raises(DataError, match="keep as many ranks"):
        score(rank(left, right, 1, excluded={"q0": ["c1"]}), diagonal(3), ("hit_rate@1",))
    found = score(rank(left, right, 3, excluded={"q0": ["c0"]}), diagonal(3), ("hit_rate@1",))["hit_rate@1"]
    assert (found.judged, found.mean) == (2, 1.0)


@pytest.mark.parametrize(
    ("measures", "says"),
    [(("hit_rate",), "no cut-off"), (("recall@0",), "no cut-off"), (("ndgc@10",), "Did you mean 'ndcg'")],
)
def test_unknown_measures_are_refused(measures, says):
    ranking = rank(embeddings(np.eye(2), "q"), embeddings(np.eye(2), "c"), relevance=diagonal(2))
    with pytest.raises(UsageError, match=says):
        score(ranking, measures=measures)


def test_other_refusals():
    left, right = embeddings(np.eye(2), "q"), embeddings(np.eye(2), "c")
    ranking = rank(left, right, relevance=diagonal(2))
    with pytest.raises(DataError, match="another relevance"):
        score(ranking, diagonal(1))
    with pytest.raises(DataError, match="unknown query"):
        score(ranking, groups={"nobody": "g"})
    with pytest.raises(DataError, match="No query has a relevant"):
        score(rank(left, right, relevance={"q0": {"c0": 0}}))
    with pytest.raises(UsageError, match="confidence"):
        score(ranking, confidence=95)


def as_score(values, measure="m"):
    return Score(measure, np.asarray(values, dtype=np.float64), 0, 0, 0, 0, 0, len(values), 0, 0)


def test_paired_test_is_exact_for_few_and_never_zero_for_many():
    few = paired_test(as_score([1, 1, 1, 1, 0]), as_score([0, 0, 0, 0, 0]))
    assert few.p_value == 2 / 2**4
    many = paired_test(as_score(np.ones(500)), as_score(np.zeros(500)), resamples=999)
    assert many.p_value == 1 / 1000
    assert paired_test(as_score([1, 0]), as_score([1, 0])).p_value == 1.0


def test_paired_test_of_equal_laws_is_uniform():
    random = np.random.default_rng(0)
    p = [
        paired_test(as_score(random.random(30)), as_score(random.random(30)), resamples=200, seed=i).p_value
        for i in range(300)
    ]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_paired_test_leaves_out_what_is_not_judged_in_both():
    test = paired_test(as_score([1, np.nan, 1]), as_score([0, 0, np.nan]))
    assert (test.n, test.difference) == (1, 1.0)
    with pytest.raises(DataError, match="No query is judged"):
        paired_test(as_score([np.nan]), as_score([1]))
    with pytest.raises(DataError, match="cannot be paired"):
        paired_test(as_score([1, 0]), as_score([1]))
    with pytest.raises(DataError, match="cannot be paired"):
        paired_test(as_score([1], "a"), as_score([1], "b"))
