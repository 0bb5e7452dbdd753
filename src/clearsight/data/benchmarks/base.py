"""What a benchmark is to this house: a row of facts and a function from a folder to tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clearsight.data.parquet import columns_of
from clearsight.data.tables import need_columns
from clearsight.errors import DataError
from clearsight.registry import Registry
from clearsight.types import Ranking, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: every one of its sets is a task `<name>/<set>`.

    Attributes:
        name: the first part of its tasks' names, such as "mbeir".
        title: as papers write it.
        sets: names of its tasks, the second part, such as "cirr_task7" or "i2t".
        load: (set, options) -> the task; reads only what the set needs.
        looks: whether a folder has this benchmark's layout (cheap: names of files, at most a header).
        found: (folder) -> the sets whose files are there.
        layout: one sentence: which files lie where.
        source: where to get it: a hub dataset id or a URL.
        licence: as its owners state it, "unknown" where they do not.
        size: download size in words, such as "41 GB with images".
        measures: the measures it reports, the headline first (a set may report another; its task says).
        known_as: (a name users know a set by) -> a name that `load` takes, None where there is none; for
            aliases, and for variants too many to list in `sets`.
        groups: name of an average -> its sets ("classification", "in-domain" ...), for means over sets.
        citation: the paper, short.
        submission: (set, ranking of at least `SUBMITTED` ranks) -> the file that the owners' server scores,
            for sets whose answers are not public; None for other sets.
    """

    name: str
    title: str
    sets: tuple[str, ...]
    load: Callable[[str, TaskOptions], Task]
    looks: Callable[[Path], bool]
    found: Callable[[Path], tuple[str, ...]]
    layout: str
    source: str
    licence: str
    size: str
    measures: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    citation: str = ""
    known_as: Callable[[str], str | None] = lambda _: None
    submission: Callable[[str, Ranking], bytes | None] = lambda _, __: None


SUBMITTED = 50
"""Ranks a query that a server asks for at most."""

_SHOWN = 8

BENCHMARKS: Registry[Benchmark] = Registry("benchmark")


def looks_like(folder: Path) -> str | None:
    """The name of the benchmark whose layout the folder has; None for none of those known."""
    return next((name for name in BENCHMARKS if BENCHMARKS.get(name).looks(folder)), None)


def not_this(name: str, folder: Path, missing: str) -> DataError:
    """The error for a folder that lacks what benchmark `name` needs.

    Says which other benchmark the folder looks like, or which of the benchmark's sets it has.
    """
    other = looks_like(folder)
    seen = ""
    if other not in (None, name):
        seen = f" The folder looks like {BENCHMARKS.get(other).title} ('{other}')."
    elif here := BENCHMARKS.get(name).found(folder):
        more = f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else ""
        seen = f" Of its sets the folder has {', '.join(here[:_SHOWN])}{more}."
    return DataError(
        f"{BENCHMARKS.get(name).title} needs {missing}, which is not there.{seen}",
        where=str(folder),
        do=f"Layout: {BENCHMARKS.get(name).layout}",
    )


def need_own_columns(name: str, folder: Path, path: Path, wanted: Sequence[str]) -> None:
    """Check that a parquet file has the columns of benchmark `name`.

    Raises:
        DataError: the file cannot be read, or lacks columns: says which other benchmark the folder looks
            like, or else names the nearest columns.
    """
    columns = columns_of(path)
    if not set(wanted).issubset(columns) and looks_like(folder) not in (None, name):
        raise not_this(name, folder, f"a table with {', '.join(wanted)}")
    need_columns(columns, wanted, str(path))
