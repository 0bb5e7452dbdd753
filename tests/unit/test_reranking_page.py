"""The reranking page and its figures, on data of the size that a run gives them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from clearsight.report.reranking import (
    JudgeRow,
    RerankingData,
    bias_table,
    figure_positions,
    figure_reliability,
    position_panels,
    reliability_panels,
    render_reranking,
    reranking_figures,
)
from reranking_sample import judge, sample_reranking

HOSTILE = "<script>alert(1)</script>\"' {{ 7*7 }} \ud800 \x1b[31m"


def test_the_page_shows_rows_bound_bias_and_curves():
    page = render_reranking(sample_reranking())
    assert page == render_reranking(sample_reranking())
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
    assert reranking_figures(RerankingData("", "")) == {}


def test_foreign_texts_are_escaped():
    data = sample_reranking()
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


def test_figures_are_drawn_whole_and_the_same():
    data = sample_reranking()
    drawn = reranking_figures(data)
    assert list(drawn) == ["reliability.svg", "reliability.png", "positions.svg", "positions.png"]
    assert reranking_figures(data) == drawn
    assert drawn["reliability.png"].startswith(b"\x89PNG")
    assert b"every score true" in drawn["reliability.svg"]
    assert b"choice, text" in drawn["positions.svg"]  # two tasks: each panel says which
