"""The reranking page and its figures, on data of the size that a run gives them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from clearsight.metrics import PairedTest
from clearsight.metrics.calibration import order_swap, position_bias, reliability, yes_bias
from clearsight.report.data import Card, Example, ResultRow
from clearsight.report.reranking import (
    BOUND,
    JudgeRow,
    RerankingData,
    bias_table,
    figure_positions,
    figure_reliability,
    position_panels,
    reliability_panels,
    render_reranking,
    write_reranking_figures,
)
from clearsight.types import Score

CHANCE = {"hit_rate@1": 0.0005, "hit_rate@5": 0.0025, "hit_rate@10": 0.005}
HOSTILE = "<script>alert(1)</script>\"' {{ 7*7 }} \ud800 \x1b[31m"


def score(measure, mean, queries=500):
    spread = 1.96 * math.sqrt(mean * (1 - mean) / queries)
    low, high = max(0.0, mean - spread), min(1.0, mean + spread)
    return Score(measure, np.full(queries, mean), mean, low, high, mean, mean, queries, 0.0, CHANCE[measure])


def row(task, repair, hits, base=None, note=""):
    scores = {m: score(m, float(h) / 100) for m, h in zip(CHANCE, hits.split("/"), strict=True)}
    gain = None if base is None else float(hits.split("/")[0]) / 100 - base
    test = None if gain is None else PairedTest(gain, gain - 0.02, gain + 0.02, 0.0002, 500)
    return ResultRow(
        task, "mean, one_word, self-aligned; top 20 judged", repair, scores, base and "coarse", test, note
    )


def judge(scorer="choice", seed=0):
    random = np.random.default_rng(seed)
    scores = random.beta(0.5, 0.5, 3000)
    relevant = random.random(3000) < scores**2
    return JudgeRow(
        scorer,
        "image -> text",
        written=3000,
        unparsed=7,
        fell_back=2,
        position=position_bias(np.minimum(random.integers(0, 5, 400), random.integers(0, 5, 400)), 5),
        yes=yes_bias(random.beta(2, 4, 200)),
        swap=order_swap(scores, np.clip(scores + random.normal(0, 0.1, 3000), 0, 1)),
        reliability=reliability(scores, relevant, resamples=50),
    )


def sample():
    rows = []
    for task in ("image -> text", "text -> image"):
        rows += [
            row(task, "coarse", "61.3/83.3/88.8"),
            row(task, "likelihood", "96.2/97.0/97.1", 0.613),
            row(task, "choice", "68.0/86.3/91.8", 0.613),
            row(task, "p_true", "52.0/80.3/90.8", 0.613),
            row(task, "oracle", "97.3/97.3/97.3", 0.613, BOUND),
        ]
    cards = tuple(
        Card(f"c{i}", text=f"a large blue circle {i}", relevant=i == 2, score=-float(i)) for i in range(5)
    )
    return RerankingData(
        title="Reranking image and text with the tiny model",
        summary="The first 20 of 2,000 candidates judged again by the model itself, on 500 queries each way.",
        rows=tuple(rows),
        headline="likelihood",
        judges=(
            judge(),
            replace(judge("p_true", 1), position=None),
            JudgeRow("likelihood", "image -> text"),
            replace(judge("choice", 2), task="text -> image"),
        ),
        examples=(
            Example("image -> text", Card("q0", text="a query"), cards, cards[::-1], "coarse", "reranked"),
        ),
        warnings=("Seven listwise answers could not be parsed.",),
        manifest={"model": "tiny"},
        commands=("clearsight rerank RUN --scorer likelihood --top 20",),
    )


def test_the_page_shows_rows_bound_bias_and_curves():
    page = render_reranking(sample())
    assert page == render_reranking(sample())
    for words in ("top 20 judged", "oracle", "Brier", "of 3,000", "fell back", "empty query"):
        assert words in page
    assert page.count('<figure class="chart">') == 2 + 3  # places of choice and reliability of all, two tasks
    assert len(re.findall(r'<tr class="group">.*?colspan="11">(?:image|text) → ', page)) == 2
    assert page.count('class="control"') == 2 * 3 + 1  # a bound in two tables and three measures, and the key
    assert page.count('rect class="base"') == 2 * 3 + 1
    assert re.search(r'class="from">61\.3<.*?class="to">96\.2<', page, re.DOTALL)
    assert "<script" not in page
    assert "{{" not in page


def test_what_was_not_measured_is_left_out():
    page = render_reranking(RerankingData("Nothing", "Nothing was measured."))
    for anchor in ("results", "bias", "reliability", "positions", "examples", "skipped"):
        assert f'id="{anchor}"' not in page
    table = bias_table((JudgeRow("number_paper", written=5),))
    assert table is not None
    assert bias_table((JudgeRow("likelihood"),)) is None
    assert [name for name, _ in table.columns] == ["unparsed", "fell back"]
    assert bias_table(()) is None
    assert figure_reliability(()) is None
    assert figure_positions((JudgeRow("x"),)) is None
    assert write_reranking_figures(RerankingData("", ""), None) == []


def test_foreign_texts_are_escaped():
    data = sample()
    rows = tuple(replace(one, repair=HOSTILE, embedding=HOSTILE) for one in data.rows)
    judges = tuple(replace(one, scorer=HOSTILE) for one in data.judges)
    page = render_reranking(replace(data, title=HOSTILE, rows=rows, judges=judges, headline=HOSTILE))
    page.encode("utf-8")
    assert "<script" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]


def test_panels_hold_the_numbers():
    one = judge()
    panel = reliability_panels((one,))[0]
    assert panel.curve.x == [0.0, *one.reliability.score_B.tolist(), 1.0]
    assert panel.curve.y["every score true"] == panel.curve.x
    assert panel.curve.y["measured"][1:-1] == one.reliability.relevant_B.tolist()
    assert panel.low["measured"][1:-1] == one.reliability.low_B.tolist()
    assert math.isnan(panel.curve.y["measured"][0])
    assert math.isnan(panel.curve.y["measured"][-1])
    places = position_panels((one,))[0]
    assert sum(places.curve.y["chosen"]) == pytest.approx(100)
    assert places.curve.y["chance"] == pytest.approx([20] * 5)


def test_figures_are_written_whole_and_the_same(tmp_path):
    data = sample()
    names = ["reliability.svg", "reliability.png", "positions.svg", "positions.png"]
    first = write_reranking_figures(data, tmp_path)
    assert [path.name for path in first] == names
    before = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in write_reranking_figures(data, tmp_path)] == before
    assert before[1].startswith(b"\x89PNG")
    assert b"every score true" in before[0]
