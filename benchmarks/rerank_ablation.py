"""Does looking again help? RetLLM's ablation on the shipped model: visual enhancement and entropy tie-break.

Four rows a form of enhancement: all, no visual, no entropy, neither; hit rate@1 both ways with its bootstrap
interval, and a paired test against neither. The scorer is the release's (True's probability, cut to two
decimals, which is what makes ties): the paper's written number cannot be parsed on this model. Ties are
broken by the entropy of the same answer, under the paper's form by that of its question about a match.
`moved` is the share of pairs whose entropy the enhancement moves by more than 1e-4 nats, of those that were
asked for it with and without. Where the model is never unsure enough, nothing moves; the same forms are
therefore also measured with a threshold of 0, under which every pair is enhanced ("paper, always").
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from harness import line, report
from rerank_quality import HIT, coarse_rankings

from clearsight.metrics import paired_test, score
from clearsight.models.load import load_model
from clearsight.models.retrace import ENHANCEMENTS
from clearsight.ranking.fusion import fuse, oracle
from clearsight.ranking.reorder import of_queries
from clearsight.rerank import Reranked, Reranker
from clearsight.rerank.reranker import Tie
from clearsight.types import Ranking, Score, Task

MOVED = 1e-4
"""Nats; batches of other shapes move an entropy by less."""


ALWAYS = ", always"
FORMS = {
    name + ending: replace(ENHANCEMENTS.get(name), **changed)
    for name in ENHANCEMENTS.names()
    for ending, changed in (("", {}), (ALWAYS, {"threshold": 0.0}))
}
TIES: dict[str, Tie] = {"paper": "entropy"}
"""What breaks ties under a form: the release's scorer brings entropies of its own ("none" else)."""


def hits(done: Reranked, *, entropy: bool) -> Score:
    """Hit rate@1, ties broken by the entropies or left as ties."""
    fused = fuse(done.coarse, done.fine_QT, entropy_QT=done.entropy_QT if entropy else None)
    return score(fused.ranking, measures=[HIT])[HIT]


def moved(one: Reranked, other: Reranked) -> float:
    """The share of pairs whose entropy differs; NaN where ties alone were asked about."""
    assert one.entropy_QT is not None
    assert other.entropy_QT is not None
    both = np.isfinite(one.entropy_QT) & np.isfinite(other.entropy_QT)
    return float((np.abs(one.entropy_QT - other.entropy_QT)[both] > MOVED).mean()) if both.any() else np.nan


def facts(name: str, found: Score, against: Score | None) -> dict[str, Any]:
    """A row of the table, in per cent and points."""
    row: dict[str, Any] = {
        "row": name,
        HIT: round(100 * found.mean, 2),
        "interval": [round(100 * found.low, 2), round(100 * found.high, 2)],
        "tie_rate": round(found.tie_rate, 3),
    }
    if against is not None:
        test = paired_test(found, against)
        row["gain"] = round(100 * test.difference, 2)
        row["gain_interval"] = [round(100 * test.low, 2), round(100 * test.high, 2)]
        row["p"] = round(test.p_value, 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--n", type=int, default=2000, help="gallery")
    parser.add_argument("--captions", type=int, default=500, help="unlabelled images of the coarse stage")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--recipe", default="self_aligned", help="the coarse stage")
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="append to results/rerank_ablation.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, head=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("forms", "save")}
    for way, (task, whole) in coarse_rankings(loaded, options).items():
        coarse = of_queries(whole, whole.query_ids[: options.queries])
        before = score(coarse, measures=[HIT])[HIT].mean
        bound = score(oracle(coarse, options.top), measures=[HIT])[HIT].mean

        @cache
        def reranked(form: str | None, tie: Tie, task: Task = task, coarse: Ranking = coarse) -> Reranked:
            reranker = Reranker.load(
                loaded, scorer="p_true_release", tie=tie, enhancement=form and FORMS[form]
            )
            return reranker.rerank(task, coarse, top=options.top)

        for form in options.forms:
            begun, tie = time.perf_counter(), TIES.get(form.removesuffix(ALWAYS), "none")
            without, enhanced = reranked(None, tie), reranked(form, tie)
            neither = hits(without, entropy=False)
            rows = [
                facts("all", hits(enhanced, entropy=True), neither),
                facts("no visual", hits(without, entropy=True), neither),
                facts("no entropy", hits(enhanced, entropy=False), neither),
                facts("neither", neither, None),
            ]
            told = {
                "way": way,
                "form": form,
                "coarse": round(100 * before, 2),
                "bound": round(100 * bound, 2),
                "moved": round(moved(without, enhanced), 3),
                "seconds": round(time.perf_counter() - begun, 1),
            }
            for row in rows:
                report(line("rerank_ablation", **settings, **told, **row), save=options.save)


if __name__ == "__main__":
    main()
