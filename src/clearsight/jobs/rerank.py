"""`clearsight rerank`: a saved ranking's first candidates, judged again by a generative model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.rerank_page import Stage
    from clearsight.jobs.reranking import Fine
    from clearsight.report.data import ResultRow
    from clearsight.run import Run
    from clearsight.types import Score


@dataclass(frozen=True)
class RerankConfig:
    """Judge the first candidates of a saved ranking again, one by one, with a generative model.

    RUN is the folder of a run (`evaluate`, `demo`), whose tasks are loaded again as it did, or a TREC file,
    which needs --task. No training, no labels: relevance is looked at to score. What a model has answered is
    kept in the cache: a second run asks nothing, an interrupted one goes on.
    """

    run: Annotated[Path, "a run's folder, or a TREC file of a ranking"] = field(metadata={"positional": True})
    model: Annotated[str, "a model folder or a hub id with a language head, or `tiny`"] = "tiny"
    scorer: Annotated[
        tuple[str, ...],
        "p_true, number, choice, listwise, likelihood; p_true_release, number_paper, listwise_release, "
        "likelihood_plain",
    ] = ("likelihood",)
    top: Annotated[int, "candidates of a query to judge"] = 20
    queries: Annotated[int | None, "judge a sample of so many queries; without it, all"] = None
    fuse: Annotated[
        Literal["fine", "zscore", "rrf"],
        "fine score alone, or with the coarse one: z-scores, reciprocal ranks",
    ] = "fine"
    tie: Annotated[
        Literal["none", "entropy"], "entropy: of equal scores the candidate the model is surer of"
    ] = "none"
    prompt: Annotated[str | None, "wording: official, shipped, or a TOML file; by default as suits MODEL"] = (
        None
    )
    enhancement: Annotated[
        str | None, "visual enhancement: paper, release; for scorers that read probabilities"
    ] = None
    ranking: Annotated[
        tuple[str, ...], "names of rankings/*.trec of the run; by default the last repair's of each task"
    ] = ()
    task: Annotated[str | None, "the ranking's task, where RUN does not say it"] = None
    data: Annotated[Path | None, "folder that holds the task's files, where RUN does not say it"] = None
    n: Annotated[int | None, "the task's n, where RUN does not say it"] = None
    seed: Annotated[int, "of the sample of queries; of the task, where RUN does not say it"] = 0
    bias: Annotated[bool, "measure biases and calibration too (a few more questions)"] = False
    image_size: Annotated[int | None, "larger images are shrunk to so many pixels a side"] = None
    cache: Annotated[Path, "folder of the cache of answers"] = Path(".cache/clearsight/answers")
    out: Annotated[Path, "run folder to write"] = Path("runs/rerank")
    overwrite: Annotated[bool, "replace a run that is already there"] = False
    on_error: Annotated[Literal["raise", "skip"], "skip: name a pair that cannot be judged and go on"] = (
        "raise"
    )


@dataclass(frozen=True)
class RerankResult:
    run: Path
    rows: tuple[ResultRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    questions: int = 0

    def to_json(self) -> dict[str, Any]:
        from clearsight.report import rows_to_json

        return {"run": str(self.run), "rows": rows_to_json(self.rows), "questions": self.questions}


def rerank(config: RerankConfig, ui: Ui | None = None) -> RerankResult:
    """Read the rankings, judge, rank anew, score against the coarse rankings, and write a run.

    Raises:
        UsageError: an unknown scorer, ranking or task, a model without a language head, `top` beyond what the
            ranking keeps.
        DataError: a ranking of another task, or candidates that the data lacks.
        ModelError, ItemError: as the model or a pair say.
    """
    from clearsight.jobs.reranking import staged
    from clearsight.jobs.saved_rankings import TaskWords, saved_rankings
    from clearsight.models.load import load_model
    from clearsight.run import Run

    ui = ui or Quiet()
    fine = _fine(config)
    fine.check()
    found = saved_rankings(
        config.run,
        config.ranking,
        TaskWords(config.task, config.data, config.n, config.seed, config.on_error),
    )
    rerankers = fine.rerankers(load_model(config.model, head=True))
    with Run.create(config.out, "rerank", asdict(config), config.seed, overwrite=config.overwrite) as run:
        stages = [
            staged(
                one.task,
                one.ranking,
                rerankers,
                fine,
                embedding=one.embedding,
                label=one.label,
                progress=ui.progress,
            )
            for one in found
        ]
        return _written(run, config, stages, ui)


def _fine(config: RerankConfig) -> Fine:
    from clearsight.jobs.reranking import Fine

    return Fine(
        scorers=config.scorer,
        top=config.top,
        queries=config.queries,
        seed=config.seed,
        fuse=config.fuse,
        tie=config.tie,
        prompt=config.prompt,
        on_error=config.on_error,
        bias=config.bias,
        options={
            "cache": config.cache,
            "enhancement": config.enhancement,
            "image_size": config.image_size,
        },
    )


def _written(run: Run, config: RerankConfig, stages: Sequence[Stage], ui: Ui) -> RerankResult:
    from clearsight.jobs.rerank_page import page_data, write_page
    from clearsight.jobs.reranking import record, reranked_rows, skipped, summary
    from clearsight.report import render_table, rows_to_json

    rows: list[ResultRow] = []
    scores: dict[str, Mapping[str, Score]] = {}
    for stage in stages:
        if stage.task.relevance:
            more, by_name = reranked_rows(run, stage)
            rows += more
            scores |= by_name
        else:
            record(run, stage, ())
            ui.say(f"{stage.name} has no public answers; its rankings lie in {run.folder / 'rankings'}.")
        for pair, reason in skipped(stage).items():
            run.skip(pair, reason)
    run.write_scores(scores)
    run.write_json("table.json", rows_to_json(rows))
    run.write_json("counts.json", {stage.name: _counts(stage) for stage in stages})
    judged = [stage for stage in stages if stage.task.relevance]
    if judged:
        title = f"{config.model}: {', '.join(stage.name for stage in judged)}"
        data = page_data(title, summary(config.model, judged), judged, run=run)
        for warning in data.warnings:
            run.warn(warning)
            ui.say(warning)
        write_page(run, data)
        ui.show(render_table(rows, ui.width))
        ui.say(f"Report: {run.folder / 'report.html'}")
    left_out = tuple((one["id"], one["reason"]) for one in run.manifest["skipped"])
    asked = sum(one.questions for stage in stages for one in stage.fine.values())
    return RerankResult(config.out, tuple(rows), left_out, asked)


def _counts(stage: Stage) -> dict[str, dict[str, int]]:
    """What was judged, and what of it could not be parsed, of each scorer."""
    return {
        scorer: {
            "queries": len(one.coarse.query_ids),
            "pairs": one.scored,
            "questions": one.questions,
            "written": one.asked,
            "unparsed": one.unparsed,
            "fell_back": len(one.fell_back),
            "cut_tied": one.cut_tied,
            "skipped": len(one.skipped),
        }
        for scorer, one in stage.fine.items()
    }
