"""False negatives of each strategy on data whose truth is known: the procedural world, seen several times.

Every scene is drawn and described several times, as a large collection holds near-equal pictures, and the
labels know only each caption's own picture. A caption is true of every drawing of its scene, so the truth
goes beyond the labels. Vectors are those of a shipped model, as they are or repaired by the statistics of
these very rows; rows of several seeds are other worlds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cache

import numpy as np
from harness import line, report

from clearsight.data.content import content_key
from clearsight.data.scenes import draw
from clearsight.data.scenes_read import consistent
from clearsight.data.scenes_text import caption
from clearsight.data.world import scenes
from clearsight.files import to_plain
from clearsight.jobs.embedding import Captioned, embed_pairs, self_caption
from clearsight.jobs.recipes import RECIPES, Sides
from clearsight.mining import STRATEGIES, ExactSearch, Mining, TrainingPairs, mine_pairs
from clearsight.mining.quality import quality
from clearsight.mining.strategies import distinct_rows
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.progress import Silent
from clearsight.report.mining import false_share, pair_share
from clearsight.types import Item, Task


def world_seen_again(count: int, times: int, seed: int) -> tuple[Task, list]:
    """Captions looking for their pictures, and the scene of every row."""
    rng = np.random.default_rng([seed, 1])
    shown = [scene for scene in scenes(count, seed) for _ in range(times)]
    order = rng.permutation(len(shown))
    shown = [shown[i] for i in order]
    texts = tuple(Item(f"text-{i}", text=caption(scene, rng)) for i, scene in enumerate(shown))
    images = tuple(Item(f"image-{i}", image=draw(scene, rng)) for i, scene in enumerate(shown))
    relevance = {text.id: {image.id: 1.0} for text, image in zip(texts, images, strict=True)}
    return Task("world seen again", texts, images, relevance), shown


def measure(options: argparse.Namespace, encoder: Encoder, seed: int) -> list[dict]:
    task, scene_of = world_seen_again(options.scenes, options.times, seed)
    queries = encoder.embed(task.queries, "query", counterpart="image")
    candidates = encoder.embed(task.candidates, "candidate", counterpart="text")
    pairs = TrainingPairs.of(
        task,
        query_content=[content_key(item) for item in task.queries],
        candidate_content=[content_key(item) for item in task.candidates],
    )
    right = distinct_rows(pairs, candidates)
    known = cache(lambda query, candidate: consistent(task.queries[query].text, scene_of[candidate]))
    captioned: Captioned | None = None
    rows = []
    for repair in options.repairs.split(","):
        sides = Sides(queries, right)
        if repair in ("self_aligned", "refined"):
            if captioned is None:
                captioned = self_caption(Captioner(encoder.loaded), task.candidates[:500], Silent())
            sides = replace(sides, pairs=embed_pairs(encoder, captioned, task, Silent()))
        repaired = RECIPES.get(repair).apply(sides)
        left, right_N = repaired.queries, repaired.candidates
        for name in options.strategies.split(","):
            pools = options.pools.split(",") if name.startswith("saha") else [4]
            for pool in map(int, pools):
                mining = Mining(
                    pairs,
                    left,
                    right_N,
                    lambda right_N=right_N: ExactSearch(right_N),
                    negatives=options.negatives,
                    pool=pool,
                    seed=seed,
                )
                begun = time.perf_counter()
                found = mine_pairs(name, mining)
                seconds = time.perf_counter() - begun
                measured = quality(pairs, found, left, right_N, known)
                rows.append(
                    {
                        **{"seed": seed, "repair": repair, "strategy": name, "pool": pool},
                        **{"seconds": round(seconds, 3), "quality": measured},
                    }
                )
                print(
                    f"seed {seed} {repair:12} {name:13} pool {pool}: {measured.clusters:5} clusters of "
                    f"{measured.mean_size:.2f}, {measured.left_over:4} left, cosine {measured.cosine:.3f}, "
                    f"false {false_share(measured)}%, pairs {pair_share(measured)}%",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repairs", default="base", help="recipes: base, centred, realign, self_aligned")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--times", type=int, default=3, help="drawings and captions of a scene")
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--pools", default="4,6,8", help="pool multipliers of SaHa (Table VIII)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", default=".cache/clearsight/vectors")
    parser.add_argument("--save", action="store_true", help="append to results/mine_quality.jsonl")
    options = parser.parse_args()
    captions = "self_aligned" in options.repairs or "refined" in options.repairs
    loaded = load_model(options.model, head=captions)
    encoder = Encoder(loaded, prompt="one_word", pooling="mean", cache=options.cache)
    rows = [row for seed in map(int, options.seeds.split(",")) for row in measure(options, encoder, seed)]
    sizes = {
        key: getattr(options, key) for key in ("model", "repairs", "scenes", "times", "negatives", "seeds")
    }
    report(line("mine_quality", sizes=sizes, rows=to_plain(rows)), save=options.save)


if __name__ == "__main__":
    main()
