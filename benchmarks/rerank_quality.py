"""Every scorer on the shipped model: hit rate@1 of a reranked top 20, both ways.

The gallery is the procedural world's, the coarse stage the self-aligned, refined embedding of the demo (mean
of `one_word`, from 500 self-captioned images); the fine stage sees the first `--top` candidates of the first
`--queries` queries. A pair is the same for every scorer, so the tests are paired. Without labels anywhere:
relevance is looked at to score, and for the bound.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from harness import line, report

from clearsight.data import world
from clearsight.jobs.embedding import embed_pairs, embed_task, self_caption
from clearsight.jobs.recipes import RECIPES, Repaired, Sides
from clearsight.metrics import paired_test, score
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import LoadedModel, load_model
from clearsight.progress import Silent
from clearsight.ranking import rank
from clearsight.ranking.fusion import oracle
from clearsight.ranking.reorder import of_queries
from clearsight.rerank import SCORERS, Reranker
from clearsight.types import Ranking, Task

HIT = "hit_rate@1"


def coarse_rankings(loaded: LoadedModel, options: Any) -> dict[str, tuple[Task, Ranking]]:
    """Both directions of the world's tasks, ranked by the repaired embedding."""
    tasks = world.image_to_text(options.n), world.text_to_image(options.n)
    captioned = self_caption(Captioner(loaded), world.unlabelled_images(options.captions), Silent())
    encoder = Encoder(loaded, prompt="one_word", cache=options.cache and f"{options.cache}/vectors")
    images, texts = embed_task(encoder, tasks[0], Silent())
    pairs = embed_pairs(encoder, captioned, tasks[0], Silent())
    repaired: Repaired = RECIPES.get(options.recipe).apply(Sides(images, texts, pairs=pairs))
    found = {}
    for name, task, sides in zip(("i2t", "t2i"), tasks, (repaired, repaired.turned()), strict=True):
        keep = max(options.top, 10)
        found[name] = task, rank(sides.queries, sides.candidates, keep, relevance=task.relevance)
    return found


def measured(loaded: LoadedModel, name: str, task: Task, coarse: Ranking, options: Any) -> dict[str, Any]:
    """One scorer, one direction."""
    begun = time.perf_counter()
    cache = options.cache and f"{options.cache}/answers"
    reranker = Reranker.load(loaded, scorer=name, prompt=options.prompt, tie=options.tie, cache=cache)
    queries = coarse.query_ids[: options.queries]
    done = reranker.rerank(task, coarse, top=options.top, queries=queries, fuse=options.fuse)
    after = score(done.ranking, measures=[HIT])[HIT]
    test = paired_test(after, score(done.coarse, measures=[HIT])[HIT])
    return {
        HIT: round(100 * after.mean, 2),
        "interval": [round(100 * after.low, 2), round(100 * after.high, 2)],
        "against_coarse": [round(100 * test.difference, 2), round(test.p_value, 4)],
        "tie_rate": round(after.tie_rate, 3),
        "unparsed": done.unparsed,
        "asked": done.asked,
        "fell_back": len(done.fell_back),
        "questions": done.questions,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--n", type=int, default=2000, help="gallery")
    parser.add_argument("--captions", type=int, default=500, help="unlabelled images of the coarse stage")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument(
        "--recipe", default="refined", help="the coarse stage: base, self_aligned, refined ..."
    )
    parser.add_argument("--scorers", nargs="*", default=SCORERS.names())
    parser.add_argument("--prompt", default=None, help="wording; by default the one the model was trained on")
    parser.add_argument("--tie", default="none")
    parser.add_argument("--fuse", default="fine")
    parser.add_argument("--cache", help="folder that keeps vectors and answers; seconds mean nothing then")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="append to results/rerank_quality.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, head=True)
    rankings = coarse_rankings(loaded, options)
    settings = {
        name: value for name, value in vars(options).items() if name not in ("scorers", "save", "cache")
    }
    for way, (task, coarse) in rankings.items():
        asked = of_queries(coarse, coarse.query_ids[: options.queries])
        before = 100 * score(asked, measures=[HIT])[HIT].mean
        bound = 100 * score(oracle(asked, options.top), measures=[HIT])[HIT].mean
        for name in options.scorers:
            facts = measured(loaded, name, task, coarse, options)
            facts = {"way": way, "scorer": name, "coarse": before, "bound": bound, **facts}
            report(line("rerank_quality", **settings, **facts), save=options.save)


if __name__ == "__main__":
    main()
