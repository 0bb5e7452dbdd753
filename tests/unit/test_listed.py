"""A ranking read from lists equals the one that wrote them, as far as they go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.ranking.listed import of_lists
from clearsight.run import Run
from clearsight.types import Embeddings, Item, Task

MEASURES = ("hit_rate@1", "hit_rate@3", "recall@3", "ndcg@3", "mrr@3", "map")


def case(seed, keep, levels=1000):
    random = np.random.default_rng(seed)
    scores_QC = random.integers(0, levels, (4, 7)).astype(np.float32)
    queries = tuple(Item(f"q {i}", text="q") for i in range(4))
    candidates = tuple(Item(f"c%{i}", text="c") for i in range(7))
    relevance = {
        q.id: {candidates[c].id: float(random.integers(0, 3)) for c in random.permutation(7)[:3]}
        for q in queries
    }
    pools = {"q 1": [c.id for c in candidates[:4]]}
    for q, members in pools.items():
        relevance[q] = {c: g for c, g in relevance[q].items() if c in members}
    task = Task("t", queries, candidates, relevance, pools, {"q 2": ["c%0"]})
    relevance["q 2"].pop("c%0", None)
    sides = (
        Embeddings.of([q.id for q in queries], np.eye(4)),
        Embeddings.of([c.id for c in candidates], scores_QC.T),
    )
    ranking = rank(*sides, keep, relevance=relevance, pools=pools, excluded=task.excluded, normalize=False)
    return task, ranking


def lists_of(ranking):
    return {
        name: {
            ranking.candidate_ids[row]: float(value)
            for row, value in zip(ranking.rows_QK[q], ranking.scores_QK[q], strict=True)
            if row >= 0
        }
        for q, name in enumerate(ranking.query_ids)
    }


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 1000]))
def test_whole_lists_give_the_whole_ranking(seed, levels):
    task, ranking = case(seed, 7, levels)
    again = of_lists(lists_of(ranking), task)
    for name in ranking.__slots__:
        before, after = getattr(ranking, name), getattr(again, name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(after, before, err_msg=name)
        else:
            assert tuple(before) == tuple(after) if name.endswith("_ids") else before == after


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_short_lists_give_the_same_measures_down_to_their_end(seed):
    task, ranking = case(seed, 3, 10**6)
    again = of_lists(lists_of(ranking), task)
    before = score(ranking, task.relevance, MEASURES[:-1])
    after = score(again, task.relevance, MEASURES[:-1])
    for measure in before:
        np.testing.assert_allclose(after[measure].values_Q, before[measure].values_Q, err_msg=measure)
    deep = score(again, task.relevance, ["map"])["map"].mean
    assert deep <= score(ranking, task.relevance, ["map"])["map"].mean + 1e-12


def test_through_a_trec_file(tmp_path):
    task, ranking = case(3, 5)
    with Run.create(tmp_path / "run", "test", {}) as run:
        run.write_ranking("rankings/a.trec", ranking)
    again = of_lists(Run.open(tmp_path / "run").read_trec("rankings/a.trec"), task)
    np.testing.assert_array_equal(again.rows_QK, ranking.rows_QK)
    np.testing.assert_array_equal(again.scores_QK, ranking.scores_QK)


def test_bad_lists_are_told():
    task, ranking = case(0, 7)
    lists = lists_of(ranking)
    with pytest.raises(DataError, match="empty"):
        of_lists({}, task)
    with pytest.raises(DataError, match="another task"):
        of_lists({"other": {"c%1": 1.0}}, task)
    with pytest.raises(DataError, match="1 of 5 query ids"):
        of_lists({**lists, "other": {"c%1": 1.0}}, task)
    with pytest.raises(DataError, match="1 of 8 candidate ids"):
        of_lists({**lists, "q 0": {**lists["q 0"], "c9": 1.0}}, task)
    with pytest.raises(DataError, match="no finite number"):
        of_lists({"q 0": {"c%1": float("nan")}}, task)
    for query, stray in (("q 1", "c%5"), ("q 2", "c%0")):
        with pytest.raises(DataError, match="not in the query's pool"):
            of_lists({query: {stray: 1.0}}, task)
