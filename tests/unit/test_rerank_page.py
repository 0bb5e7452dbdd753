"""From reranked rankings to the page: rows, biases and examples against what is counted by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from clearsight.data import world
from clearsight.jobs.rerank_page import Stage, examples, judge_row, page_data, result_rows, write_page
from clearsight.jobs.reranking import Fine, staged
from clearsight.metrics.calibration import reliability
from clearsight.models.load import load_model
from clearsight.progress import Silent
from clearsight.ranking import rank
from clearsight.report.reranking import BOUND, JudgeRow
from clearsight.rerank import Reranker
from clearsight.run import Run
from clearsight.types import Embeddings

N, TOP, QUERIES = 8, 4, 5


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", head=True)


@pytest.fixture(scope="module", params=["i2t", "t2i"])
def task(request):
    made = {"i2t": world.image_to_text, "t2i": world.text_to_image}
    return made[request.param](N, seed=3)


@pytest.fixture(scope="module")
def coarse(task):
    random = np.random.default_rng(0)
    sides = [
        Embeddings.of([i.id for i in s], random.normal(size=(N, 6))) for s in (task.queries, task.candidates)
    ]
    return rank(*sides, TOP + 2, relevance=task.relevance)


class Told:
    """A scorer that says what a table says; NaN where it says nothing."""

    def __init__(self, table):
        self.table = table

    def score(self, query, candidates):
        return np.array([self.table.get((query.id, c.id), np.nan) for c in candidates])


def told(task, coarse, seed=0, silent=()):
    """A scorer's random table on the first queries, reranked."""
    random = np.random.default_rng(seed)
    pairs = itertools.product(task.queries, task.candidates)
    table = {(q.id, c.id): random.random() for q, c in pairs if q.id not in silent}
    done = Reranker(Told(table)).rerank(task, coarse, top=TOP, queries=coarse.query_ids[:QUERIES])
    return table, done


def hit(names, right):
    return float(names[0] in right)


def test_no_more_are_judged_than_there_are(task, coarse):
    table, _ = told(task, coarse)
    rerankers = {"told": Reranker(Told(table))}
    coarse = replace(coarse, pool_size_Q=np.full_like(coarse.pool_size_Q, TOP + 2))  # it holds whole pools
    stages = [
        staged(task, coarse, rerankers, Fine(top=top), embedding="mean", progress=Silent())
        for top in (TOP, TOP + 2, 5000)
    ]
    assert [stage.group for stage in stages] == [f"mean; top {top} judged" for top in (TOP, TOP + 2, TOP + 2)]
    first, *_, last = stages[1:]
    np.testing.assert_array_equal(first.fine["told"].fine_QT, last.fine["told"].fine_QT)


def test_rows_are_counted_by_hand(task, coarse):
    table, done = told(task, coarse)
    stage = Stage(task, "mean, plain", TOP, {"told": done})
    rows = {row.repair: row for row in result_rows(stage)}
    assert list(rows) == ["coarse", "told", "oracle"]
    assert {row.embedding for row in rows.values()} == {f"mean, plain; top {TOP} judged"}
    wanted = {name: [] for name in rows}
    for q, name in enumerate(coarse.query_ids[:QUERIES]):
        right = task.relevance[name]
        before = [coarse.candidate_ids[row] for row in coarse.rows_QK[q]]
        wanted["coarse"].append(hit(before, right))
        wanted["told"].append(hit(sorted(before[:TOP], key=lambda c, q=name: -table[q, c]), right))
        wanted["oracle"].append(float(any(c in right for c in before[:TOP])))
    for name, values in wanted.items():
        score = rows[name].scores["hit_rate@1"]
        assert score.values_Q.tolist() == values
        assert score.judged == QUERIES
        test = rows[name].test
        if name == "coarse":
            assert (test, rows[name].against) == (None, None)
        else:
            assert test.difference == pytest.approx(np.mean(values) - np.mean(wanted["coarse"]))
            assert rows[name].against == "coarse"
    assert [row.note for row in rows.values()] == ["", "", BOUND]


def test_examples_show_both_orders_with_their_scores(task, coarse):
    table, done = told(task, coarse)
    shown = examples(Stage(task, "mean", TOP, {"told": done}, label="both ways"), "told", 3)
    assert len(shown) == 3
    for q, example in enumerate(shown):
        name = coarse.query_ids[q]
        before = [coarse.candidate_ids[row] for row in coarse.rows_QK[q]]
        after = sorted(before[:TOP], key=lambda c: -table[name, c]) + before[TOP:]
        assert example.task == "both ways"
        assert example.query.id == name
        assert [card.id for card in example.before] == before[:5]
        assert [card.id for card in example.after] == after[:5]
        assert [card.score for card in example.before] == coarse.scores_QK[q, :5].tolist()
        assert [card.score for card in example.after] == [*(table[name, c] for c in after[:TOP]), None]
        assert [card.relevant for card in example.after] == [c in task.relevance[name] for c in after[:5]]
        assert (example.query.image is None) == (task.queries[q].image is None)


def test_biases_are_those_of_the_answers(loaded, task, coarse):
    few = coarse.query_ids[:QUERIES]
    reranker = Reranker.load(loaded, scorer="choice")
    done = reranker.rerank(task, coarse, top=TOP, queries=few)
    row = judge_row("choice", reranker, task, done, queries=2)
    assert (row.scorer, row.task, row.written, row.position) == ("choice", task.name, 0, None)
    assert row.swap.judgements == 2 * TOP
    assert row.yes.judgements == len({r for r in done.coarse.rows_QK[:2].ravel().tolist() if r >= 0})
    measured = row.reliability
    assert measured.judgements == QUERIES * TOP
    relevant = [
        coarse.candidate_ids[coarse.rows_QK[q, t]] in task.relevance[few[q]]
        for q in range(QUERIES)
        for t in range(TOP)
    ]
    assert measured.base_rate == pytest.approx(np.mean(relevant))
    brier = np.mean((done.fine_QT.ravel() - np.array(relevant)) ** 2)
    assert measured.brier.value == pytest.approx(brier)


def test_a_digit_counts_as_its_share_of_nine(loaded, task, coarse):
    reranker = Reranker.load(loaded, scorer="number")
    done = reranker.rerank(task, coarse, top=2, queries=coarse.query_ids[:3])
    measured = judge_row("number", reranker, task, done).reliability
    mean = (measured.score_B * measured.count_B).sum() / measured.judgements
    assert mean == pytest.approx(done.fine_QT.mean() / 9)


def test_written_answers_are_counted_and_warned_about(loaded, task, coarse):
    reranker = Reranker.load(loaded, scorer="listwise")
    done = reranker.rerank(task, coarse, top=TOP, queries=coarse.query_ids[:QUERIES])
    row = judge_row("listwise", reranker, task, done)
    assert (row.written, row.unparsed, row.fell_back) == (done.asked, done.unparsed, len(done.fell_back))
    assert row.written == QUERIES * 3
    assert (row.reliability, row.yes, row.swap) == (None, None, None)
    data = page_data("t", "s", [Stage(task, "mean", TOP, {"listwise": done})])
    said = [warning for warning in data.warnings if "could not be parsed" in warning]
    assert len(said) == (done.unparsed > 0)


def test_places_are_asked_of_shuffled_lists_alone(loaded, task, coarse, monkeypatch):
    """A scorer that always names the second option has the strongest bias there is."""
    reranker = Reranker.load(loaded, scorer="listwise")
    monkeypatch.setattr(reranker.scorer.form, "_chosen", lambda row, count: 1)
    done = reranker.rerank(task, coarse, top=TOP, queries=coarse.query_ids[:QUERIES])
    position = judge_row("listwise", reranker, task, done).position
    assert position.answers == QUERIES * 2  # of three orders the first is the coarse one
    assert position.chosen_P.tolist() == [0, QUERIES * 2, 0, 0]
    assert position.p_value < 0.001


def test_ones_own_scorer_has_no_biases_that_could_be_asked_for(task, coarse):
    _, done = told(task, coarse)
    row = judge_row("told", Reranker(Told({})), task, done)
    assert (row.position, row.yes, row.swap, row.reliability) == (None, None, None, None)


def test_the_page_lies_in_the_run(task, coarse, tmp_path):
    _, one = told(task, coarse)
    _, other = told(task, coarse, seed=1)
    judge = JudgeRow("one", reliability=reliability([0.2, 0.9, 0.6], [0, 1, 1], resamples=10))
    stage = Stage(task, "mean", TOP, {"one": one, "other": other}, [judge])
    for _ in range(2):  # the second takes the place of the first, figures included
        with Run.create(tmp_path / "run", "rerank", {"top": TOP}, 0, overwrite=True) as run:
            run.warn("The well is dry.")
            data = page_data("A title", "A summary.", [stage], headline="other", run=run, shown=2)
            write_page(run, data)
    assert data.headline == "other"
    assert "The well is dry." in data.warnings
    assert {example.after_label for example in data.examples} == {"other"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert "The well is dry." in page
    kept = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [row["repair"] for row in kept["rows"]] == ["coarse", "one", "other", "oracle"]
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["reliability.png", "reliability.svg"]
