"""The mining page: strategies side by side, sizes of clusters, and clusters with their pictures (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clearsight.report import text
from clearsight.report.data import Card
from clearsight.report.page import environment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clearsight.mining.quality import Quality

LEFT_OVER_SHOWN = 50


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """One strategy on one data set.

    Attributes:
        label: such as "SaHa".
        chosen: whether the file's clusters are of this strategy.
        seconds: of mining alone, vectors given.
    """

    dataset: str
    label: str
    quality: Quality
    seconds: float
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class ShownMember:
    """A member of a cluster: its query (None: the candidate stands alone), its candidate, its cosine with the
    anchor, and whether the candidate is right for the anchor too (None where the truth is not known).
    """

    query: Card | None
    candidate: Card
    similarity: float
    false_negative: bool | None = None


@dataclass(frozen=True, slots=True)
class ShownCluster:
    """A cluster with pictures, the anchor first, and beside it what another strategy takes for the anchor."""

    dataset: str
    members: tuple[ShownMember, ...]
    phase: int
    others_label: str = ""
    others: tuple[ShownMember, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MiningData:
    """Everything on the page.

    Attributes:
        summary: one plain sentence.
        rows: strategies, by data set.
        sizes: members of a cluster, the anchor counted -> how many clusters.
        phases: phase -> how many clusters.
        left_over: (data set, query, why) of queries in no cluster.
    """

    title: str
    summary: str
    rows: tuple[StrategyRow, ...]
    sizes: Mapping[int, int]
    phases: Mapping[int, int]
    clusters: tuple[ShownCluster, ...] = ()
    left_over: tuple[tuple[str, str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def render_mining(data: MiningData) -> str:
    """The whole page as one HTML document that runs no script and asks nothing of the network."""
    known = any(row.quality.false_negatives is not None for row in data.rows)
    html = (
        environment()
        .get_template("mining.html.j2")
        .render(
            data=data,
            known=known,
            tables=_by_dataset(data.rows),
            sizes=_bars(data.sizes),
            left_shown=data.left_over[:LEFT_OVER_SHOWN],
        )
    )
    return text.clean(html)


def mining_table(rows: Sequence[StrategyRow], width: int = 100) -> RenderableType:
    """The strategies as a table of at most `width` columns; false negatives where the truth is known."""
    from rich.table import Table

    known = any(row.quality.false_negatives is not None for row in rows)
    several = len({row.dataset for row in rows}) > 1
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, width=None if width >= 80 else width)
    for name in (["data set"] if several else []) + ["strategy"]:
        table.add_column(name)
    columns = ["clusters", "size", "left over", "cosine"]
    for name in columns + (["false negatives %", "false pairs %"] if known else []):
        table.add_column(name, justify="right")
    for row in rows:
        found = row.quality
        cells = [row.dataset] if several else []
        cells += [f"[bold]{row.label}[/bold]" if row.chosen else row.label, f"{found.clusters:,}"]
        cells += [f"{found.mean_size:.1f}", f"{found.left_over:,}", f"{found.cosine:.3f}"]
        table.add_row(*cells, *([false_share(found), pair_share(found)] if known else []))
    return table


def false_share(found: Quality) -> str:
    """The rate of false negatives in per cent with its interval."""
    if found.false_negatives is None or found.low is None or found.high is None:
        return text.NONE
    return f"{100 * found.false_negatives:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


def pair_share(found: Quality) -> str:
    """The rate of false pairs in per cent."""
    return text.NONE if found.false_pairs is None else f"{100 * found.false_pairs:.1f}"


def _by_dataset(rows: Sequence[StrategyRow]) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        line = {"row": row, "false": false_share(row.quality), "pairs": pair_share(row.quality)}
        tables.setdefault(row.dataset, []).append(line)
    return tables


def _bars(sizes: Mapping[int, int]) -> list[tuple[int, int, str]]:
    """Size, clusters, and the bar's length in per cent of the longest."""
    most = max(sizes.values(), default=1)
    return [(size, sizes[size], f"{100 * sizes[size] / most:.1f}%") for size in sorted(sizes)]
