"""What tables call vectors, what both sides should share, and when ties are worth a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clearsight.jobs.compare import tie_warnings
from clearsight.jobs.judging import differences, judged, label_of
from clearsight.jobs.recipes import Sides
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.report.data import ResultRow
from clearsight.run import Run
from clearsight.types import Embeddings, Item, Task

ORIGIN = {"model": "m", "pooling": "mean", "prompt": "one_word", "layer": -1, "source": "item"}


@pytest.mark.parametrize(
    ("origin", "label"),
    [
        ({}, "vectors"),
        ({"pooling": "mean"}, "vectors"),
        (ORIGIN, "mean, one_word"),
        ({**ORIGIN, "prompt": "own", "layer": -3}, "mean, own, layer -3"),
        ({**ORIGIN, "source": "describe"}, "mean, one_word, described"),
    ],
)
def test_the_label_is_what_the_origin_says(origin: dict[str, object], label: str) -> None:
    assert label_of(origin) == label


def sides(**changes: object) -> Sides:
    rows = np.random.default_rng(0).standard_normal((6, 4))
    return Sides(
        Embeddings.of([f"q{n}" for n in range(6)], rows, side="query", origin=ORIGIN),
        Embeddings.of([f"c{n}" for n in range(6)], rows, origin={**ORIGIN, **changes}),
    )


def test_sides_that_were_embedded_differently_are_told(tmp_path: Path) -> None:
    assert differences(sides(prompt="plain", image_size=56)) == []
    assert differences(sides(pooling="last", model="n")) == [
        "queries were embedded with model m, candidates with n.",
        "queries were embedded with pooling mean, candidates with last.",
    ]
    given = sides(pooling="last")
    items = [tuple(Item(name, text=name) for name in side.ids) for side in (given.queries, given.candidates)]
    task = Task("t", *items, {f"q{n}": {f"c{n}": 1.0} for n in range(6)})
    with Run.create(tmp_path / "run", "evaluate", {}) as run:
        found = judged(run, ["base"], "t", task, given)
    assert [row.embedding for row in found.rows] == ["mean, one_word"]
    assert run.manifest["warnings"][0].startswith("t: queries were embedded with pooling mean")
    assert [side["pooling"] for side in run.manifest["origins"]["t"]] == ["mean", "last"]


def test_ties_that_move_no_measure_are_not_worth_a_word() -> None:
    rows = np.array([[0.0, 1], [0, 1], [1, 0], [1, 0.1]])
    queries = Embeddings.of(["q"], [[1.0, 0]], side="query")
    candidates = Embeddings.of(["a", "b", "c", "d"], rows)
    relevance = {"q": {"a": 1.0}}  # ties with b, both below c and d
    ranking = rank(queries, candidates, 4, relevance=relevance)
    told = {}
    for measure in ("hit_rate@1", "hit_rate@3", "mrr@10"):
        scores = score(ranking, relevance, (measure,))
        assert scores[measure].tie_rate == 1.0
        told[measure] = tie_warnings([ResultRow("t", "e", "base", scores, None, None, "")])
    assert told["hit_rate@1"] == ()
    assert "would report 100.0%, a strict one 0.0%" in told["hit_rate@3"][0]
    assert len(told["mrr@10"]) == 1
