"""What a published table or figure is to this house, and what comes of redoing it.

A file of this package holds one of them: the numbers as printed, with the place they were read from; which
model, task, prompt, pooling and repair each row stands for; and a function that measures the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from clearsight.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clearsight.jobs.papers.bench import Bench
    from clearsight.metrics import PairedTest
    from clearsight.types import Score

GIANTS = "Feng et al., Generative Giants, Retrieval Weaklings (arXiv 2512.19115; Findings of ACL 2026)"
EMBEDDER = "Ju & Lee, From Generator to Embedder (arXiv 2508.00955)"
NOT_AT_HAND = "not in the text at hand"

Numbers: TypeAlias = Mapping[str, Mapping[str, float]]
"""row -> column -> the number as printed; what the text at hand does not hold is left out."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of ours beside the published one, both in the unit of the table.

    Attributes:
        row, column: where it stands; the row of a model that is not the paper's bears that model's name.
        low, high: 95% interval over queries; NaN where the number is no mean over queries.
        published: None where the paper does not print it, or has no such model.
        against: the row that `change` compares with; empty for none.
        change, change_low, change_high, p_value: ours less ours of that row: paired test over queries.
        chance: what a random ranking (or random sets) would give; NaN where nothing defines it.
        queries: how many were judged.
        note: what sets this number apart, such as "2 of 10 sets".
    """

    row: str
    column: str
    ours: float
    low: float = math.nan
    high: float = math.nan
    published: float | None = None
    against: str = ""
    change: float = math.nan
    change_low: float = math.nan
    change_high: float = math.nan
    p_value: float = math.nan
    chance: float = math.nan
    queries: int = 0
    note: str = ""

    @property
    def difference(self) -> float:
        """Ours less the published; NaN where nothing was published."""
        return math.nan if self.published is None else self.ours - self.published


@dataclass(frozen=True, slots=True)
class Redone:
    """What measuring gave.

    Attributes:
        cells: row by row.
        differs: sentences on what differs from the paper in data, model or method.
        figures: file name -> figure.
    """

    cells: tuple[Cell, ...]
    differs: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """One published table or figure.

    Attributes:
        name: what `clearsight reproduce` calls it.
        title: what it shows, in our words.
        paper: which paper.
        place: where in it.
        models: the paper's name of a model -> its hub id (the same weights wherever they lie: a folder is
            recognised by the last part of its name).
        data: for each task it needs, the tasks that can stand for it, the paper's first.
        numbers: as printed, in `unit`.
        unit: of the numbers: "%" or "".
        missing: what of it is not in the text at hand; empty where all is.
        redo: measures the rows.
        queries: at most so many queries of a task, as in the paper; None: all, or not said.
        default_model: what is measured where no model is given.
    """

    name: str
    title: str
    paper: str
    place: str
    models: Mapping[str, str]
    data: tuple[tuple[str, ...], ...]
    numbers: Numbers
    redo: Callable[[Bench], Redone]
    unit: str = "%"
    missing: str = ""
    queries: int | None = None
    default_model: str | None = None

    def label_of(self, model: str) -> str:
        """The paper's name of a model given by name, hub id or folder; else the last part of that."""
        last = _last(model)
        return next((label for label, hub_id in self.models.items() if _last(hub_id) == last), last)

    def number(self, row: str, column: str) -> float | None:
        return self.numbers.get(row, {}).get(column)


PUBLISHED: Registry[Published] = Registry("published table")


def scored_cell(
    table: Published,
    row: str,
    column: str,
    score: Score,
    *,
    against: tuple[str, PairedTest] | None = None,
    note: str = "",
) -> Cell:
    """A cell in per cent from a score, with its paired test against another row."""
    facts: dict[str, Any] = {}
    if against is not None:
        name, test = against
        facts = {
            "against": name,
            "change": 100 * test.difference,
            "change_low": 100 * test.low,
            "change_high": 100 * test.high,
            "p_value": test.p_value,
        }
    return Cell(
        row,
        column,
        100 * score.mean,
        100 * score.low,
        100 * score.high,
        table.number(row, column),
        chance=100 * score.chance,
        queries=score.judged,
        note=note,
        **facts,
    )


def rows_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.row for cell in cells))


def columns_of(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.column for cell in cells))


def _last(name: str) -> str:
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].casefold()
