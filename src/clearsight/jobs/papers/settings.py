"""Rows that differ by prompt, pooling and repair, measured on tasks, and shaped into cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clearsight.jobs.papers.base import Cell, Published, scored_cell
from clearsight.jobs.papers.bench import Bench

if TYPE_CHECKING:
    from clearsight.types import Score, Task


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table for one model: how its items become vectors.

    Attributes:
        label: the row's name behind the model's; empty for a table with one row a model.
        repair: a recipe of `clearsight.jobs.recipes`.
        against: label of the row that the paired test compares with; None for none.
    """

    label: str
    prompt: str
    pooling: str = "last"
    repair: str = "base"
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the mean over tasks of one measure.

    Attributes:
        label: as the paper writes it.
        tasks: keys of the measured tasks.
        measure: of the tasks; None takes each task's own first.
        expected: how many tasks the paper's number is over; 0: as many as there are.
        groups: the mean is over these of the means over their tasks; empty: over the tasks alike.
    """

    label: str
    tasks: tuple[str, ...]
    measure: str | None = None
    expected: int = 0
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """setting's label -> task -> measure -> score, of one model."""

    model: str
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]]


def row_name(model: str, label: str) -> str:
    return f"{model}, {label}" if label else model


def measure(bench: Bench, model: str, settings: Sequence[Setting], tasks: Mapping[str, Task]) -> Measured:
    """Every setting on every task. Tasks of several sets are embedded one after the other, none is kept."""
    from clearsight.jobs.recipes import RECIPES, Sides, in_memory
    from clearsight.jobs.trials import scored

    found: dict[str, dict[str, Mapping[str, Score]]] = {setting.label: {} for setting in settings}
    for name, whole in tasks.items():
        for setting in settings:
            encoder = bench.encoder(model, setting.prompt, setting.pooling)
            task, queries, candidates = bench.sides(encoder, whole)
            repaired = RECIPES.get(setting.repair).apply(Sides(queries, candidates))
            found[setting.label][name] = scored(task, repaired.queries, in_memory(repaired.candidates))
    return Measured(bench.table.label_of(model), found)


def cells_of(
    table: Published, measured: Measured, settings: Sequence[Setting], columns: Sequence[Column]
) -> list[Cell]:
    """A cell for each setting and column that has a task, each tested against the setting it names."""
    from clearsight.jobs.papers.averages import set_weights
    from clearsight.metrics import mean_over_sets, paired_test_over_sets

    cells = []
    for setting in settings:
        for column in columns:
            there = [task for task in column.tasks if task in measured.scores[setting.label]]
            if not there:
                continue
            weights = set_weights(there, column.groups or (column.tasks,))
            ours = _scores(measured, setting.label, column, there)
            against = None
            if setting.against is not None:
                theirs = _scores(measured, setting.against, column, there)
                against = (
                    row_name(measured.model, setting.against),
                    paired_test_over_sets(ours, theirs, weights),
                )
            few = column.expected and len(there) != column.expected
            cells.append(
                scored_cell(
                    table,
                    row_name(measured.model, setting.label),
                    column.label,
                    ours[0] if len(ours) == 1 else mean_over_sets(ours, weights),
                    against=against,
                    note=f"{len(there)} of {column.expected} sets" if few else "",
                )
            )
    return cells


def _scores(measured: Measured, label: str, column: Column, tasks: Sequence[str]) -> list[Score]:
    by_task = measured.scores[label]
    return [by_task[task][column.measure or next(iter(by_task[task]))] for task in tasks]


def measured_cells(
    bench: Bench, settings: Sequence[Setting], tasks: Mapping[str, Task], columns: Sequence[Column]
) -> list[Cell]:
    """The table's cells, model by model."""
    cells: list[Cell] = []
    for model in bench.models:
        cells += cells_of(bench.table, measure(bench, model, settings, tasks), settings, columns)
    return cells


def not_there(absent: Sequence[str]) -> tuple[str, ...]:
    """The sentence on tasks whose files were not there, if any."""
    return (f"Not in the data: {', '.join(absent)}.",) if absent else ()


def tasks_at_hand(
    bench: Bench, wanted: Mapping[str, Sequence[str]], measures: Sequence[str] | None = None
) -> tuple[dict[str, Task], list[str]]:
    """The tasks whose files are there, by label, and the labels of the others.

    Args:
        wanted: label -> the tasks that can stand for it.

    Raises:
        UsageError, DataError: none is there; the message names all of them.
    """
    there = {label: names for label, names in wanted.items() if bench.has(names) is not None}
    if not there:
        raise bench.missing([name for names in wanted.values() for name in names])
    absent = [label for label in wanted if label not in there]
    return {label: bench.task(names, measures) for label, names in there.items()}, absent
