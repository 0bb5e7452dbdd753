"""`clearsight evaluate`: a model on a task, before and after repair, with honest statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.compare import Outcome
    from clearsight.jobs.recipes import Sides
    from clearsight.types import Task


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a model on a retrieval task before and after repair.

    Give a MODEL and a --task, or --vectors: a folder with vectors one already has (queries.*, candidates.*,
    relevance.*, and for self-alignment pair_images.*, pair_captions.*), which needs no model.
    """

    model: Annotated[str | None, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        default=None, metadata={"positional": True}
    )
    task: Annotated[str | None, "a task source such as world/i2t or coco/i2t, or a folder with a task"] = None
    data: Annotated[Path | None, "folder that holds the task source's files"] = None
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


@dataclass(frozen=True)
class EvaluateResult:
    run: Path
    outcomes: tuple[Outcome, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        from clearsight.report import rows_to_json

        return {"run": str(self.run), "rows": rows_to_json([outcome.row() for outcome in self.outcomes])}


def evaluate(config: EvaluateConfig, ui: Ui | None = None) -> EvaluateResult:
    """Embed (or read vectors), repair, rank, score, and write the run.

    Raises:
        UsageError: neither or both of model and vectors, no task, an unknown recipe.
        ModelError, DataError, ItemError: as the model, the data or an item say.
    """
    from clearsight.jobs.compare import compare, record
    from clearsight.jobs.recipes import RECIPES
    from clearsight.report import render_table
    from clearsight.run import Run

    ui = ui or Quiet()
    for name in config.repairs:
        RECIPES.get(name)
    if (config.model is None) == (config.vectors is None):
        raise UsageError(
            "Give either a model and a task, or vectors.",
            do="`clearsight evaluate MODEL --task world/i2t`, or `clearsight evaluate --vectors FOLDER`.",
        )
    with Run.create(config.out, "evaluate", asdict(config), overwrite=config.overwrite) as run:
        task, sides, skipped = _from_vectors(config) if config.vectors else _from_model(config, ui)
        embedding = "vectors" if config.vectors else f"{config.pooling}, {config.prompt}"
        outcomes = compare(task, sides, config.repairs, embedding=embedding)
        for item_id, reason in skipped:
            run.skip(item_id, reason)
        record(run, outcomes)
        _report(run, config, outcomes, skipped)
    ui.show(render_table([outcome.row() for outcome in outcomes], ui.width))
    ui.say(f"Report: {run.path('report.html')}")
    return EvaluateResult(config.out, tuple(outcomes), skipped)


def _from_vectors(config: EvaluateConfig) -> tuple[Task, Sides, tuple[tuple[str, str], ...]]:
    from clearsight.data import load_vector_task
    from clearsight.jobs.recipes import Sides

    assert config.vectors is not None
    task, queries, candidates, pairs = load_vector_task(config.vectors)
    return task, Sides(queries, candidates, config.fit_on, pairs), ()


def _from_model(config: EvaluateConfig, ui: Ui) -> tuple[Task, Sides, tuple[tuple[str, str], ...]]:
    from clearsight.data import Skipped, load_task
    from clearsight.jobs.embedding import embed_pairs, embed_task, kept, self_caption, unlabelled_images
    from clearsight.jobs.recipes import Sides
    from clearsight.models.captioner import Captioner
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    assert config.model is not None
    if config.task is None:
        raise UsageError("A model needs a task.", where="--task", do="For example --task world/i2t.")
    bad_rows: list[Skipped] = []
    skip = config.on_error == "skip"
    task = load_task(config.task, data=config.data, skipped=bad_rows if skip else None)
    loaded = load_model(config.model, head=config.unlabelled is not None)
    encoder = Encoder(
        loaded, prompt=config.prompt, pooling=config.pooling, cache=config.cache, on_error=config.on_error
    )
    queries, candidates = embed_task(encoder, task, ui.progress)
    pairs = None
    skipped: list[tuple[str, str]] = [*bad_rows, *queries.skipped.items(), *candidates.skipped.items()]
    if config.unlabelled is not None:
        images = unlabelled_images(config.unlabelled, task, on_error=config.on_error)
        captioned = self_caption(Captioner(loaded), images, ui.progress, skip=skip)
        pairs = embed_pairs(encoder, captioned, task, ui.progress)
        skipped += captioned.skipped
    skipped = list(dict.fromkeys(skipped))
    return kept(task, queries, candidates), Sides(queries, candidates, config.fit_on, pairs), tuple(skipped)


def _report(
    run: Any, config: EvaluateConfig, outcomes: Sequence[Outcome], skipped: tuple[tuple[str, str], ...]
) -> None:
    from clearsight.jobs.compare import curves, examples, provenance, write_report
    from clearsight.report import ReportData

    first, last = outcomes[0], outcomes[-1]
    measure = first.task.measures[0]
    write_report(
        run,
        ReportData(
            title=f"{config.model or config.vectors}: {first.task.name}",
            summary=f"{measure}: {first.scores[measure].mean:.1%} ({first.recipe}) to "
            f"{last.scores[measure].mean:.1%} ({last.recipe}); chance {first.scores[measure].chance:.2%}.",
            rows=tuple(outcome.row() for outcome in outcomes),
            examples=examples(first, last, 6) if config.vectors is None else (),
            captions=(),
            curves=curves(outcomes),
            geometry=tuple(outcome.geometry_row() for outcome in outcomes),
            skipped=skipped,
            warnings=(),
            manifest=provenance(run),
            commands=(run.command,),
        ),
    )
