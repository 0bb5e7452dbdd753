"""False negatives of each strategy on data whose truth is known: the procedural world, seen several times.

Every scene is drawn and described several times, as a large collection holds near-equal pictures, and the
labels know only each caption's own picture. A caption is true of every drawing of its scene, so the truth
goes beyond the labels. Vectors are those of a shipped model.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from harness import line, report

from clearsight.data.content import content_key
from clearsight.data.scenes import draw
from clearsight.data.scenes_read import consistent
from clearsight.data.scenes_text import caption
from clearsight.data.world import scenes
from clearsight.mining import STRATEGIES, ExactSearch, Mining, TrainingPairs, mine_pairs
from clearsight.mining.quality import quality
from clearsight.mining.strategies import distinct_rows
from clearsight.models.encoder import Encoder
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--times", type=int, default=3, help="drawings and captions of a scene")
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--pools", default="4,6,8", help="pool multipliers of SaHa (Table VIII)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default=".cache/clearsight/vectors")
    parser.add_argument("--save", action="store_true", help="append to results/mine_quality.jsonl")
    options = parser.parse_args()
    task, scene_of = world_seen_again(options.scenes, options.times, options.seed)
    encoder = Encoder.load(options.model, prompt="one_word", cache=options.cache)
    queries = encoder.embed(task.queries, "query", counterpart="image")
    candidates = encoder.embed(task.candidates, "candidate", counterpart="text")
    pairs = TrainingPairs.of(
        task,
        query_content=[content_key(item) for item in task.queries],
        candidate_content=[content_key(item) for item in task.candidates],
    )
    rows = []
    for name in STRATEGIES:
        pools = options.pools.split(",") if name.startswith("saha") else [4]
        for pool in map(int, pools):
            right = distinct_rows(pairs, candidates)
            mining = Mining(
                pairs,
                queries,
                right,
                lambda right=right: ExactSearch(right),
                negatives=options.negatives,
                pool=pool,
                seed=options.seed,
            )
            begun = time.perf_counter()
            found = mine_pairs(name, mining)
            seconds = time.perf_counter() - begun
            measured = quality(
                pairs, found, queries, right, lambda q, c: consistent(task.queries[q].text, scene_of[c])
            )
            rows.append({"strategy": name, "pool": pool, "seconds": round(seconds, 3), "quality": measured})
            print(
                f"{name:13} pool {pool}: {measured.clusters:5} clusters of {measured.mean_size:.2f}, "
                f"{measured.left_over:4} left, cosine {measured.cosine:.3f}, false {false_share(measured)}%, "
                f"pairs {pair_share(measured)}%"
            )
    from clearsight.files import to_plain

    sizes = {key: getattr(options, key) for key in ("model", "scenes", "times", "negatives", "seed")}
    report(line("mine_quality", sizes=sizes, rows=to_plain(rows)), save=options.save)


if __name__ == "__main__":
    main()
