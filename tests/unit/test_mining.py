"""Laws of mining: what holds of every cluster, whatever the data; baselines; bad input; searches."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import DataError, UsageError
from clearsight.mining import (
    STRATEGIES,
    Clusters,
    ExactSearch,
    Mining,
    OnlineNegatives,
    TrainingPairs,
    mine_pairs,
    open_search,
)
from clearsight.mining.found import name_clusters
from clearsight.mining.parts import join_clusters
from clearsight.mining.quality import quality
from clearsight.types import Embeddings, Item, Task


def mining_of(task: Task, seed: int = 0, width: int = 4, **options) -> Mining:
    """Random vectors; items of one content (text) have one vector, as an encoder would give."""
    rng = np.random.default_rng(seed)
    of_text: dict[str | None, np.ndarray] = {}

    def rows(items):
        vectors = [of_text.setdefault(i.text, rng.standard_normal(width).astype(np.float32)) for i in items]
        return np.stack(vectors)

    pairs = TrainingPairs.of(
        task,
        query_content=[item.text for item in task.queries],
        candidate_content=[item.text for item in task.candidates],
    )
    queries = Embeddings.of([i.id for i in task.queries], rows(task.queries), side="query")
    candidates = Embeddings.of([i.id for i in task.candidates], rows(task.candidates)).take(pairs.distinct)
    return Mining(pairs, queries, candidates, lambda: ExactSearch(candidates), **options)


def clusters_of(strategy: str, mining: Mining) -> Clusters:
    return name_clusters([(mining.pairs, mine_pairs(strategy, mining))])


@st.composite
def tasks(draw) -> Task:
    """Few texts, so that queries and candidates repeat; several positives, some queries without any."""
    queries = draw(st.integers(2, 24))
    candidates = draw(st.integers(2, 24))
    texts = [draw(st.integers(0, 12)) for _ in range(queries + candidates)]
    relevance = {
        f"q{i}": dict.fromkeys(
            (f"c{c}" for c in draw(st.lists(st.integers(0, candidates - 1), max_size=3, unique=True))), 1.0
        )
        for i in range(queries)
    }
    excluded = {"q0": [f"c{draw(st.integers(0, candidates - 1))}"]} if draw(st.booleans()) else {}
    return Task(
        "set",
        tuple(Item(f"q{i}", text=f"query {texts[i]}") for i in range(queries)),
        tuple(Item(f"c{i}", text=f"candidate {texts[queries + i]}") for i in range(candidates)),
        relevance,
        excluded=excluded,
    )


@settings(max_examples=60, deadline=None)
@given(task=tasks(), seed=st.integers(0, 3), negatives=st.integers(1, 4), pool=st.integers(1, 3))
@pytest.mark.parametrize("strategy", ["saha", "saha_whole", "saha_release"])
def test_what_holds_of_every_cluster(strategy, task, seed, negatives, pool):
    try:
        mining = mining_of(task, seed, negatives=negatives, pool=pool)
        clusters = clusters_of(strategy, mining)
    except DataError:  # no pair, one query, one positive: refused, see below
        return
    text = {item.id: item.text for item in (*task.queries, *task.candidates)}
    right: dict[str, set[str]] = {}
    for query, grades in task.relevance.items():
        right.setdefault(text[query], set()).update(text[name] for name in grades)
    taken: dict[int, list[str]] = {1: [], 2: []}
    for members, phase in zip(clusters, clusters.phase_G.tolist(), strict=True):
        anchor, *negatives_of = members
        assert 1 <= len(negatives_of) <= negatives
        assert anchor.query not in [m.query for m in negatives_of]
        assert all(m.positive in task.relevance[m.query] for m in members)
        wrong = right[text[anchor.query]] | {text[c] for c in task.excluded.get(anchor.query, ())}
        assert not wrong & {text[m.positive] for m in negatives_of}
        assert len({text[m.positive] for m in negatives_of}) == len(negatives_of)
        cosines = [m.similarity for m in negatives_of]
        assert cosines == sorted(cosines)
        taken[phase] += [m.query for m in members]
    assert len(taken[1]) == len(set(taken[1]))  # phase 1 clusters do not overlap
    left = [one.query for one in clusters.left_over]
    assert sorted({*taken[1], *taken[2], *left}) == sorted(item.id for item in task.queries)
    assert not {*left} & {*taken[1], *taken[2]}
    anchors = [members[0].query for members in clusters]
    assert len(anchors) == len(set(anchors))


def pairs_task(count: int, name: str = "set") -> Task:
    return Task(
        name,
        tuple(Item(f"q{i}", text=f"query {i}") for i in range(count)),
        tuple(Item(f"c{i}", text=f"candidate {i}") for i in range(count)),
        {f"q{i}": {f"c{i}": 1.0} for i in range(count)},
    )


def test_fewer_owners_than_negatives_give_a_smaller_cluster():
    clusters = clusters_of("saha", mining_of(pairs_task(4), negatives=7, pool=4))
    assert clusters.sizes_G.tolist() == [4]
    assert not clusters.left_over


def test_queries_without_positives_are_named():
    task = pairs_task(6)
    some = Task("set", task.queries, task.candidates, {q: g for q, g in task.relevance.items() if q != "q2"})
    for strategy in STRATEGIES:
        clusters = clusters_of(strategy, mining_of(some, negatives=2))
        assert ("q2", "no positive") in [(one.query, one.reason) for one in clusters.left_over]
        assert "q2" not in {m.query for members in clusters for m in members}


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_data_without_negatives_is_refused(strategy):
    one = pairs_task(3)
    with pytest.raises(DataError, match="Only one query has a positive"):
        mine_pairs(strategy, mining_of(Task("set", one.queries, one.candidates, {"q1": {"c1": 1.0}})))
    alike = Task(
        "set",
        one.queries,
        tuple(Item(f"c{i}", text="the same") for i in range(3)),
        {f"q{i}": {f"c{i}": 1.0} for i in range(3)},
    )
    with pytest.raises(DataError, match="All 3 queries have the same positive") as refused:
        mine_pairs(strategy, mining_of(alike))
    assert "c0" in refused.value.where
    with pytest.raises(DataError, match="No query has a positive"):
        TrainingPairs.of(Task("set", one.queries, one.candidates, {"q1": {"c1": 0.0}}))
    with pytest.raises(DataError, match="pool"):
        TrainingPairs.of(
            Task("set", one.queries, one.candidates, {"q1": {"c1": 1.0}}, pools={"q1": ["c1", "c2"]})
        )


def test_wrong_settings_are_refused():
    mining = mining_of(pairs_task(4), negatives=0)
    with pytest.raises(UsageError, match="0 negatives"):
        mine_pairs("saha", mining)
    with pytest.raises(UsageError, match="Did you mean 'saha'"):
        mine_pairs("sahaa", mining_of(pairs_task(4)))
    with pytest.raises(UsageError, match="no search 'fast'"):
        open_search("fast", mining.candidates)
    short = mining_of(pairs_task(4))
    with pytest.raises(DataError, match="3 vectors for 4 queries"):
        mine_pairs("saha", Mining(short.pairs, short.queries.take([0, 1, 2]), short.candidates, short.search))


def test_random_batches_hold_every_query_once_and_follow_the_seed():
    mining = mining_of(pairs_task(21), negatives=3, seed=1)
    clusters = clusters_of("in_batch", mining)
    assert clusters.sizes_G.tolist() == [4, 4, 4, 4, 4, 1]
    assert sorted(m.query for members in clusters for m in members) == sorted(mining.pairs.query_ids)
    again, other = (clusters_of("in_batch", mining_of(pairs_task(21), negatives=3, seed=s)) for s in (1, 2))
    assert list(again) == list(clusters)
    assert list(other) != list(clusters)


def test_hard_negatives_stand_alone_and_beta_passes_over_the_too_near():
    task = pairs_task(12)
    mining = mining_of(task, negatives=3, beta=-0.1)
    hard, below = clusters_of("hard", mining), clusters_of("hard_beta", mining)
    assert all(m.query is None for members in hard for m in members[1:])
    assert [members[0].query for members in hard] == [item.id for item in task.queries]
    score = {
        (q, c): float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
        for q, a in zip(mining.queries.ids, mining.queries.rows_ND, strict=True)
        for c, b in zip(mining.candidates.ids, mining.candidates.rows_ND, strict=True)
    }
    for members in below:
        anchor = members[0]
        assert all(
            score[anchor.query, m.positive] <= score[anchor.query, anchor.positive] - 0.1 + 1e-6
            for m in members[1:]
        )
    named = {members[0].query for members in below} | {one.query for one in below.left_over}
    assert named == {item.id for item in task.queries}


def test_online_negatives_are_searched_again_when_they_are_stale():
    mining = mining_of(pairs_task(20), negatives=3)
    online = OnlineNegatives(mining.pairs, negatives=3, interval=5)
    assert online.stale(0)
    with pytest.raises(UsageError, match="refresh"):
        online.find(mining.queries.take([0]), np.array([0]))
    online.refresh(0, mining.candidates)
    assert [online.stale(step) for step in (1, 4, 5)] == [False, False, True]
    at_B = np.array([3, 7])
    found = online.find(mining.queries.take(at_B), at_B)
    offline = clusters_of("hard", mining)
    for row, query in zip(found.row_BK, at_B.tolist(), strict=True):
        assert [f"c{r}" for r in row] == [m.positive for m in offline[query][:0:-1]]
    moved = Embeddings.of(mining.candidates.ids, np.roll(mining.candidates.rows_ND, 1, axis=0))
    online.refresh(5, moved)
    assert not np.array_equal(online.find(mining.queries.take(at_B), at_B).row_BK, found.row_BK)
    with pytest.raises(UsageError, match="1 vectors for 20"):
        online.refresh(6, mining.candidates.take([0]))
    with pytest.raises(UsageError, match="every 0 steps"):
        OnlineNegatives(mining.pairs, interval=0)


def test_an_approximate_search_says_how_good_it_is():
    pytest.importorskip("faiss")
    rows = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    candidates = Embeddings.of([f"c{i}" for i in range(600)], rows)
    search = open_search("approximate", candidates, seed=3)
    exact = ExactSearch(candidates).nearest(candidates, 10)[0]
    near, score = search.nearest(candidates, 10)
    measured = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(exact, near, strict=True)])
    assert search.facts["recall@10"] == pytest.approx(measured, abs=0.1)
    assert (np.diff(score, axis=1) <= 0).all()
    task = pairs_task(60)
    mining = mining_of(task, width=8)
    every = Mining(
        mining.pairs, mining.queries, mining.candidates, lambda: open_search("approximate", mining.candidates)
    )
    clusters = clusters_of("saha", every)
    assert {m.query for members in clusters for m in members} | {one.query for one in clusters.left_over} == {
        item.id for item in task.queries
    }


def test_without_faiss_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match="faiss"):
        open_search("approximate", mining_of(pairs_task(3)).candidates)


def test_parts_are_joined_in_order():
    first = clusters_of("saha", mining_of(pairs_task(9, "a"), negatives=2))
    second = clusters_of("hard", mining_of(pairs_task(5, "b"), negatives=2))
    both = join_clusters([first, second])
    assert list(both) == [*first, *second]
    assert both.dataset_G == ("a",) * len(first) + ("b",) * len(second)
    assert both.left_over == first.left_over + second.left_over


def test_false_negatives_are_counted_against_the_truth():
    """Against counting by hand over the named clusters."""
    mining = mining_of(pairs_task(30), negatives=3)

    def judge(query: int, candidate: int) -> bool:
        return query % 5 == candidate % 5

    for strategy in STRATEGIES:
        found = mine_pairs(strategy, mining)
        measured = quality(mining.pairs, found, mining.queries, mining.candidates, judge)
        clusters = name_clusters([(mining.pairs, found)])
        shares, pairs, cosines = [], [], []
        for members in clusters:
            rows = [(m.query and int(m.query[1:]), int(m.positive[1:])) for m in members]
            wrong = [judge(rows[0][0], c) for _, c in rows[1:]]
            if wrong:
                shares.append(np.mean(wrong))
            pairs += [
                judge(q, c)
                for i, (q, _) in enumerate(rows)
                if q is not None
                for j, (_, c) in enumerate(rows)
                if i != j
            ]
            unit = mining.queries.rows_ND[rows[0][0]] / np.linalg.norm(mining.queries.rows_ND[rows[0][0]])
            cosines += [unit @ (v := mining.candidates.rows_ND[c]) / np.linalg.norm(v) for _, c in rows[1:]]
        assert measured.false_negatives == pytest.approx(np.mean(shares))
        assert measured.false_pairs == pytest.approx(np.mean(pairs))
        assert measured.cosine == pytest.approx(np.mean(cosines), abs=1e-6)
        assert measured.low <= measured.false_negatives <= measured.high
        assert measured.clusters == len(clusters)
        assert quality(mining.pairs, found, mining.queries, mining.candidates).false_negatives is None
