"""A reranking page's values, of the size that a run gives them, every section filled."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from clearsight.metrics import PairedTest
from clearsight.metrics.calibration import order_swap, position_bias, reliability, yes_bias
from clearsight.report.data import Card, Example, ResultRow
from clearsight.report.reranking import BOUND, JudgeRow, RerankingData
from clearsight.types import Score

CHANCE = {"hit_rate@1": 0.0005, "hit_rate@5": 0.0025, "hit_rate@10": 0.005}


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


def sample_reranking():
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
