"""`clearsight evaluate`: a model on tasks, before and after repair, with honest statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.judging import Judged, Skips
    from clearsight.jobs.pools import Shard
    from clearsight.jobs.reranking import Again, Fine
    from clearsight.models.encoder import Encoder
    from clearsight.report.data import ResultRow
    from clearsight.run import Run
    from clearsight.types import Task

IN_MEMORY = 200_000


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a model on retrieval tasks before and after repair.

    Give a MODEL and a --task, or --vectors: a folder with vectors one already has (queries.*, candidates.*,
    relevance.*, and for self-alignment pair_images.*, pair_captions.*), which needs no model.

    A benchmark's name as --task stands for every set of it that is in --data, and its averages follow;
    `clearsight tasks` lists what there is.

    Vectors are kept in the cache: the same command goes on where an interrupted one stopped, and several may
    embed parts of one task (--shard) before one judges the whole.
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
    rerank: Annotated[
        tuple[str, ...], "scorers that judge the last repair's first candidates again: likelihood, choice ..."
    ] = ()
    rerank_top: Annotated[int, "candidates of a query to judge again"] = 20
    rerank_queries: Annotated[int | None, "judge a sample of so many queries; without it, all"] = None
    rerank_model: Annotated[str | None, "the model that judges; by default MODEL"] = None
    keep: Annotated[int, "candidates of a query that rankings/*.trec keep; `rerank` can judge so many"] = 50
    cache: Annotated[Path, "folder of the vector cache"] = Path(".cache/clearsight/vectors")
    shard: Annotated[
        str | None, "i/n: embed the i-th of n parts into the cache and stop; without it, judge what is there"
    ] = None
    in_memory: Annotated[
        int, "candidates held in memory at most; the vectors of a larger pool are read from the cache"
    ] = IN_MEMORY
    out: Annotated[Path, "run folder to write"] = Path("runs/evaluate")
    overwrite: Annotated[bool, "replace a run that is already there"] = False
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "raise"


@dataclass(frozen=True)
class EvaluateResult:
    """Where the run lies and the rows of its table; of a shard there is no run, but a number of items."""

    run: Path | None
    rows: tuple[ResultRow, ...]
    skipped: Skips = ()
    embedded: int | None = None

    def to_json(self) -> dict[str, Any]:
        from clearsight.report import rows_to_json

        if self.run is None:
            return {"run": None, "embedded": self.embedded}
        return {"run": str(self.run), "rows": rows_to_json(self.rows)}


def evaluate(config: EvaluateConfig, ui: Ui | None = None) -> EvaluateResult:
    """Embed (or read vectors), repair, rank, score, and write the run; one task after the other.

    Raises:
        UsageError: neither or both of model and vectors, no task, an unknown recipe, or one that needs all
            vectors of a pool that is not held in memory.
        ModelError, DataError, ItemError: as the model, the data or an item say.
    """
    from clearsight.jobs.pools import Shard
    from clearsight.run import Run

    ui = ui or Quiet()
    _check(config)
    if config.shard is not None:
        return _part(config, Shard.parse(config.shard), ui)
    with Run.create(config.out, "evaluate", asdict(config), config.seed, overwrite=config.overwrite) as run:
        found = list(_of_vectors(run, config) if config.vectors else _of_model(run, config, ui))
        result = _written(run, config, found, ui)
    for warning in run.manifest["warnings"]:
        ui.say(warning)
    for judged in found:
        for file in judged.files:
            ui.say(f"{judged.name} has no public answers; its ranking: {run.folder / file}")
    if result.rows:
        ui.say(f"Report: {run.folder / 'report.html'}")
    return result


def _check(config: EvaluateConfig) -> None:
    from clearsight.jobs.recipes import RECIPES

    for name in config.repairs:
        RECIPES.get(name)
    if (config.model is None) == (config.vectors is None):
        raise UsageError(
            "Give either a model and a task, or vectors.",
            do="`clearsight evaluate MODEL --task world/i2t`, or `clearsight evaluate --vectors FOLDER`.",
        )
    if config.model is not None and not config.task:
        raise UsageError("A model needs a task.", where="--task", do="For example --task world/i2t.")
    if config.vectors is not None and config.shard is not None:
        raise UsageError("Vectors need no embedding.", where="--shard", do="Leave it out.")
    if config.vectors is not None and config.rerank:
        raise UsageError("Vectors are no items to judge.", where="--rerank", do="Give a model and a task.")
    if config.rerank:
        _fine(config).check()
    if config.keep < 10:
        raise UsageError(f"keep is {config.keep}.", where="--keep", do="Give at least 10.")
    if config.in_memory < 0:
        raise UsageError(f"{config.in_memory} candidates?", where="--in-memory", do="Give 0 or more.")


def _written(run: Run, config: EvaluateConfig, found: Sequence[Judged], ui: Ui) -> EvaluateResult:
    """The run's tables and page."""
    from clearsight.jobs.compare import tie_warnings
    from clearsight.jobs.judging import write_page
    from clearsight.jobs.suite import averages
    from clearsight.report import render_table, rows_to_json

    means = averages({judged.name: judged.rows for judged in found})
    fine_rows = (row for judged in found for row in judged.fine_rows)
    rows = (*(row for judged in found for row in judged.rows), *fine_rows, *means)
    skipped = tuple(dict.fromkeys(entry for judged in found for entry in judged.skipped))
    for item_id, reason in skipped:
        run.skip(item_id, reason)
    for warning in tie_warnings(rows):
        run.warn(warning)
    run.write_scores({name: scores for judged in found for name, scores in judged.scores.items()})
    run.write_json("table.json", rows_to_json(rows))
    if rows:
        write_page(run, [judged for judged in found if judged.rows], rows, skipped)
        ui.show(render_table(rows, ui.width))
    return EvaluateResult(config.out, rows, skipped)


def _of_vectors(run: Run, config: EvaluateConfig) -> Iterator[Judged]:
    from clearsight.data import load_vector_task
    from clearsight.jobs.judging import judged
    from clearsight.jobs.recipes import Sides

    assert config.vectors is not None
    task, queries, candidates, pairs = load_vector_task(config.vectors)
    sides = Sides(queries, candidates, config.fit_on, pairs)
    yield judged(run, config.repairs, task.name, task, sides, keep=config.keep)


def _of_model(run: Run, config: EvaluateConfig, ui: Ui) -> Iterator[Judged]:
    from clearsight.jobs.embedding import embed_pairs, embed_sides, kept, self_caption, unlabelled_images
    from clearsight.jobs.judging import QUERIES_SHOWN, TASKS_SHOWN, judged
    from clearsight.jobs.recipes import Sides
    from clearsight.models.captioner import Captioner

    skip = config.on_error == "skip"
    again: Again | None = None
    for place, (name, task, encoder, bad_rows) in enumerate(_tasks(config, ui)):
        if config.rerank and again is None:  # before any work: a model that cannot judge is told at once
            again = _again(config, encoder, ui)
        queries, candidates, gone = embed_sides(encoder, task, ui.progress, most=config.in_memory)
        skipped = [*bad_rows, *gone]
        pairs = None
        if config.unlabelled is not None:
            images = unlabelled_images(config.unlabelled, task, on_error=config.on_error)
            captioned = self_caption(Captioner(encoder.loaded), images, ui.progress, skip=skip)
            pairs = embed_pairs(encoder, captioned, task, ui.progress)
            skipped += captioned.skipped
        sides = Sides(queries, candidates, config.fit_on, pairs)
        task = kept(task, queries, candidates)
        shown = QUERIES_SHOWN if place < TASKS_SHOWN else 0
        yield judged(
            run, config.repairs, name, task, sides, shown, tuple(skipped), keep=config.keep, again=again
        )


def _fine(config: EvaluateConfig) -> Fine:
    from clearsight.jobs.reranking import Fine

    return Fine(
        scorers=config.rerank,
        top=config.rerank_top,
        queries=config.rerank_queries,
        seed=config.seed,
        on_error=config.on_error,
        options={"cache": config.cache},
    )


def _again(config: EvaluateConfig, encoder: Encoder, ui: Ui) -> Again:
    from clearsight.jobs.reranking import again
    from clearsight.models.load import load_model

    own = config.rerank_model is None
    loaded = encoder.loaded if own else load_model(str(config.rerank_model), head=True)
    return again(loaded, _fine(config), ui.progress)


def _part(config: EvaluateConfig, shard: Shard, ui: Ui) -> EvaluateResult:
    """A part of every task's items into the cache; nothing is judged."""
    from clearsight.jobs.embedding import embed_shard

    items, skipped = 0, dict[tuple[str, str], None]()
    for _, task, encoder, bad_rows in _tasks(config, ui):
        part = embed_shard(encoder, task, shard, ui.progress)
        items += part.items
        skipped.update(dict.fromkeys((*bad_rows, *part.skipped.items())))
    ui.say(
        f"Part {shard.number} of {shard.of} is embedded: {items:,} items, in {config.cache}. Once all parts "
        "are, the same command without --shard finds them there and judges the whole."
    )
    return EvaluateResult(None, (), tuple(skipped), items)


def _tasks(config: EvaluateConfig, ui: Ui) -> Iterator[tuple[str, Task, Encoder, Skips]]:
    """Name, task, encoder, and rows of the task that were left out; one task after the other."""
    from clearsight.data import Skipped, load_task
    from clearsight.jobs.embedding import check_images
    from clearsight.jobs.suite import expand

    names = expand(config.task, config.data)
    skip = config.on_error == "skip"
    encoder: Encoder | None = None
    for place, name in enumerate(names):
        bad_rows: list[Skipped] = []
        task = load_task(
            name, data=config.data, n=config.n, seed=config.seed, skipped=bad_rows if skip else None
        )
        if config.shard is None:
            _need_streams(config, task)
        if not skip:
            check_images(task)
        if encoder is None:  # after the first task: a wrong name is told before a model is loaded
            encoder = _encoder(config)
        if len(names) > 1:
            ui.say(f"{name} ({place + 1} of {len(names)})")
        yield name, task, encoder, tuple(bad_rows)


def _need_streams(config: EvaluateConfig, task: Task) -> None:
    from clearsight.jobs.recipes import RECIPES

    unfit = [name for name in config.repairs if not RECIPES.get(name).streams]
    if unfit and len(task.candidates) > config.in_memory:
        raise UsageError(
            f"{task.name} has {len(task.candidates):,} candidates, and --in-memory is {config.in_memory:,}: "
            f"{' and '.join(unfit)} {'needs' if len(unfit) == 1 else 'need'} all vectors at once.",
            where="--repairs",
            do="Leave them out, or raise --in-memory if the machine holds that many vectors.",
        )


def _encoder(config: EvaluateConfig) -> Encoder:
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    assert config.model is not None
    captions = config.unlabelled is not None and config.shard is None
    judges = bool(config.rerank) and config.rerank_model is None and config.shard is None
    loaded = load_model(config.model, head=captions or judges)
    if captions and loaded.kind == "contrastive":
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
