"""One task judged and written, and the page over all of them: what `clearsight evaluate` leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from clearsight.jobs.recipes import Sides
    from clearsight.jobs.reranking import Again
    from clearsight.report.data import Curve, Example, GeometryRow, ResultRow
    from clearsight.run import Run
    from clearsight.types import Score, Task

TASKS_SHOWN = 3
QUERIES_SHOWN = 6
"""Examples on the page: so many tasks, so many queries each."""

Skips: TypeAlias = "tuple[tuple[str, str], ...]"


@dataclass(frozen=True)
class Judged:
    """What is kept of a task once it is judged and written; its vectors are gone.

    A task without public answers has no rows; `files` are its rankings. `fine_rows` are of what was judged
    again by a generative model, on its own coarse row.
    """

    name: str
    rows: tuple[ResultRow, ...]
    scores: Mapping[str, Mapping[str, Score]]
    examples: tuple[Example, ...]
    curves: tuple[Curve, ...]
    geometry: tuple[GeometryRow, ...]
    skipped: Skips = ()
    files: tuple[str, ...] = ()
    fine_rows: tuple[ResultRow, ...] = ()


def judged(
    run: Run,
    repairs: Sequence[str],
    name: str,
    task: Task,
    sides: Sides,
    shown: int = 0,
    skipped: Skips = (),
    *,
    keep: int = 10,
    again: Again | None = None,
) -> Judged:
    """Repair, rank, score and write one task.

    Args:
        repairs: names of recipes.
        shown: queries to show on the page, the first ones as they come.
        keep: candidates of a query that rankings keep; more where `again` judges more.
        again: judges the ranking of the last repair again.
    """
    from clearsight.jobs.compare import compare, curves, examples, write_outcomes

    run.note(origins={name: [dict(side.origin) for side in (sides.queries, sides.candidates)]})
    for warning in differences(sides):
        run.warn(f"{name}: {warning}")
    if not task.relevance:
        return Judged(name, (), {}, (), (), (), skipped, _ranked(run, repairs, name, task, sides))
    words, k = label_of(sides.queries.origin), keep if again is None else max(keep, again.fine.top)
    outcomes = compare(task, sides, repairs, embedding=words, task_label=name, k=k)
    write_outcomes(run, outcomes)
    scores = {outcome.name: outcome.scores for outcome in outcomes}
    fine_rows: tuple[ResultRow, ...] = ()
    if again is not None:
        fine_rows, more, left_out = again(run, outcomes[-1])
        scores, skipped = scores | more, (*skipped, *left_out)
    return Judged(
        name,
        tuple(outcome.row() for outcome in outcomes),
        scores,
        examples(outcomes[0], outcomes[-1], shown),
        curves(outcomes),
        tuple(outcome.geometry_row() for outcome in outcomes),
        skipped,
        fine_rows=fine_rows,
    )


def label_of(origin: Mapping[str, Any]) -> str:
    """How tables and files name vectors: by what is known of their origin."""
    if not {"pooling", "prompt"} <= origin.keys():
        return "vectors"
    words = [str(origin["pooling"]), str(origin["prompt"])]
    if origin.get("layer", -1) != -1:
        words.append(f"layer {origin['layer']}")
    if origin.get("source", "item") == "describe":
        words.append("described")
    return ", ".join(words)


ALIKE = ("model", "revision", "pooling", "layer", "dtype", "max_tokens")
"""What the origins of both sides should agree in; prompts and image sizes may differ on purpose."""


def differences(sides: Sides) -> list[str]:
    """A sentence on each thing in which the two sides were embedded differently."""
    left, right = sides.queries.origin, sides.candidates.origin
    return [
        f"queries were embedded with {what} {left[what]}, candidates with {right[what]}."
        for what in ALIKE
        if what in left and what in right and left[what] != right[what]
    ]


def _ranked(run: Run, repairs: Sequence[str], name: str, task: Task, sides: Sides) -> tuple[str, ...]:
    """Rank a task that only its owners can score; where they have a server, write the file it takes."""
    from clearsight.data.benchmarks import BENCHMARKS
    from clearsight.data.benchmarks.base import SUBMITTED
    from clearsight.jobs.recipes import RECIPES
    from clearsight.ranking import rank

    first, _, second = name.partition("/")
    files = []
    for recipe in repairs:
        repaired = RECIPES.get(recipe).apply(sides)
        ranking = rank(
            repaired.queries, repaired.candidates, SUBMITTED, pools=task.pools, excluded=task.excluded
        )
        stem = "-".join(f"{name} {recipe}".replace("/", " ").replace("_", " ").split())
        file = f"rankings/{stem}.trec"
        run.write_ranking(file, ranking)
        content = BENCHMARKS.get(first).submission(second, ranking) if first in BENCHMARKS.names() else None
        if content is not None:
            file = f"submissions/{stem}.json"
            run.write_bytes(file, content)
        files.append(file)
    return tuple(files)


def write_page(run: Run, found: Sequence[Judged], rows: tuple[ResultRow, ...], skipped: Skips) -> None:
    """The run's report."""
    from clearsight.jobs.compare import provenance, write_report
    from clearsight.report import ReportData

    names = ", ".join(judged.name for judged in found)
    write_report(
        run,
        ReportData(
            title=f"{_subject(run)}: {names if len(found) < 4 else f'{len(found)} tasks'}",
            summary=" ".join(map(_sentence, found)) if len(found) < 4 else _sentence(found[0]),
            rows=rows,
            examples=tuple(example for judged in found for example in judged.examples),
            captions=(),
            curves=tuple(curve for judged in found for curve in judged.curves),
            geometry=tuple(row for judged in found for row in judged.geometry),
            skipped=skipped,
            warnings=tuple(run.manifest["warnings"]),
            manifest=provenance(run),
            commands=(run.command,),
        ),
    )


def _subject(run: Run) -> str:
    """What was judged: the model that the vectors come from, where it is known."""
    origins = [side for sides in run.manifest["origins"].values() for side in sides]
    given = run.manifest["config"]
    models = [side["model"] for side in origins if side.get("model")] or [given["model"] or given["vectors"]]
    return " and ".join(dict.fromkeys(Path(m).name if Path(m).is_absolute() else m for m in models))


def _sentence(judged: Judged) -> str:
    first, last = judged.rows[0], judged.rows[-1]
    measure, before = next(iter(first.scores.items()))
    return (
        f"{judged.name}, {measure}: {before.mean:.1%} ({first.repair}) to "
        f"{last.scores[measure].mean:.1%} ({last.repair}); chance {before.chance:.2%}."
    )
