"""The reranker on rankings: order, counts, ties, bad input, what is kept, what is skipped."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clearsight.data import world
from clearsight.errors import DataError, ItemError, UsageError
from clearsight.metrics import score
from clearsight.models.load import load_model
from clearsight.models.retrace import ENHANCEMENTS
from clearsight.ranking import rank
from clearsight.ranking.fusion import oracle
from clearsight.rerank import SCORERS, Reranker, chosen_positions, empty_query_scores, label_orders
from clearsight.types import Embeddings, Item, Task

N, KEEP = 6, 4
TASKS = {"t2i": world.text_to_image(N, seed=5), "i2t": world.image_to_text(N, seed=5)}


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", head=True)


def coarse_of(task, keep=KEEP, seed=0):
    random = np.random.default_rng(seed)
    sides = [
        Embeddings.of([i.id for i in s], random.normal(size=(len(s), 8)))
        for s in (task.queries, task.candidates)
    ]
    return rank(*sides, keep, relevance=task.relevance)


class Told:
    """A scorer that is told what to say: NaN for a query that it does not know."""

    def __init__(self, table):
        self.table = table

    def score(self, query, candidates):
        return np.array([self.table.get((query.id, c.id), np.nan) for c in candidates])


def random_table(task, levels, seed=0):
    random = np.random.default_rng(seed)
    pairs = itertools.product(task.queries, task.candidates)
    return {(q.id, c.id): float(random.integers(0, levels)) for q, c in pairs}


def kept_judge(loaded, folder, scorer="likelihood", **options):
    return Reranker.load(loaded, scorer=scorer, cache=folder, **options)


# ------------------------------------------------------------------------------------------------- the order
@pytest.mark.parametrize("levels", [2, 1000])
@pytest.mark.parametrize("top", [1, 2, 4])
def test_the_order_is_the_one_sorted_by_hand(top, levels):
    task, table = TASKS["t2i"], random_table(TASKS["t2i"], levels)
    coarse = coarse_of(task)
    done = Reranker(Told(table)).rerank(task, coarse, top=top)
    assert done.fine_QT.shape == (N, top)
    for q, name in enumerate(coarse.query_ids):
        before = [coarse.candidate_ids[row] for row in coarse.rows_QK[q]]
        judged = {c: table[name, c] for c in before[:top]}
        place = {c: i for i, c in enumerate(coarse.candidate_ids)}
        expected = sorted(judged, key=lambda c: (-judged[c], place[c])) + before[top:]
        assert [coarse.candidate_ids[row] for row in done.ranking.rows_QK[q]] == expected
    assert done.scored == N * top
    assert (done.asked, done.unparsed, done.fell_back, done.questions) == (0, 0, (), 0)


def test_a_perfect_judge_reaches_the_bound_and_ties_count_by_chance():
    task, coarse = TASKS["i2t"], coarse_of(TASKS["i2t"])
    right = {(q, c): 1.0 for q, grades in task.relevance.items() for c in grades}
    everything = {pair: right.get(pair, 0.0) for pair in random_table(task, 1)}
    done = Reranker(Told(everything)).rerank(task, coarse, top=KEEP)
    bound = oracle(coarse, KEEP, task.relevance)
    for measure in ("hit_rate@1", "mrr", "ndcg@3"):
        assert (
            score(done.ranking, task.relevance, [measure])[measure].mean
            == score(bound, task.relevance, [measure])[measure].mean
        )
    flat = Reranker(Told(dict.fromkeys(everything, 1.0))).rerank(task, coarse, top=KEEP)
    first = score(flat.ranking, task.relevance, ["hit_rate@1"])["hit_rate@1"]
    among = [
        coarse.candidate_ids.index(next(iter(task.relevance[q]))) in coarse.rows_QK[i]
        for i, q in enumerate(coarse.query_ids)
    ]
    assert first.mean == pytest.approx(np.mean(among) / KEEP)


def test_some_queries_alone_and_in_their_own_order():
    task, table = TASKS["t2i"], random_table(TASKS["t2i"], 1000)
    coarse, reranker = coarse_of(task), Reranker(Told(table))
    whole = reranker.rerank(task, coarse, top=3)
    names = [coarse.query_ids[4], coarse.query_ids[1]]
    some = reranker.rerank(task, coarse, top=3, queries=names)
    assert some.ranking.query_ids == tuple(names)
    np.testing.assert_array_equal(some.ranking.rows_QK, whole.ranking.rows_QK[[4, 1]])
    np.testing.assert_array_equal(some.fine_QT, whole.fine_QT[[4, 1]])


@pytest.mark.parametrize("fuse", ["zscore", "rrf"])
def test_fused_scores_stand_between_coarse_and_fine(fuse):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])
    # The fine score says the contrary of the coarse one: together they say nothing, or both count.
    table = {
        (name, coarse.candidate_ids[row]): -float(value)
        for q, name in enumerate(coarse.query_ids)
        for row, value in zip(coarse.rows_QK[q], coarse.scores_QK[q], strict=True)
    }
    done = Reranker(Told(table)).rerank(task, coarse, top=KEEP, fuse=fuse)
    if fuse == "zscore":
        assert (done.ranking.scores_QK == 0).all()
    else:
        assert (done.ranking.scores_QK[:, 0] == done.ranking.scores_QK[:, 1]).all()
    with pytest.raises(UsageError, match="fusion"):
        Reranker(Told(table)).rerank(task, coarse, top=2, fuse="mean")


def test_a_query_without_scores_keeps_its_coarse_order_and_is_named():
    task, table = TASKS["t2i"], random_table(TASKS["t2i"], 1000)
    lost = task.queries[2].id
    silent = {pair: value for pair, value in table.items() if pair[0] != lost}
    coarse = coarse_of(task)
    done = Reranker(Told(silent)).rerank(task, coarse, top=3)
    assert done.fell_back == (lost,)
    q = coarse.query_ids.index(lost)
    np.testing.assert_array_equal(done.ranking.rows_QK[q], coarse.rows_QK[q])
    assert np.isnan(done.fine_QT[q]).all()


def test_rank_puts_the_best_first_and_what_has_no_score_last():
    query, candidates = Item("q", text="a"), [Item(c, text=c) for c in "abcd"]
    table = {("q", "a"): 1.0, ("q", "c"): 3.0, ("q", "d"): 1.0}
    found = Reranker(Told(table)).rank(query, candidates)
    assert [name for name, _ in found] == ["c", "a", "d", "b"]
    assert np.isnan(found[-1][1])
    assert Reranker(Told(table)).rank(query, []) == []


# --------------------------------------------------------------------------------------- the shipped model
@pytest.mark.parametrize("way", ["t2i", "i2t"])
def test_rerank_scores_as_the_scorer_does_alone(loaded, way):
    task, coarse = TASKS[way], coarse_of(TASKS[way])
    for name in ("likelihood", "choice"):
        reranker = Reranker.load(loaded, scorer=name)
        done = reranker.rerank(task, coarse, top=3)
        items = {item.id: item for item in task.candidates}
        for q, query in enumerate(task.queries[:2]):
            shown = [items[coarse.candidate_ids[row]] for row in coarse.rows_QK[q, :3]]
            np.testing.assert_allclose(done.fine_QT[q], reranker.scorer.score(query, shown), atol=1e-4)


def test_the_likelihood_finds_the_right_one(loaded):
    """Random coarse rankings of all six: chance is one in six."""
    for task in TASKS.values():
        done = Reranker.load(loaded).rerank(task, coarse_of(task, N), top=N)
        assert score(done.ranking, task.relevance, ["hit_rate@1"])["hit_rate@1"].mean > 0.8


def test_a_second_run_scores_nothing_and_a_killed_one_goes_on(loaded, tmp_path):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])

    class StoppedError(Exception):
        pass

    class StopsAfter:
        def __init__(self, count):
            self.left = count

        def start(self, total, label):
            pass

        def advance(self, count=1):
            self.left -= count
            if self.left <= 0:
                raise StoppedError

        def close(self):
            pass

    first = kept_judge(loaded, tmp_path, token_budget=400, commit_seconds=0.0)
    with pytest.raises(StoppedError):
        first.rerank(task, coarse, top=KEEP, progress=StopsAfter(8))
    whole = Reranker.load(loaded).rerank(task, coarse, top=KEEP)
    rest = kept_judge(loaded, tmp_path).rerank(task, coarse, top=KEEP)
    assert 0 < rest.questions < whole.questions
    np.testing.assert_allclose(rest.fine_QT, whole.fine_QT, atol=1e-4)
    again = kept_judge(loaded, tmp_path).rerank(task, coarse, top=KEEP)
    assert again.questions == 0
    np.testing.assert_array_equal(again.fine_QT, rest.fine_QT)


def test_scores_are_kept_by_content_not_by_name(loaded, tmp_path):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])
    kept_judge(loaded, tmp_path).rerank(task, coarse, top=2)
    renamed = {item.id: f"other {item.id}" for item in (*task.queries, *task.candidates)}
    other = Task(
        "other",
        tuple(replace(item, id=renamed[item.id]) for item in task.queries),
        tuple(replace(item, id=renamed[item.id], image=np_copy(item.image)) for item in task.candidates),
        {renamed[q]: {renamed[c]: g for c, g in some.items()} for q, some in task.relevance.items()},
    )
    moved = replace(
        coarse,
        query_ids=tuple(renamed[q] for q in coarse.query_ids),
        candidate_ids=tuple(renamed[c] for c in coarse.candidate_ids),
    )
    assert kept_judge(loaded, tmp_path).rerank(other, moved, top=2).questions == 0
    changed = replace(other, queries=tuple(replace(i, text=f"{i.text} Now.") for i in other.queries))
    assert kept_judge(loaded, tmp_path).rerank(changed, moved, top=2).questions > 0


def np_copy(image):
    return Image.fromarray(np.asarray(image).copy())


def test_enhanced_scores_are_others_and_kept_apart(loaded, tmp_path):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])
    plain = kept_judge(loaded, tmp_path, "p_true").rerank(task, coarse, top=2)
    eager = replace(ENHANCEMENTS.get("release"), threshold=0.0)
    seen = kept_judge(loaded, tmp_path, "p_true", enhancement=eager).rerank(task, coarse, top=2)
    assert seen.questions > 0
    assert not np.allclose(seen.fine_QT, plain.fine_QT, atol=1e-4)
    after = Reranker.load(loaded, scorer="p_true").rerank(task, coarse, top=2)
    np.testing.assert_allclose(after.fine_QT, plain.fine_QT, atol=1e-6)


def test_entropy_breaks_ties_and_nothing_else(loaded):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])
    release = Reranker.load(loaded, scorer="p_true_release").rerank(task, coarse, top=KEEP)
    assert release.entropy_QT is not None
    assert not np.isnan(release.entropy_QT).any()
    broken = Reranker.load(loaded, scorer="number_paper", tie="entropy").rerank(task, coarse, top=KEEP)
    assert broken.entropy_QT is not None
    for fine_T, entropy_T in zip(broken.fine_QT, broken.entropy_QT, strict=True):
        values, count = np.unique(fine_T[~np.isnan(fine_T)], return_counts=True)
        tied = np.isin(fine_T, values[count > 1])
        np.testing.assert_array_equal(~np.isnan(entropy_T), tied)
    assert Reranker.load(loaded, scorer="likelihood").rerank(task, coarse, top=2).entropy_QT is None


def test_among_equal_scores_the_least_uncertain_stands_first(loaded):
    task, coarse = TASKS["t2i"], coarse_of(TASKS["t2i"])
    done = Reranker.load(loaded, scorer="p_true_release").rerank(task, coarse, top=KEEP)
    for q in range(N):
        keys = {
            int(row): (-fine, entropy)
            for row, fine, entropy in zip(coarse.rows_QK[q], done.fine_QT[q], done.entropy_QT[q], strict=True)
        }
        order = [keys[int(row)] for row in done.ranking.rows_QK[q]]
        assert order == sorted(order)


# ------------------------------------------------------------------------------------------------- bad input
def test_a_ranking_of_another_task_is_refused(loaded):
    other = coarse_of(world.text_to_image(N, seed=9))
    with pytest.raises(DataError, match="another task"):
        Reranker.load(loaded).rerank(TASKS["t2i"], other, top=2)


def test_missing_candidates_are_counted_and_named():
    task, table = TASKS["t2i"], random_table(TASKS["t2i"], 9)
    coarse = coarse_of(task)
    lost = coarse.candidate_ids[int(coarse.rows_QK[0, 0])]
    fewer = replace(
        task,
        candidates=tuple(c for c in task.candidates if c.id != lost),
        relevance={q: g for q, g in task.relevance.items() if lost not in g},
    )
    with pytest.raises(DataError, match=r"1 of .* candidate ids .* missing") as caught:
        Reranker(Told(table)).rerank(fewer, coarse, top=KEEP)
    assert lost in caught.value.where


def test_top_beyond_the_list_is_refused_and_beyond_the_pool_is_the_pool():
    task, table = TASKS["t2i"], random_table(TASKS["t2i"], 9)
    with pytest.raises(UsageError, match="keeps 4 candidates"):
        Reranker(Told(table)).rerank(task, coarse_of(task), top=5)
    with pytest.raises(UsageError, match="top is 0"):
        Reranker(Told(table)).rerank(task, coarse_of(task), top=0)
    assert Reranker(Told(table)).rerank(task, coarse_of(task, 50), top=50).fine_QT.shape[1] == N


def test_a_contrastive_model_has_no_head():
    with pytest.raises(UsageError, match="no language head"):
        Reranker.load("tiny-contrastive")


def test_unknown_names_are_answered_with_the_known_ones(loaded):
    with pytest.raises(UsageError, match="likely"):
        Reranker.load(loaded, scorer="likely")
    with pytest.raises(UsageError, match="polite") as caught:
        Reranker.load(loaded, prompt="polite")
    assert "official" in caught.value.do
    with pytest.raises(UsageError, match="tie is"):
        Reranker.load(loaded, tie="coin")
    with pytest.raises(UsageError, match="built-in"):
        Reranker(Told({}), tie="entropy")


def test_an_empty_candidate_stops_the_run_or_is_skipped_and_named(loaded):
    task = TASKS["i2t"]
    coarse = coarse_of(task)
    empty = coarse.candidate_ids[int(coarse.rows_QK[0, 1])]
    broken = replace(
        task, candidates=tuple(replace(c, text="  ") if c.id == empty else c for c in task.candidates)
    )
    for name in ("likelihood", "choice"):
        with pytest.raises(ItemError, match="empty"):
            Reranker.load(loaded, scorer=name).rerank(broken, coarse, top=3)
        done = Reranker.load(loaded, scorer=name, on_error="skip").rerank(broken, coarse, top=3)
        at = coarse.rows_QK[:, :3] == coarse.candidate_ids.index(empty)
        np.testing.assert_array_equal(np.isnan(done.fine_QT), at)
        assert set(done.skipped) == {f"{coarse.query_ids[q]} x {empty}" for q in np.flatnonzero(at.any(1))}
        assert done.fell_back == ()
        # Below those that were judged, above what was not looked at.
        assert coarse.candidate_ids[int(done.ranking.rows_QK[0, 2])] == empty
        whole = Reranker.load(loaded, scorer=name).rerank(task, coarse, top=3)
        np.testing.assert_allclose(done.fine_QT[~at], whole.fine_QT[~at], atol=1e-4)


def test_an_image_that_cannot_be_read_is_skipped_and_named(loaded, tmp_path):
    task = TASKS["t2i"]
    coarse = coarse_of(task)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = coarse.candidate_ids[int(coarse.rows_QK[0, 0])]
    broken = replace(
        task,
        candidates=tuple(
            replace(c, image=str(tmp_path / "broken.png")) if c.id == bad else c for c in task.candidates
        ),
    )
    with pytest.raises(ItemError):
        Reranker.load(loaded).rerank(broken, coarse, top=2)
    done = Reranker.load(loaded, on_error="skip").rerank(broken, coarse, top=2)
    assert done.skipped
    assert all(name.endswith(f" x {bad}") for name in done.skipped)


def test_the_likelihood_between_images_is_not_defined(loaded):
    images = TASKS["t2i"].candidates
    with pytest.raises(UsageError, match="not defined"):
        Reranker.load(loaded).rank(images[0], images[1:3])


@pytest.mark.parametrize("scorer", ["p_true", "choice", "number", "listwise"])
def test_a_family_that_reads_one_image_is_named(folder_of, scorer):
    reranker = Reranker.load(folder_of("llava"), scorer=scorer)
    images = TASKS["t2i"].candidates
    with pytest.raises(UsageError, match=r"llava.*one image"):
        reranker.rank(images[0], images[1:3])


def test_a_scorer_that_answers_in_the_wrong_shape_is_told(loaded):
    class Short:
        def score(self, query, candidates):
            return np.zeros(1)

    with pytest.raises(DataError, match="shape"):
        Reranker(Short()).rerank(TASKS["t2i"], coarse_of(TASKS["t2i"]), top=2)


# ------------------------------------------------------------------------------------------------------ bias
def test_what_is_looked_at_for_bias(loaded):
    task, coarse = TASKS["i2t"], coarse_of(TASKS["i2t"])
    choice = Reranker.load(loaded, scorer="choice").scorer
    orders_PO = label_orders(choice, task, coarse, top=2)
    assert orders_PO.shape == (2 * N, 2)
    done = Reranker.load(loaded, scorer="choice").rerank(task, coarse, top=2)
    np.testing.assert_allclose(orders_PO.mean(axis=1), done.fine_QT.ravel(), atol=1e-4)
    for name, most in (("p_true", 1), ("choice", 1), ("number", 9)):
        scores_C = empty_query_scores(Reranker.load(loaded, scorer=name).scorer, "image", task.candidates)
        assert scores_C.shape == (N,)
        assert ((scores_C >= 0) & (scores_C <= most)).all()
    listwise = Reranker.load(loaded, scorer="listwise").scorer
    assert chosen_positions(listwise, task, coarse, top=3).shape == (N, 3)
    with pytest.raises(UsageError, match="empty query"):
        empty_query_scores(Reranker.load(loaded).scorer, "image", task.candidates)
    with pytest.raises(UsageError, match="two label orders"):
        label_orders(listwise, task, coarse)
    with pytest.raises(UsageError, match="choose a place"):
        chosen_positions(choice, task, coarse)


def test_every_scorer_reranks_every_way_it_can(loaded):
    for name in SCORERS.names():
        for way, task in TASKS.items():
            coarse = coarse_of(task)
            done = Reranker.load(loaded, scorer=name).rerank(
                task, coarse, top=2, queries=coarse.query_ids[:2]
            )
            assert done.fine_QT.shape == (2, 2), (name, way)
            assert done.scored + 2 * len(done.fell_back) >= 2
