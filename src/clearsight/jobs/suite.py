"""Many sets in one go: from the names a user gives to tasks, and from sets to a benchmark's averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clearsight.data.benchmarks import Benchmark
    from clearsight.report.data import ResultRow
    from clearsight.types import Score


def expand(names: str | Sequence[str], data: Path | None) -> list[str]:
    """Task names, a benchmark's name standing for its sets that are on disk, and so a group of its sets.

    `mmeb` is every set of its average "all" (every set it has, where it has no such average) whose files lie
    in `data`, `mmeb/retrieval` those of the average "retrieval".

    Raises:
        UsageError: a benchmark without data. DataError: none of its sets is there.
    """
    from clearsight.data.benchmarks import BENCHMARKS

    found: dict[str, None] = {}
    for name in (names,) if isinstance(names, str) else names:
        first, _, second = name.partition("/")
        benchmark = BENCHMARKS.get(first) if first in BENCHMARKS.names() else None
        if benchmark is None or second in benchmark.sets or (second and second not in benchmark.groups):
            found[name] = None
        else:
            wanted = benchmark.groups[second] if second else benchmark.groups.get("all", benchmark.sets)
            found.update((f"{first}/{one}", None) for one in _on_disk(benchmark, wanted, name, data))
    return list(found)


def _on_disk(benchmark: Benchmark, wanted: Sequence[str], name: str, data: Path | None) -> list[str]:
    from clearsight.data.benchmarks.base import not_this
    from clearsight.data.sources import TaskOptions

    folder = TaskOptions(data=data).need_data(name)
    there = benchmark.found(folder)
    sets = [one for one in wanted if one in there]
    if not sets:
        raise not_this(benchmark.name, folder, f"the files of at least one set of '{name}'")
    return sets


def averages(rows: Mapping[str, Sequence[ResultRow]]) -> list[ResultRow]:
    """A benchmark's averages over those of its sets that were judged: each set counts once.

    Args:
        rows: task -> its rows; the first measure of each row's scores is what the set reports.

    Returns:
        For every benchmark with several sets here, and every group of which at least two are: a row for each
        embedding and repair, tested against the same rival as the rows it averages.
    """
    from clearsight.data.benchmarks import BENCHMARKS

    made: list[ResultRow] = []
    for name in BENCHMARKS:
        benchmark = BENCHMARKS.get(name)
        for group, sets in benchmark.groups.items():
            members = [rows[task] for task in (f"{name}/{one}" for one in sets) if task in rows]
            if len(members) > 1:
                label = f"{benchmark.title}, {group}: mean of {len(members)} sets"
                if len(members) < len(sets):
                    label += f" of {len(sets)}"
                made += _averaged(label, members)
    return made


def _averaged(label: str, members: Sequence[Sequence[ResultRow]]) -> list[ResultRow]:
    """One row for each line that all members have."""
    from clearsight.metrics import mean_over_sets, paired_test_over_sets
    from clearsight.report.data import ResultRow

    by_line = [{_line(row): row for row in rows} for rows in members]
    made = []
    for line, first in by_line[0].items():
        of_line = [rows.get(line) for rows in by_line]
        if not all(of_line):
            continue
        scores = [_headline(row) for row in of_line if row]
        rivals = [rows.get((line[0], first.against or "", line[2])) for rows in by_line]
        test = None
        if first.against and all(rivals):
            test = paired_test_over_sets(scores, [_headline(row) for row in rivals if row])
        mean = mean_over_sets(scores)
        made.append(
            ResultRow(
                label,
                first.embedding,
                first.repair,
                {mean.measure: mean},
                first.against if test else None,
                test,
                first.note,
            )
        )
    return made


def _line(row: ResultRow) -> tuple[str, str, str]:
    return row.embedding, row.repair, row.note


def _headline(row: ResultRow) -> Score:
    return next(iter(row.scores.values()))
