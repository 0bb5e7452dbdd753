"""`clearsight tasks`: what there is to evaluate on, where to get it, and what of it is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.errors import DataError, UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clearsight.data.benchmarks import Benchmark


@dataclass(frozen=True)
class TasksConfig:
    """Show the benchmarks: sets, measures, where to get them, size, licence; and what is on disk."""

    name: Annotated[str | None, "one benchmark, such as mmeb or mmeb/CIRR, in detail"] = field(
        default=None, metadata={"positional": True}
    )
    data: Annotated[Path | None, "folder in which to look for them: it, and the folders in it"] = None


@dataclass(frozen=True)
class BenchmarkFacts:
    """One benchmark as shown.

    Attributes:
        sets: all of them; a task is `<name>/<set>`.
        folder: where it was found; None where nothing was, or nobody looked.
        found: its sets there; None where nobody looked.
        averages: name of an average -> its sets.
    """

    name: str
    title: str
    sets: tuple[str, ...]
    measures: tuple[str, ...]
    source: str
    size: str
    licence: str
    layout: str
    citation: str
    averages: Mapping[str, tuple[str, ...]]
    folder: str | None
    found: tuple[str, ...] | None

    @property
    def on_disk(self) -> str:
        """Such as "5 of 36"; empty where nobody looked."""
        if self.found is None:
            return ""
        return f"{len(self.found)} of {len(self.sets)}" if self.found else "no"


@dataclass(frozen=True)
class TasksResult:
    """The benchmarks, and the task sources that need no download."""

    benchmarks: tuple[BenchmarkFacts, ...]
    others: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"benchmarks": [asdict(facts) for facts in self.benchmarks], "others": list(self.others)}


def tasks(config: TasksConfig, ui: Ui | None = None) -> TasksResult:
    """The benchmarks as a table; one of them in detail where a name is given.

    Raises:
        UsageError: no benchmark or set of that name (the nearest is given).
        DataError: the folder to look in does not exist.
    """
    from clearsight.data import task_sources
    from clearsight.data.benchmarks import BENCHMARKS

    ui = ui or Quiet()
    if config.data is not None and not config.data.is_dir():
        raise DataError("There is no such folder.", where=str(config.data), do="Correct --data.")
    if config.name is not None:
        name, _, asked = config.name.partition("/")
        facts = _facts(_checked(BENCHMARKS.get(name), asked), config.data)
        ui.show(_detail(facts))
        return TasksResult((facts,), ())
    every = tuple(_facts(BENCHMARKS.get(name), config.data) for name in BENCHMARKS)
    others = tuple(name for name in task_sources() if name.partition("/")[0] not in BENCHMARKS.names())
    ui.show(_overview(every, others, looked=config.data is not None))
    return TasksResult(every, others)


def _checked(benchmark: Benchmark, asked: str) -> Benchmark:
    if asked and asked not in benchmark.sets and benchmark.known_as(asked) is None:
        raise UsageError(
            f"{benchmark.title} has no set '{asked}'.", do=f"There are: {', '.join(benchmark.sets)}."
        )
    return benchmark


def _facts(benchmark: Benchmark, data: Path | None) -> BenchmarkFacts:
    folder, found = (None, None) if data is None else _on_disk(benchmark, data)
    return BenchmarkFacts(
        name=benchmark.name,
        title=benchmark.title,
        sets=benchmark.sets,
        measures=benchmark.measures,
        source=benchmark.source or "unknown",
        size=benchmark.size or "unknown",
        licence=benchmark.licence or "unknown",
        layout=benchmark.layout,
        citation=benchmark.citation,
        averages=dict(benchmark.groups),
        folder=None if folder is None else str(folder),
        found=found,
    )


def _on_disk(benchmark: Benchmark, data: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The folder with most of its sets, `data` first, then those in it; and these sets."""
    inside = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    best: tuple[Path | None, tuple[str, ...]] = (None, ())
    for place in (data, *inside):
        found = benchmark.found(place)
        if len(found) > len(best[1]):
            best = place, found
    return best


def _overview(every: tuple[BenchmarkFacts, ...], others: tuple[str, ...], *, looked: bool) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in (
        "benchmark",
        "",
        "sets",
        "measure",
        "download",
        "licence",
        *(["on disk"] if looked else []),
    ):
        table.add_column(title, no_wrap=title in ("benchmark", "sets", "measure", "on disk"), overflow="fold")
    for facts in every:
        cells = [facts.name, facts.title, str(len(facts.sets)), facts.measures[0], facts.size, facts.licence]
        table.add_row(*(Text(cell) for cell in (*cells, *([facts.on_disk] if looked else []))))
    sources = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for facts in every:
        sources.add_row(Text(facts.name), Text(facts.source, overflow="fold"))
    return Group(
        table,
        Text("\nWhere to get them", "bold"),
        sources,
        Text("\nOther task sources: ", "bold").append(", ".join(others), "not bold"),
        Text(
            "A task is <benchmark>/<set>; its files are given with --data: a folder, or hub:OWNER/NAME where "
            "one is named above.\nSets and layout: `clearsight tasks NAME`. What is on disk: --data FOLDER.",
            "dim",
        ),
    )


def _detail(facts: BenchmarkFacts) -> RenderableType:
    from rich.columns import Columns
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    averages = ", ".join(f"{name} ({len(sets)})" for name, sets in facts.averages.items())
    rows = {
        "benchmark": f"{facts.title} ({facts.name})",
        "paper": facts.citation,
        "measures": ", ".join(facts.measures),
        "get it from": facts.source,
        "download": facts.size,
        "licence": facts.licence,
        "layout": facts.layout,
        "averages": averages,
        "on disk": f"{facts.on_disk}{f', in {facts.folder}' if facts.folder else ''}",
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        if value:
            table.add_row(Text(name, "bold"), Text(value, overflow="fold"))
    here = set(facts.found or ())
    sets = [Text(f"{'* ' if name in here else '  '}{facts.name}/{name}") for name in facts.sets]
    legend = "Sets, those on disk with *" if facts.found is not None else "Sets"
    return Group(table, Text(f"\n{legend}", "bold"), Columns(sets, padding=(0, 2)))
