"""One data set on its way to clusters: vectors, pairs, strategies measured, clusters shown."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.mining.clusters import Clusters, read_clusters, write_clusters
from clearsight.mining.found import name_clusters
from clearsight.mining.pairs import TrainingPairs
from clearsight.mining.quality import Judge, Quality, quality
from clearsight.mining.search import Search, open_search
from clearsight.mining.strategies import STRATEGIES, Mining, check_pairs, distinct_rows, mine_pairs
from clearsight.report.mining import StrategyRow
from clearsight.types import Item, RowSource, Task

if TYPE_CHECKING:
    from clearsight.jobs.mine import MineConfig
    from clearsight.jobs.ui import Ui
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress

CLUSTERS_SHOWN = 8
IN_MEMORY = 1 << 30
"""Bytes of vectors up to which a side is held in memory; beyond that it is read from the store."""
BUILT_IN = ("in_batch", "hard", "hard_beta", "saha", "saha_whole", "saha_release")


@dataclass(frozen=True, eq=False)
class ReadySet:
    """A data set with the vectors of both sides; the task is without the items that were refused."""

    task: Task
    pairs: TrainingPairs
    queries: RowSource
    candidates: RowSource
    digest: str
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class MinedSet:
    """One data set's clusters, and what is known of them."""

    ready: ReadySet
    mining: Mining
    clusters: Clusters
    rows: tuple[StrategyRow, ...]
    judge: Judge | None
    facts: dict[str, Any]


def load_set(encoder: Encoder, task: Task, progress: Progress) -> ReadySet:
    """Embed both sides into the cache, and put pairs and contents into rows."""
    from clearsight.jobs.embedding import side_modality
    from clearsight.jobs.pools import embed_pool
    from clearsight.jobs.ui import Labelled

    kinds = side_modality(task.queries), side_modality(task.candidates)
    encoder.check(task.queries, task.candidates)
    sides: list[RowSource] = []
    skipped: list[tuple[str, str]] = []
    for items, role, counterpart, name in (
        (task.queries, "query", kinds[1], "queries"),
        (task.candidates, task.candidate_role, kinds[0], "candidates"),
    ):
        rows = embed_pool(
            encoder,
            items,
            role,  # type: ignore[arg-type]
            counterpart=counterpart,
            progress=Labelled(progress, f"{name} of {task.name}"),
        )
        assert rows is not None  # only a shard has none
        skipped += rows.skipped.items()
        small = len(rows) * rows.width * 4 <= IN_MEMORY
        sides.append(rows.take(np.arange(len(rows))) if small else rows)
    kept = _without(task, *({*side.ids} for side in sides)) if skipped else task
    contents = [_contents(items, encoder.threads) for items in (kept.queries, kept.candidates)]
    pairs = TrainingPairs.of(kept, query_content=contents[0], candidate_content=contents[1])
    check_pairs(pairs)
    digest = _digest(kept, contents, sides)
    return ReadySet(kept, pairs, sides[0], distinct_rows(pairs, sides[1]), digest, tuple(skipped))


def mine_set(config: MineConfig, spec: str, ready: ReadySet, ui: Ui) -> MinedSet:
    """Mine one data set and measure the strategies asked for, or take what an interrupted run left of it."""
    from clearsight.jobs.mine import parts_folder, settings_of

    opened: list[Search] = []

    def search() -> Search:
        if not opened:
            opened.append(open_search(config.search, ready.candidates, seed=config.seed))
        return opened[0]

    mining = Mining(
        ready.pairs,
        ready.queries,
        ready.candidates,
        search,
        negatives=config.negatives,
        pool=config.pool,
        beta=config.beta,
        seed=config.seed,
        progress=ui.progress,
    )
    judge = known_truth(ready.task)
    asked = json.dumps([settings_of(config), config.search, config.compare, ready.digest], sort_keys=True)
    part = parts_folder(config) / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.parquet"
    if part.is_file():
        kept = read_clusters(part)
        rows = tuple(
            StrategyRow(**{**row, "quality": Quality(**row["quality"])}) for row in kept.manifest["rows"]
        )
        return MinedSet(ready, mining, kept, rows, judge, dict(kept.manifest["facts"]))
    clusters, rows = _measured(config, mining, ready, judge)
    facts = {
        "dataset": ready.task.name,
        "source": spec,
        "files": None if config.files is None else str(config.files),
        "queries": len(ready.pairs.query_ids),
        "candidates": len(ready.pairs.candidate_ids),
        "distinct_candidates": len(ready.pairs.distinct),
        **(opened[0].facts if opened else {}),
        "origin": {"queries": dict(ready.queries.origin), "candidates": dict(ready.candidates.origin)},
    }
    write_clusters(part, clusters, {"rows": rows, "facts": facts})
    return MinedSet(ready, mining, clusters, rows, judge, facts)


def _measured(
    config: MineConfig, mining: Mining, ready: ReadySet, judge: Judge | None
) -> tuple[Clusters, tuple[StrategyRow, ...]]:
    """The clusters of the strategy asked for, and a row for every strategy to measure."""
    others = config.compare or (BUILT_IN if judge else ())
    mining.search()  # an index is built once; no strategy's time holds it
    rows: dict[str, StrategyRow] = {}
    clusters = None
    for name in dict.fromkeys((*others, config.strategy)):
        begun = time.perf_counter()
        found = mine_pairs(name, mining)
        seconds = round(time.perf_counter() - begun, 3)
        measured = quality(ready.pairs, found, ready.queries, ready.candidates, judge, seed=config.seed)
        chosen = name == config.strategy
        rows[name] = StrategyRow(ready.task.name, STRATEGIES.get(name).label, measured, seconds, chosen)
        if chosen:
            clusters = name_clusters([(ready.pairs, found)])
    assert clusters is not None
    return clusters, tuple(rows.values())


def known_truth(task: Task) -> Judge | None:
    """For captions and images of the procedural world: whether a text is true of an image."""
    from clearsight.data import world

    if task.name not in ("world/i2t", "world/t2i"):
        return None

    def judge(query: int, candidate: int) -> bool:
        image, words = task.queries[query], task.candidates[candidate]
        if image.image is None:
            image, words = words, image
        return world.caption_is_consistent(words.text or "", image)

    return judge


def _contents(items: Sequence[Item], threads: int) -> list[str]:
    """A key for what each item holds; images are read by threads."""
    from clearsight.data.content import content_key
    from clearsight.models.batching import ahead

    workers = threads if any(item.image is not None for item in items[:1]) else 0
    return [future.result() for _, future in ahead(content_key, items, workers=workers, depth=256)]


def _without(task: Task, queries: set[str], candidates: set[str]) -> Task:
    """The task without items that were refused."""
    return replace(
        task,
        queries=tuple(item for item in task.queries if item.id in queries),
        candidates=tuple(item for item in task.candidates if item.id in candidates),
        relevance={
            query: {name: grade for name, grade in grades.items() if name in candidates}
            for query, grades in task.relevance.items()
            if query in queries
        },
        excluded={
            query: [name for name in names if name in candidates]
            for query, names in task.excluded.items()
            if query in queries
        },
    )


def _digest(task: Task, contents: Sequence[Sequence[str]], sides: Sequence[RowSource]) -> str:
    """What clusters depend on beside the settings: names, contents, relevance, and how vectors were made."""
    digest = hashlib.sha256()
    for side, keys in zip(sides, contents, strict=True):
        digest.update(json.dumps(dict(side.origin), sort_keys=True, default=str).encode())
        for name, key in zip(side.ids, keys, strict=True):
            digest.update(f"{len(name)}:{name}{key}".encode("utf-8", "surrogatepass"))
    for table in (task.relevance, task.excluded):
        digest.update(json.dumps([[q, list(members)] for q, members in table.items()]).encode())
    return digest.hexdigest()
