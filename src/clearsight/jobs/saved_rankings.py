"""Rankings that runs and TREC files hold, with the tasks they are of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clearsight.errors import DataError, UsageError

if TYPE_CHECKING:
    from clearsight.run import Run
    from clearsight.types import Ranking, Task


@dataclass(frozen=True)
class Coarse:
    """A saved ranking: its task, and how tables name it."""

    task: Task
    ranking: Ranking
    label: str
    embedding: str


@dataclass(frozen=True)
class TaskWords:
    """What is known of a task: a name for `load_task`, and its options. `name` is None where a run is to say
    it."""

    name: str | None = None
    data: Path | None = None
    n: int | None = None
    seed: int = 0
    on_error: Literal["raise", "skip"] = "raise"

    def load(self) -> Task:
        """The task; under "skip" without its bad rows."""
        from clearsight.data import Skipped, load_task

        assert self.name is not None
        bad_rows: list[Skipped] | None = [] if self.on_error == "skip" else None
        return load_task(self.name, data=self.data, n=self.n, seed=self.seed, skipped=bad_rows)


DEMO_TASKS = {
    "image -> text": ("world/i2t", 1),
    "text -> image": ("world/t2i", 1),
    "image + edit -> image": ("world/composed", 8),
}
"""How the demo's tables name its tasks: the task, and how many times fewer it draws."""


def saved_rankings(place: Path, names: Sequence[str], words: TaskWords) -> list[Coarse]:
    """The rankings of a run that are named, or the one of a TREC file, with their tasks.

    Args:
        place: a run's folder, or a TREC file.
        names: of a run's rankings; none: of each task the last repair of its first embedding.
        words: the task, where the run does not say it.

    Raises:
        UsageError: a TREC file or a run that does not say its task, a run of vectors, an unknown ranking.
        DataError: no run and no file there, or a ranking of another task.
    """
    from clearsight.run import Run, read_trec

    if place.is_dir():
        return _of_run(Run.open(place), names, words)
    if not place.exists():
        raise DataError("There is no such run or file.", where=str(place), do="Correct the path.")
    if words.name is None:
        raise UsageError(
            "A TREC file does not say its task.",
            where="--task",
            do="Give --task, and --data where it has files.",
        )
    return [_coarse(read_trec(place), words.load(), words.name, place.stem)]


def _of_run(run: Run, names: Sequence[str], words: TaskWords) -> list[Coarse]:
    rows = _rankings(run)
    chosen = _chosen(rows, names)
    tasks: dict[str, Task] = {}
    found = []
    for file in chosen:
        label, embedding = rows[file]
        if label not in tasks:
            tasks[label] = _task_of(run, label, words)
        found.append(_coarse(run.read_trec(f"rankings/{file}.trec"), tasks[label], label, embedding))
    return found


def _rankings(run: Run) -> dict[str, tuple[str, str]]:
    """Name of a ranking's file -> (task, embedding and repair), as the run's table has them."""
    from clearsight.jobs.recipes import RECIPES

    try:
        rows = json.loads((run.folder / "table.json").read_bytes())
    except (OSError, ValueError):
        rows = []
    recipes = {RECIPES.get(name).label: name for name in RECIPES.names()}
    found = {}
    for row in rows:
        words = f"{row['task']} {row['embedding']} {row['note']} {recipes.get(row['repair'], row['repair'])}"
        file = "-".join("".join(c if c.isalnum() else " " for c in words).split()).lower()
        if (run.folder / f"rankings/{file}.trec").is_file():
            what = ", ".join(filter(None, (row["embedding"], row["note"], row["repair"])))
            found[file] = (row["task"], what)
    if not found:
        raise UsageError(
            "The run holds no rankings of tasks.",
            where=str(run.folder),
            do="Give a run of `clearsight evaluate`, or a TREC file with --task.",
        )
    return found


def _chosen(rows: dict[str, tuple[str, str]], names: Sequence[str]) -> list[str]:
    """The files that were named; else of each task the last repair of its first embedding."""
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UsageError(
            f"The run has no ranking '{unknown[0]}'.",
            where="--ranking",
            do=f"There are: {', '.join(rows)}.",
        )
    if names:
        return list(names)
    of_task: dict[str, dict[str, str]] = {}
    for file, (label, what) in rows.items():
        embedding = what.rpartition(", ")[0]
        first = of_task.setdefault(label, {"embedding": embedding})
        if embedding == first["embedding"]:
            first["file"] = file
    return [found["file"] for found in of_task.values()]


def _task_of(run: Run, label: str, words: TaskWords) -> Task:
    settings = run.manifest["config"]
    if words.name is not None:
        return words.load()
    if run.manifest["job"] == "demo" and label in DEMO_TASKS:
        name, share = DEMO_TASKS[label]
        return replace(words, name=name, n=settings["scenes"] // share, seed=settings["seed"]).load()
    if run.manifest["job"] != "evaluate" or settings.get("vectors") is not None:
        raise UsageError(
            f"The run does not say where the items of '{label}' are.",
            where=str(run.folder),
            do="Give --task, and --data where it has files.",
        )
    data = words.data or (None if settings["data"] is None else Path(settings["data"]))
    return replace(words, name=label, data=data, n=settings["n"], seed=settings["seed"]).load()


def _coarse(lists: dict[str, dict[str, float]], task: Task, label: str, embedding: str) -> Coarse:
    from clearsight.ranking.listed import of_lists

    return Coarse(task, of_lists(lists, task), label, embedding)
