"""Measures against trec_eval (no ties), and against every order of the tied candidates (ties)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import pytrec_eval
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearsight.metrics import paired_test, score
from clearsight.metrics.statistics import bootstrap_interval
from clearsight.ranking import rank
from clearsight.run import Run
from clearsight.types import Score
from ranking_forms import embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""

TREC_NAMES = {
    "hit_rate@1": "success_1",
    "hit_rate@5": "success_5",
    "recall@5": "recall_5",
    "recall@1000": "recall_1000",
    "precision@5": "P_5",
    "precision@100": "P_100",
    "mrr": "recip_rank",
    "ndcg": "ndcg",
    "ndcg@5": "ndcg_cut_5",
    "ndcg@100": "ndcg_cut_100",
    "map": "map",
    "map@5": "map_cut_5",
}


def random_task(seed, queries=30, candidates=60):
    random = np.random.default_rng(seed)
    relevance = {}
    for q in range(queries):
        judged = random.choice(candidates, random.integers(1, 25), replace=False)
        relevance[f"q{q}"] = {f"c{c}": int(random.integers(0, 4)) for c in judged}
        relevance[f"q{q}"][f"c{judged[0]}"] = 1
    left, right = random.normal(size=(queries, 8)), random.normal(size=(candidates, 8))
    return embeddings(left, "q"), embeddings(right, "c"), relevance


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("counted", [True, False])
def test_equals_trec_eval_without_ties(seed, counted):
    queries, candidates, relevance = random_task(seed)
    ranking = rank(queries, candidates, 60, relevance=relevance if counted else None)
    run = {
        query: {f"c{c}": float(s) for c, s in zip(ranking.rows_QK[q], ranking.scores_QK[q], strict=True)}
        for q, query in enumerate(queries.ids)
    }
    expected = pytrec_eval.RelevanceEvaluator(relevance, set(TREC_NAMES.values())).evaluate(run)
    scores = score(ranking, relevance, tuple(TREC_NAMES), resamples=10)
    for ours, theirs in TREC_NAMES.items():
        values = [expected[query][theirs] for query in queries.ids]
        np.testing.assert_allclose(scores[ours].values_Q, values, rtol=1e-12, atol=1e-15, err_msg=ours)
        assert scores[ours].optimistic == scores[ours].mean == scores[ours].pessimistic
        assert scores[ours].tie_rate == 0


def test_trec_eval_rescores_what_a_run_wrote(tmp_path):
    queries, candidates, relevance = random_task(5)
    ranking = rank(queries, candidates, 10, relevance=relevance)
    with Run.create(tmp_path / "run", "test", {}) as run:
        trec, qrels = run.write_ranking("rankings/a.trec", ranking), run.write_qrels("qrels.trec", relevance)
    with trec.open() as ranked, qrels.open() as judged:
        evaluator = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(judged), {"ndcg_cut_10", "map_cut_10"}
        )
        expected = evaluator.evaluate(pytrec_eval.parse_run(ranked))
    scores = score(ranking, relevance, ("ndcg@10", "map@10"), resamples=10)
    for ours, theirs in (("ndcg@10", "ndcg_cut_10"), ("map@10", "map_cut_10")):
        np.testing.assert_allclose(
            scores[ours].values_Q, [expected[q][theirs] for q in queries.ids], rtol=1e-12
        )


def plain_measure(kind, cut, grades_in_order):
    """The measure of one strict order, from its definition."""
    cut = cut or len(grades_in_order)
    top, relevant = grades_in_order[:cut], sum(g > 0 for g in grades_in_order)
    ranks = [i + 1 for i, g in enumerate(top) if g > 0]
    match kind:
        case "hit_rate":
            return float(bool(ranks))
        case "recall":
            return len(ranks) / relevant
        case "precision":
            return len(ranks) / cut
        case "mrr":
            return 1 / ranks[0] if ranks else 0.0
        case "map":
            return sum((i + 1) / rank for i, rank in enumerate(ranks)) / relevant
        case "ndcg":
            ideal = sorted(grades_in_order, reverse=True)[:cut]

            def gain(grades):
                return sum(g / math.log2(i + 2) for i, g in enumerate(grades))

            return gain(top) / gain(ideal)


def every_order(scores, grades):
    """All orders of the candidates that agree with the scores."""
    groups = [
        [g for s, g in zip(scores, grades, strict=True) if s == level] for level in sorted(set(scores))[::-1]
    ]
    for order in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [g for group in order for g in group]


@settings(PATIENT, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6),
    st.sampled_from(["hit_rate", "recall", "precision", "mrr", "map", "ndcg"]),
    st.integers(1, 8),
    st.booleans(),
)
def test_ties_give_the_mean_over_all_orders(candidates, kind, cut, with_cut):
    levels, grades = zip(*candidates, strict=True)
    if not any(grades):
        grades = (1, *grades[1:])
    cut = cut if with_cut or kind in ("hit_rate", "recall", "precision") else None
    name = f"{kind}@{cut}" if cut else kind
    angles = np.array([[1, 0], [1, 1], [0, 1]])
    relevance = {"q0": {f"c{i}": g for i, g in enumerate(grades)}}
    ranking = rank(
        embeddings([[0.2, 1.0]], "q"), embeddings(angles[list(levels)], "c"), 3, relevance=relevance
    )
    found = score(ranking, relevance, (name,), resamples=5)[name]
    values = [plain_measure(kind, cut, order) for order in every_order(levels, grades)]
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.optimistic == pytest.approx(max(values), abs=1e-12)
    assert found.pessimistic == pytest.approx(min(values), abs=1e-12)
    shuffled = [plain_measure(kind, cut, order) for order in itertools.permutations(grades)]
    assert found.chance == pytest.approx(np.mean(shuffled), abs=1e-12)
    assert found.tie_rate == float(any(levels.count(s) > 1 for s, g in zip(levels, grades, strict=True) if g))


def as_score(values):
    values = np.asarray(values, dtype=np.float64)
    return Score("m", values, float(np.nanmean(values)), 0, 0, 0, 0, len(values), 0, 0)


@pytest.mark.parametrize("kind", ["few", "many", "binary"])
def test_paired_test_equals_scipy(kind):
    random = np.random.default_rng(3)
    size = 9 if kind == "few" else 60
    a, b = random.random(size) + 0.05, random.random(size)
    if kind == "binary":
        a, b = (a > 0.4).astype(float), (b > 0.6).astype(float)
    ours = paired_test(as_score(a), as_score(b), resamples=20_000, seed=1)
    theirs = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    )
    assert ours.difference == pytest.approx(theirs.statistic, abs=1e-15)
    # Exact below 2^9 sign patterns; else both are draws of 20,000: within 5 standard errors of each other.
    error = 0 if kind == "few" else 5 * math.sqrt(2 * theirs.pvalue * (1 - theirs.pvalue) / 20_000) + 1e-4
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12 + error)


@pytest.mark.parametrize("binary", [True, False])
def test_bootstrap_equals_scipy(binary):
    values = np.random.default_rng(0).random(400)
    values = (values > 0.7).astype(float) if binary else values
    low, high = bootstrap_interval(values, confidence=0.9, resamples=4000, seed=0)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    spread = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(theirs.low, abs=0.15 * spread)
    assert high == pytest.approx(theirs.high, abs=0.15 * spread)
