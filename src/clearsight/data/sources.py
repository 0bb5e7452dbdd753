"""From a name or a path to a `Task`: the door `task_source`.

| spec | is |
|---|---|
| `world/i2t`, `world/t2i`, `world/composed` | the shipped procedural world: held-out scenes |
| `<benchmark>/<set>` | a set of one of `data.benchmarks`, such as `coco/i2t`, in `data` |
| `pairs/i2t`, `pairs/t2i` | rows of image and text in `data` (a file, or a folder of images with captions) |
| a folder | queries.*, candidates.*, relevance.*; or images with captions, as `pairs/i2t` |
| a file | as `pairs/i2t` |

A package offers its own under the entry-point group `clearsight.task_source`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.data.own_tasks import Direction, folder_task, pairs_task
from clearsight.data.tables import Faults, OnError, Skipped
from clearsight.errors import DataError, UsageError
from clearsight.registry import Registry
from clearsight.types import Task


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a source may use.

    Attributes:
        data: file or folder of the benchmark; None where the user gave none.
        n: at most so many of what the source counts (scenes, images, rows, queries); None: all.
        seed: for sources that draw.
        columns: documented column -> the file's own name for it.
        faults: `faults.meet(error)` for every bad row: raises, or notes it and goes on.
    """

    data: Path | None = None
    n: int | None = None
    seed: int = 0
    columns: Mapping[str, str] | None = None
    faults: Faults = field(default_factory=Faults)

    def need_data(self, name: str) -> Path:
        """The path of the data.

        Raises:
            UsageError: none was given. DataError: it does not exist.
        """
        if self.data is None:
            raise UsageError(
                f"Task '{name}' needs data.", do="Give the path of its file or folder as `data`."
            )
        if not self.data.exists():
            raise DataError("The data does not exist.", where=str(self.data), do="Correct the path.")
        return self.data


class TaskSource(Protocol):
    """The door: options in, a task out."""

    def __call__(self, options: TaskOptions) -> Task: ...


TASK_SOURCES: Registry[TaskSource] = Registry("task_source")


def task_sources() -> list[str]:
    """The names that `load_task` knows, plug-ins included."""
    return TASK_SOURCES.names()


def load_task(
    spec: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    skipped: list[Skipped] | None = None,
) -> Task:
    """The task that `spec` names; the table on top of this module lists what there is.

    Args:
        data, n, seed, columns: see `TaskOptions`.
        skipped: given a list, bad rows are left out and named in it; without it the first bad row raises.

    Raises:
        UsageError: no source of that name, and no such path (the nearest name is given).
        DataError: files that cannot be used, duplicate ids, relevance to unknown ids.
    """
    if n is not None and n < 1:
        raise UsageError(f"n is {n}.", do="Give a whole number from 1, or none for all.")
    on_error: OnError = "raise" if skipped is None else "skip"
    options = TaskOptions(Path(data) if data is not None else None, n, seed, columns, Faults(on_error))
    try:
        return _find(spec)(options)
    finally:
        if skipped is not None:
            skipped.extend(options.faults.skipped)


def _find(spec: str | os.PathLike[str]) -> TaskSource:
    name, path = os.fspath(spec), Path(spec)
    if not isinstance(spec, str) or (name not in task_sources() and path.exists()):
        if not path.exists():
            raise DataError("The task's file or folder does not exist.", where=name, do="Correct the path.")
        return partial(_own, path)
    source = _by_alias(name)
    if source is None and name in task_sources():
        source = TASK_SOURCES.get(name)
    if source is None:
        near = difflib.get_close_matches(name, task_sources(), n=3)
        hint = f"Did you mean {' or '.join(repr(one) for one in near)}? " if near else ""
        raise UsageError(
            f"'{name}' is neither a task nor a file or folder.",
            do=f"{hint}`clearsight tasks` lists what there is. Or give a path.",
        )
    return source


def _by_alias(name: str) -> TaskSource | None:
    first, _, second = name.partition("/")
    if first not in BENCHMARKS.names():
        return None
    benchmark = BENCHMARKS.get(first)
    known = None if second in benchmark.sets else benchmark.known_as(second)
    return None if known is None else partial(benchmark.load, known)


def _own(path: Path, options: TaskOptions) -> Task:
    if path.is_dir() and any(path.glob("queries.*")):
        return folder_task(path, n=options.n, columns=options.columns, faults=options.faults)
    return pairs_task(path, "i2t", n=options.n, columns=options.columns, faults=options.faults)


def _world(maker: str, options: TaskOptions) -> Task:
    from clearsight.data import world

    size = {} if options.n is None else {"n": options.n}
    task: Task = getattr(world, maker)(seed=options.seed, **size)
    return task


def _pairs(direction: Direction, options: TaskOptions) -> Task:
    data = options.need_data(f"pairs/{direction}")
    return pairs_task(data, direction, n=options.n, columns=options.columns, faults=options.faults)


for _name, _maker in (("i2t", "image_to_text"), ("t2i", "text_to_image"), ("composed", "composed")):
    TASK_SOURCES.add(f"world/{_name}", partial(_world, _maker))
for _direction in ("i2t", "t2i"):
    TASK_SOURCES.add(f"pairs/{_direction}", partial(_pairs, _direction))
for _benchmark in map(BENCHMARKS.get, BENCHMARKS):
    for _set in _benchmark.sets:
        TASK_SOURCES.add(f"{_benchmark.name}/{_set}", partial(_benchmark.load, _set))
