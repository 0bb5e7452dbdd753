"""The page of `clearsight mine`: its clusters with pictures, beside the file of clusters."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.files import to_plain, write_atomic
from clearsight.jobs.compare import item_card
from clearsight.mining.baselines import hard_negatives
from clearsight.mining.clusters import Clusters
from clearsight.mining.strategies import STRATEGIES
from clearsight.names import row_numbers
from clearsight.report.mining import MiningData, ShownCluster, ShownMember, StrategyRow, render_mining

if TYPE_CHECKING:
    from clearsight.jobs.mine import MineConfig
    from clearsight.jobs.mining import MinedSet

CLUSTERS_SHOWN = 8


def shown_clusters(config: MineConfig, done: Sequence[MinedSet]) -> tuple[ShownCluster, ...]:
    """The first clusters of the data sets with their pictures, and the nearest negatives of their anchors."""
    each = -(-CLUSTERS_SHOWN // len(done))
    return tuple(
        shown
        for one in done
        for shown in _shown(one, each, beside=config.strategy not in ("hard", "hard_beta"))
    )[:CLUSTERS_SHOWN]


def _shown(one: MinedSet, count: int, *, beside: bool) -> Iterator[ShownCluster]:
    task, pairs = one.ready.task, one.ready.pairs
    clusters = list(one.clusters.members(0, min(count, len(one.clusters))))
    names = tuple(dict.fromkeys(m.query for members in clusters for m in members if m.query is not None))
    query_row = row_numbers(pairs.query_ids, names)
    names = tuple(dict.fromkeys(m.positive for members in clusters for m in members))
    candidate_row = row_numbers(pairs.candidate_ids, names)
    anchor_G = np.array([query_row[members[0].query or ""] for members in clusters], dtype=np.int64)
    nearest = None
    if beside and len(clusters):
        nearest = hard_negatives(
            one.ready.queries.take(anchor_G),
            one.mining.search(),
            pairs.forbidden_QF.take(anchor_G),
            one.mining.negatives,
        )

    def member(anchor: int, query: int | None, candidate: int, cosine: float, *, own: bool) -> ShownMember:
        wrong = None if own or one.judge is None else one.judge(anchor, candidate)
        asked = None if query is None else item_card(task.queries[query])
        return ShownMember(asked, item_card(task.candidates[candidate]), cosine, wrong)

    for g, members in enumerate(clusters):
        anchor = int(anchor_G[g])
        shown = [
            member(
                anchor,
                None if m.query is None else query_row[m.query],
                candidate_row[m.positive],
                m.similarity,
                own=place == 0,
            )
            for place, m in enumerate(members)
        ]
        others = [
            member(anchor, None, int(pairs.distinct[row]), float(cosine), own=False)
            for row, cosine in (
                () if nearest is None else zip(nearest.row_BK[g], nearest.cosine_BK[g], strict=True)
            )
            if row >= 0
        ]
        label = STRATEGIES.get("hard").label.capitalize()
        yield ShownCluster(task.name, tuple(shown), int(one.clusters.phase_G[g]), label, tuple(others))


def write_page(
    config: MineConfig,
    clusters: Clusters,
    manifest: Mapping[str, Any],
    rows: tuple[StrategyRow, ...],
    shown: tuple[ShownCluster, ...],
    skipped: tuple[tuple[str, str], ...],
) -> Path:
    """The page beside the file of clusters."""
    label = STRATEGIES.get(config.strategy).label
    pairs = len(clusters.table) - len(clusters.left_over) - len(clusters)
    data = MiningData(
        title=f"Clusters for {config.model}: {label}",
        summary=f"{len(clusters):,} clusters with {pairs:,} negatives from {', '.join(config.data)}; "
        f"{len(clusters.left_over):,} queries left over.",
        rows=rows,
        sizes=dict(sorted(Counter(clusters.sizes_G.tolist()).items())),
        phases=dict(sorted(Counter(clusters.phase_G.tolist()).items())),
        clusters=shown,
        left_over=tuple(tuple(one) for one in clusters.left_over),  # type: ignore[misc]
        skipped=skipped,
        manifest=to_plain(manifest),
        commands=(_command(config),),
    )
    page = config.out.with_suffix(".html")
    write_atomic(page, render_mining(data).encode())
    return page


def _command(config: MineConfig) -> str:
    """The command of these settings; defaults are left out."""
    words = ["clearsight", "mine", config.model]
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name == "model" or value == one.default:
            continue
        words += [
            f"--{one.name.replace('_', '-')}",
            ",".join(value) if isinstance(value, tuple) else str(value),
        ]
    return shlex.join(words)
