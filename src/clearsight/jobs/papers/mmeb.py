"""MMEB as the second paper's tables sum it up: four meta-tasks, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.settings import Column, tasks_at_hand
from clearsight.types import Task

META = {"Cla.": "classification", "VQA": "VQA", "Ret.": "retrieval", "Gro.": "grounding"}
"""The paper's column -> the group of the benchmark's row (the paper's table I)."""
DATA = (("mmeb",),)
SENTENCES = (
    "Precision@1 with ties at their expected place: the usual argsort would give every tie to the positive.",
    "Instruction, image token and words, which the data writes as one text, are taken apart and worded by "
    "the template: an instruction ends its line, where the data has a colon or a full stop.",
    "The release writes a bare image token and no default system turn: the prompts' form 'vlm2vec' "
    "(--form vlm2vec) does the same; without it the model's own chat template is used.",
)


def groups() -> Mapping[str, tuple[str, ...]]:
    from clearsight.data.benchmarks import BENCHMARKS

    return BENCHMARKS.get("mmeb").groups


def meta_columns() -> list[Column]:
    """Cla., VQA, Ret., Gro., and Avg. over all 36 sets."""
    columns = [Column(label, groups()[name], expected=len(groups()[name])) for label, name in META.items()]
    return [*columns, Column("Avg.", groups()["all"], expected=len(groups()["all"]))]


def mmeb_tasks(bench: Bench) -> tuple[dict[str, Task], tuple[str, ...]]:
    """The sets that are there, and a sentence on those that are not.

    Raises:
        UsageError, DataError: none is there.
    """
    wanted = {name: (f"mmeb/{name}",) for name in groups()["all"]}
    tasks, absent = tasks_at_hand(bench, wanted)
    if not absent:
        return tasks, ()
    return tasks, (
        f"{len(tasks)} of the {len(wanted)} sets were there; the means are over fewer sets than the paper's. "
        f"Missing: {', '.join(absent)}.",
    )


def task_columns(tasks: Sequence[str]) -> list[Column]:
    """A column a task, and their mean where there are several."""
    columns = [Column(name, (name,)) for name in tasks]
    return columns if len(columns) == 1 else [*columns, Column("Avg.", tuple(tasks))]
