"""What training on mined clusters brings the shipped model, and what it costs.

Pairs of the world's spare scenes train (no task shows them), its held-out scenes test: hit rate@1 in percent,
image to text, text to image and composed. Rows: no training, ReAlign, and LoRA on clusters of every strategy
at equal steps, and at equal time (mining counted, the budget is that of in-batch); SaHa by pool multiplier
(Table VIII of From Generator to Embedder); SaHa with the next-token loss mixed in. Batches hold about as many
items for every strategy, as in its Table VII: anchors with their negatives alone count one query. Seconds are
the process's own CPU seconds on one thread, so that other work on the machine hardly counts.

Intervals are bootstraps over queries of the mean over seeds. Every result is kept in --kept as soon as it is
there: the same command goes on. On one core: --short about 10 minutes, the default about half an hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import line, report

from clearsight.data import world
from clearsight.data.content import content_key
from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption
from clearsight.jobs.embedding import embed_task
from clearsight.jobs.recipes import RECIPES, Sides
from clearsight.metrics import score
from clearsight.mining import Mining, TrainingPairs, mine_pairs, open_search
from clearsight.mining.clusters import Clusters
from clearsight.mining.found import name_clusters
from clearsight.mining.parts import join_clusters
from clearsight.mining.strategies import distinct_rows
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.models.tiny.score import caption_scores
from clearsight.progress import Silent
from clearsight.ranking import rank
from clearsight.training import TrainSettings, train
from clearsight.training.processes import Processes
from clearsight.types import Item, Task

HIT = "hit_rate@1"
MINED = ("in_batch", "hard", "hard_beta", "saha")
POOLS = (2, 4, 6, 8)
SAID = 20.0
"""Weight of the next-token loss: at temperature 0.02 the gradient of InfoNCE is fifty times a cosine's."""
CPU = Processes("cpu")


def spare_tasks(n: int) -> list[Task]:
    """Both directions of n pairs that neither the tasks nor the shipped model's training have seen."""
    rng = np.random.default_rng([7, n])
    shown = world.scenes(n, 7, "spare", "train_quality")
    images = tuple(Item(f"image-{s.code}", image=draw(s, rng)) for s in shown)
    texts = tuple(Item(f"text-{s.code}", text=caption(s, rng)) for s in shown)
    both = list(zip(images, texts, strict=True))
    return [
        Task("spare/i2t", images, texts, {i.id: {t.id: 1.0} for i, t in both}),
        Task("spare/t2i", texts, images, {t.id: {i.id: 1.0} for i, t in both}),
    ]


def test_tasks(options: Any) -> dict[str, Task]:
    return {
        "i2t": world.image_to_text(options.test),
        "t2i": world.text_to_image(options.test),
        "composed": world.composed(options.test // 2),
    }


def per_query(encoder: Encoder, tasks: dict[str, Task], recipe: str | None = None) -> dict[str, list[float]]:
    """Hit rate@1 of every query."""
    found = {}
    for name, task in tasks.items():
        queries, candidates = embed_task(encoder, task, Silent())
        if recipe is not None:
            repaired = RECIPES.get(recipe).apply(Sides(queries, candidates))
            queries, candidates = repaired.queries, repaired.candidates
        ranking = rank(queries, candidates, 10, relevance=task.relevance, excluded=task.excluded)
        found[name] = score(ranking, measures=[HIT])[HIT].values_Q.tolist()
    return found


@cache
def embedded(prompt: str, pooling: str, n: int) -> tuple[list[Any], float]:
    """Pairs and vectors of the training tasks by the untrained model, and the seconds: one pass for all
    strategies, its time counted to each that uses it."""
    began = time.process_time()
    encoder = Encoder.load("tiny", prompt=prompt, pooling=pooling)
    found = []
    for task in spare_tasks(n):
        contents = [[content_key(item) for item in side] for side in (task.queries, task.candidates)]
        pairs = TrainingPairs.of(task, query_content=contents[0], candidate_content=contents[1])
        queries, candidates = embed_task(encoder, task, Silent())
        found.append((pairs, queries, distinct_rows(pairs, candidates)))
    return found, time.process_time() - began


def mined(options: Any, strategy: str, pool: int, seed: int) -> tuple[Clusters, float]:
    """Clusters by the model before training, and the seconds that embedding (where it is needed) and mining
    took."""
    sets, seconds = embedded(options.prompt, options.pooling, options.train)
    began = time.process_time()
    parts = []
    for pairs, queries, rows in sets:
        search = partial(open_search, "exact", rows)
        mining = Mining(pairs, queries, rows, search, negatives=options.negatives, pool=pool, seed=seed)
        parts.append(name_clusters([(pairs, mine_pairs(strategy, mining))]))
    spent = time.process_time() - began
    return join_clusters(parts), spent + (0.0 if strategy == "in_batch" else seconds)


def batch_of(strategy: str, options: Any) -> int:
    """Clusters of a step: negatives that stand alone bring no query, so that more clusters cost the same."""
    items = 2 * (options.negatives + 1) * options.batch
    return round(items / (options.negatives + 2)) if strategy in ("hard", "hard_beta") else options.batch


def trained(
    tasks: list[Task],
    tests: dict[str, Task],
    options: Any,
    strategy: str,
    *,
    steps: int,
    seed: int,
    pool: int = 4,
    caption_weight: float = 0.0,
) -> dict[str, Any]:
    """One training and its scores."""
    made, mine_seconds = mined(options, strategy, pool, seed)
    settings = TrainSettings(
        prompt=options.prompt,
        pooling=options.pooling,
        batch=batch_of(strategy, options),
        steps=steps,
        warmup=max(1, steps // 10),
        rate=options.rate,
        dropout=options.dropout,
        caption_weight=caption_weight,
        seed=seed,
        save_every=10**6,
    )
    out = Path(tempfile.mkdtemp())
    began = time.process_time()
    done = train("tiny", made, {task.name: task for task in tasks}, settings, out, processes=CPU)
    seconds = time.process_time() - began
    shutil.rmtree(out)
    return {
        "clusters": len(made),
        "steps": steps,
        "mine_seconds": mine_seconds,
        "train_seconds": seconds,
        "step_seconds": seconds / steps,
        "tokens": float(np.mean([row.tokens for row in done.history])),
        "loss": [done.history[0].loss, done.history[-1].loss],
        "values": per_query(done.encoder, tests),
        "captions": captioned(done.encoder, options),
    }


def captioned(encoder: Encoder, options: Any) -> dict[str, float]:
    """Share of captions (%) in which all is true, and that also name every object."""
    images = world.image_to_text(options.captions, seed=1).queries
    texts = Captioner(encoder.loaded).caption(images)
    scores = caption_scores(texts, [world.scene_of(item) for item in images])
    return {name: scores[name] for name in ("consistent", "complete")}


def runs(options: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(section, row, arguments of `trained`) of everything to be done, in order."""
    seeds = range(options.seeds)
    for seed in seeds:
        for strategy in MINED:
            yield "equal steps", strategy, {"strategy": strategy, "seed": seed, "steps": options.steps}
    for seed in seeds:
        for pool in [p for p in POOLS if p != 4] if not options.short else []:
            arguments = {"strategy": "saha", "seed": seed, "steps": options.steps, "pool": pool}
            yield "pool", f"saha, pool {pool}", arguments
        arguments = {"strategy": "saha", "seed": seed, "steps": options.steps, "caption_weight": SAID}
        yield "captions", "saha + next token", arguments
    for seed in seeds:
        for strategy in MINED[1:]:
            yield "equal time", strategy, {"strategy": strategy, "seed": seed}


def interval(values_SQ: np.ndarray[Any, Any]) -> list[float]:
    """Mean over seeds and queries in percent, and its 95% bootstrap over queries."""
    mean_Q = values_SQ.mean(axis=0)
    rng = np.random.default_rng(0)
    drawn = rng.choice(mean_Q, (2000, len(mean_Q))).mean(axis=1)
    return [round(100 * float(x), 1) for x in (mean_Q.mean(), *np.quantile(drawn, [0.025, 0.975]))]


class Kept:
    """Results by name, in a file of JSON lines."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [json.loads(one) for one in lines]
        self.results = {one["name"]: one["result"] for one in found if one["settings"] == settings}

    def get(self, name: str, make: Any) -> dict[str, Any]:
        if name not in self.results:
            self.results[name] = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                kept = {"name": name, "settings": self.settings, "result": self.results[name]}
                file.write(json.dumps(kept) + "\n")
        return self.results[name]

    def least(self, start: str, seeds: int) -> dict[str, float]:
        """The least CPU seconds of mining and of a step among the seeds' results."""
        found = [self.results[f"{start}{seed}"] for seed in range(seeds)]
        return {name: min(one[name] for one in found) for name in ("mine_seconds", "step_seconds")}


def table(section: str, row: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: means and intervals in percent, and what it cost on average."""
    facts: dict[str, Any] = {"section": section, "row": row}
    for way in results[0]["values"]:
        values_SQ = np.array([one["values"][way] for one in results])
        facts[way] = interval(values_SQ)
        facts[f"{way} by seed"] = [round(100 * float(v), 1) for v in values_SQ.mean(axis=1)]
    for name in ("steps", "mine_seconds", "train_seconds", "step_seconds", "tokens", "clusters"):
        if name in results[0]:
            facts[name] = round(float(np.mean([one[name] for one in results])), 2)
    if "captions" in results[0]:
        names = results[0]["captions"]
        facts["captions"] = {n: round(float(np.mean([r["captions"][n] for r in results])), 1) for n in names}
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=384, help="pairs, each in both directions")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--captions", type=int, default=100, help="images captioned after each training")
    parser.add_argument("--prompt", default="one_word")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--negatives", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="clusters of a step")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="2 on busy cores is far slower than 1")
    parser.add_argument("--short", action="store_true", help="15 steps, 200 test items, no pool multipliers")
    parser.add_argument("--kept", type=Path, default=Path("runs/train_quality.jsonl"))
    parser.add_argument("--save", action="store_true", help="append to results/train_quality.jsonl")
    options = parser.parse_args()
    if options.short:
        options.steps, options.test, options.train, options.captions = 15, 200, 256, 40
    torch.set_num_threads(options.threads)
    settings = {k: v for k, v in vars(options).items() if k not in ("kept", "save", "seeds", "threads")}
    kept = Kept(options.kept, settings)
    tasks, tests = spare_tasks(options.train), test_tasks(options)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def untrained(recipe: str | None) -> dict[str, Any]:
        loaded = load_model("tiny", head=True)
        encoder = Encoder(loaded, prompt=options.prompt, pooling=options.pooling)
        return {"values": per_query(encoder, tests, recipe), "captions": captioned(encoder, options)}

    rows["untrained", "none"] = [kept.get("none", lambda: untrained(None))]
    rows["untrained", "realign"] = [kept.get("realign", lambda: untrained("realign"))]
    for section, row, arguments in runs(options):
        seed = arguments["seed"]
        if section == "equal time":
            # The least of the seeds: other work on the machine only adds to them.
            base, own = (kept.least(f"equal steps/{name}/", options.seeds) for name in ("in_batch", row))
            budget = base["mine_seconds"] + options.steps * base["step_seconds"] - own["mine_seconds"]
            arguments = {**arguments, "steps": max(1, int(budget / own["step_seconds"]))}

        def make(arguments: dict[str, Any] = arguments) -> dict[str, Any]:
            return trained(tasks, tests, options, **arguments)

        rows.setdefault((section, row), []).append(kept.get(f"{section}/{row}/{seed}", make))
    for (section, row), results in rows.items():
        report(line("train_quality", settings=settings, **table(section, row, results)), save=options.save)


if __name__ == "__main__":
    main()
