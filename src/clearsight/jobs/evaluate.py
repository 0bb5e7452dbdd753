"""`clearsight evaluate`: a model on tasks, before and after repair, with honest statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.recipes import Sides
    from clearsight.models.encoder import Encoder
    from clearsight.report.data import Curve, Example, GeometryRow, ResultRow
    from clearsight.run import Run
    from clearsight.types import Score, Task

TASKS_SHOWN = 3
QUERIES_SHOWN = 6
"""Examples on the page: so many tasks, so many queries each."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a model on retrieval tasks before and after repair.

    Give a MODEL and a --task, or --vectors: a folder with vectors one already has (queries.*, candidates.*,
    relevance.*, and for self-alignment pair_images.*, pair_captions.*), which needs no model.

    A benchmark's name as --task stands for every set of it that is in --data, and its averages follow;
    `clearsight tasks` lists what there is.
    """

    model: Annotated[str | None, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        default=None, metadata={"positional": True}
    )
    task: Annotated[
        tuple[str, ...], "tasks such as world/i2t or mbeir/cirr_task7, benchmarks such as mmeb, or a folder"
    ] = ()
    data: Annotated[Path | None, "folder that holds the benchmark's files, or hub:NAME of a data set"] = None
    n: Annotated[int | None, "at most so many of what a task counts: queries, images, scenes"] = None
    seed: Annotated[int, "seed of what a task draws: scenes, one of several instructions"] = 0
    vectors: Annotated[Path | None, "folder of vectors and relevance, instead of a model"] = None
    prompt: Annotated[str, "prompt name or the path of a TOML file"] = "one_word"
    pooling: Annotated[str, "mean, last, mean_no_image, mean_no_prompt, last_attention"] = "mean"
    repairs: Annotated[tuple[str, ...], "recipes, each tested against the one it claims to better"] = (
        "base",
        "centred",
        "realign",
    )
    fit_on: Annotated[
        Literal["sides", "candidates", "joint", "modality"], "whose statistics a repair takes"
    ] = "sides"
    unlabelled: Annotated[
        str | None, "images to caption for self-alignment: a folder, or how many of the task's own images"
    ] = None
    cache: Annotated[Path, "folder of the vector cache"] = Path(".cache/clearsight/vectors")
    out: Annotated[Path, "run folder to write"] = Path("runs/evaluate")
    overwrite: Annotated[bool, "replace a run that is already there"] = False
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "raise"


Skips: TypeAlias = "tuple[tuple[str, str], ...]"


@dataclass(frozen=True)
class Judged:
    """What is kept of a task once it is judged and written; its vectors are gone.

    A task without public answers has no rows; `files` are its rankings.
    """

    name: str
    rows: tuple[ResultRow, ...]
    scores: Mapping[str, Mapping[str, Score]]
    examples: tuple[Example, ...]
    curves: tuple[Curve, ...]
    geometry: tuple[GeometryRow, ...]
    skipped: Skips = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluateResult:
    run: Path
    rows: tuple[ResultRow, ...]
    skipped: Skips = ()

    def to_json(self) -> dict[str, Any]:
        from clearsight.report import rows_to_json

        return {"run": str(self.run), "rows": rows_to_json(self.rows)}


def evaluate(config: EvaluateConfig, ui: Ui | None = None) -> EvaluateResult:
    """Embed (or read vectors), repair, rank, score, and write the run; one task after the other.

    Raises:
        UsageError: neither or both of model and vectors, no task, an unknown recipe.
        ModelError, DataError, ItemError: as the model, the data or an item say.
    """
    from clearsight.jobs.compare import tie_warnings
    from clearsight.jobs.recipes import RECIPES
    from clearsight.jobs.suite import averages
    from clearsight.report import render_table, rows_to_json
    from clearsight.run import Run

    ui = ui or Quiet()
    for name in config.repairs:
        RECIPES.get(name)
    if (config.model is None) == (config.vectors is None):
        raise UsageError(
            "Give either a model and a task, or vectors.",
            do="`clearsight evaluate MODEL --task world/i2t`, or `clearsight evaluate --vectors FOLDER`.",
        )
    if config.model is not None and not config.task:
        raise UsageError("A model needs a task.", where="--task", do="For example --task world/i2t.")
    with Run.create(config.out, "evaluate", asdict(config), config.seed, overwrite=config.overwrite) as run:
        found = list(_of_vectors(run, config) if config.vectors else _of_model(run, config, ui))
        means = averages({judged.name: judged.rows for judged in found})
        rows = (*(row for judged in found for row in judged.rows), *means)
        skipped = tuple(dict.fromkeys(entry for judged in found for entry in judged.skipped))
        for item_id, reason in skipped:
            run.skip(item_id, reason)
        for warning in (warnings := tie_warnings(rows)):
            run.warn(warning)
        run.write_scores({name: scores for judged in found for name, scores in judged.scores.items()})
        run.write_json("table.json", rows_to_json(rows))
        if rows:
            _report(run, config, [judged for judged in found if judged.rows], rows, skipped)
            ui.show(render_table(rows, ui.width))
    for warning in warnings:
        ui.say(warning)
    for judged in found:
        for file in judged.files:
            ui.say(f"{judged.name} has no public answers; its ranking: {run.folder / file}")
    if rows:
        ui.say(f"Report: {run.folder / 'report.html'}")
    return EvaluateResult(config.out, rows, skipped)


def _of_vectors(run: Run, config: EvaluateConfig) -> Iterator[Judged]:
    from clearsight.data import load_vector_task
    from clearsight.jobs.recipes import Sides

    assert config.vectors is not None
    task, queries, candidates, pairs = load_vector_task(config.vectors)
    yield _judged(run, config, task.name, task, Sides(queries, candidates, config.fit_on, pairs), 0)


def _of_model(run: Run, config: EvaluateConfig, ui: Ui) -> Iterator[Judged]:
    from clearsight.data import Skipped, load_task
    from clearsight.jobs.embedding import (
        check_images,
        embed_pairs,
        embed_task,
        kept,
        self_caption,
        unlabelled_images,
    )
    from clearsight.jobs.recipes import Sides
    from clearsight.jobs.suite import expand
    from clearsight.models.captioner import Captioner

    assert config.model is not None
    names = expand(config.task, config.data)
    skip = config.on_error == "skip"
    encoder: Encoder | None = None
    for place, name in enumerate(names):
        bad_rows: list[Skipped] = []
        task = load_task(
            name, data=config.data, n=config.n, seed=config.seed, skipped=bad_rows if skip else None
        )
        if not skip:
            check_images(task)
        if encoder is None:  # after the first task: a wrong name is told before a model is loaded
            encoder = _encoder(config)
        if len(names) > 1:
            ui.say(f"{name} ({place + 1} of {len(names)})")
        queries, candidates = embed_task(encoder, task, ui.progress)
        run.note(origins={name: [dict(queries.origin), dict(candidates.origin)]})
        pairs = None
        skipped: list[tuple[str, str]] = [*bad_rows, *queries.skipped.items(), *candidates.skipped.items()]
        if config.unlabelled is not None:
            images = unlabelled_images(config.unlabelled, task, on_error=config.on_error)
            captioned = self_caption(Captioner(encoder.loaded), images, ui.progress, skip=skip)
            pairs = embed_pairs(encoder, captioned, task, ui.progress)
            skipped += captioned.skipped
        sides = Sides(queries, candidates, config.fit_on, pairs)
        yield _judged(run, config, name, kept(task, queries, candidates), sides, place, tuple(skipped))


def _encoder(config: EvaluateConfig) -> Encoder:
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    assert config.model is not None
    loaded = load_model(config.model, head=config.unlabelled is not None)
    if config.unlabelled is not None and loaded.kind == "contrastive":
        raise UsageError(
            "A contrastive model cannot caption images.", where="--unlabelled", do="Leave it out."
        )
    return Encoder(
        loaded,
        prompt=config.prompt,
        pooling=config.pooling,
        cache=config.cache,
        on_error=config.on_error,
    )


def _judged(
    run: Run, config: EvaluateConfig, name: str, task: Task, sides: Sides, place: int, skipped: Skips = ()
) -> Judged:
    """Repair, rank, score and write one task."""
    from clearsight.jobs.compare import compare, curves, examples, write_outcomes

    if not task.relevance:
        return Judged(name, (), {}, (), (), (), skipped, _ranked(run, config, name, task, sides))
    outcomes = compare(task, sides, config.repairs, embedding=_embedding(sides), task_label=name)
    write_outcomes(run, outcomes)
    shown = 0 if config.vectors or place >= TASKS_SHOWN else QUERIES_SHOWN
    return Judged(
        name,
        tuple(outcome.row() for outcome in outcomes),
        {outcome.name: outcome.scores for outcome in outcomes},
        examples(outcomes[0], outcomes[-1], shown),
        curves(outcomes),
        tuple(outcome.geometry_row() for outcome in outcomes),
        skipped,
    )


def _embedding(sides: Sides) -> str:
    """How the tables name the vectors: by what is known of their origin."""
    origin = sides.queries.origin
    return f"{origin['pooling']}, {origin['prompt']}" if {"pooling", "prompt"} <= origin.keys() else "vectors"


def _ranked(run: Run, config: EvaluateConfig, name: str, task: Task, sides: Sides) -> tuple[str, ...]:
    """Rank a task that only its owners can score; where they have a server, write the file it takes."""
    from clearsight.data.benchmarks import BENCHMARKS
    from clearsight.data.benchmarks.base import SUBMITTED
    from clearsight.jobs.recipes import RECIPES
    from clearsight.ranking import rank

    first, _, second = name.partition("/")
    files = []
    for recipe in config.repairs:
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


def _report(
    run: Run, config: EvaluateConfig, found: Sequence[Judged], rows: tuple[ResultRow, ...], skipped: Skips
) -> None:
    from clearsight.jobs.compare import provenance, write_report
    from clearsight.report import ReportData

    names = ", ".join(judged.name for judged in found)
    write_report(
        run,
        ReportData(
            title=f"{config.model or config.vectors}: {names if len(found) < 4 else f'{len(found)} tasks'}",
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


def _sentence(judged: Judged) -> str:
    first, last = judged.rows[0], judged.rows[-1]
    measure, before = next(iter(first.scores.items()))
    return (
        f"{judged.name}, {measure}: {before.mean:.1%} ({first.repair}) to "
        f"{last.scores[measure].mean:.1%} ({last.repair}); chance {before.chance:.2%}."
    )
