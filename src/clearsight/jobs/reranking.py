"""A task's coarse ranking, judged again by one or several scorers: shared by `rerank`, `evaluate`, `demo`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from clearsight.errors import UsageError
from clearsight.jobs.rerank_page import Stage, fine_warnings, judge_row, result_rows
from clearsight.jobs.ui import Labelled

if TYPE_CHECKING:
    import os

    from clearsight.jobs.compare import Outcome
    from clearsight.jobs.judging import Skips
    from clearsight.models.load import LoadedModel
    from clearsight.progress import Progress
    from clearsight.report.data import ResultRow
    from clearsight.rerank import Reranked, Reranker
    from clearsight.run import Run
    from clearsight.types import Ranking, Score, Task

Scores: TypeAlias = "dict[str, Mapping[str, Score]]"


@dataclass(frozen=True)
class Fine:
    """What the fine stage is to do.

    Attributes:
        scorers: names of `SCORERS`; each makes a row of its own of the same coarse ranking.
        top: candidates of a query to judge.
        queries: judge so many, drawn with `seed`; None: all.
        fuse, tie, prompt, on_error: as for `Reranker`.
        bias: whether biases and calibration are measured too.
        options: of the judge (cache, enhancement, image_size).
    """

    scorers: tuple[str, ...] = ("likelihood",)
    top: int = 20
    queries: int | None = None
    seed: int = 0
    fuse: str = "fine"
    tie: Literal["none", "entropy"] = "none"
    prompt: str | os.PathLike[str] | None = None
    on_error: Literal["raise", "skip"] = "raise"
    bias: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Before any work.

        Raises:
            UsageError: unknown names, or numbers below 1.
        """
        from clearsight.ranking.fusion import FUSIONS
        from clearsight.rerank import SCORERS

        if not self.scorers:
            raise UsageError(
                "No scorer was chosen.", where="--scorer", do=f"There are: {', '.join(SCORERS.names())}."
            )
        for name in self.scorers:
            SCORERS.get(name)
        FUSIONS.get(self.fuse)
        for name, value in (("top", self.top), ("queries", self.queries)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}.", where=name, do="Give at least 1.")

    def rerankers(self, loaded: LoadedModel) -> dict[str, Reranker]:
        """A reranker for each scorer, of one model.

        Raises:
            UsageError: unknown names, a model without a language head, or an enhancement it does not allow.
        """
        from clearsight.rerank import Reranker

        self.check()
        return {
            name: Reranker.load(
                loaded,
                scorer=name,
                prompt=None if self.prompt is None else str(self.prompt),
                tie=self.tie,
                on_error=self.on_error,
                **self.options,
            )
            for name in self.scorers
        }


@dataclass(frozen=True, eq=False)
class Again:
    """Judges outcomes of a comparison again, and writes what came of it; made by `again`."""

    fine: Fine
    rerankers: Mapping[str, Reranker]
    progress: Progress

    def __call__(self, run: Run, outcome: Outcome) -> tuple[tuple[ResultRow, ...], Scores, Skips]:
        """Rows of the table, scores by the names of their files, pairs that were left out and why."""
        stage = staged(
            outcome.task,
            outcome.ranking,
            self.rerankers,
            self.fine,
            embedding=", ".join(filter(None, (outcome.embedding, outcome.note, outcome.row().repair))),
            label=outcome.task_label,
            progress=self.progress,
        )
        rows, scores = reranked_rows(run, stage)
        for warning in fine_warnings([stage]):
            run.warn(warning)
        return rows, scores, tuple(skipped(stage).items())


def again(loaded: LoadedModel, fine: Fine, progress: Progress) -> Again:
    """What judges outcomes again with one model.

    Raises:
        UsageError: unknown names, or a model without a language head.
    """
    return Again(fine, fine.rerankers(loaded), progress)


def skipped(stage: Stage) -> dict[str, str]:
    """Pairs that no scorer, or not every scorer, could judge -> why."""
    return {pair: why for one in stage.fine.values() for pair, why in one.skipped.items()}


def sample(query_ids: Sequence[str], count: int | None, seed: int) -> tuple[str, ...]:
    """`count` of the ids in their order, drawn evenly; all of them where that is not fewer."""
    if count is None or count >= len(query_ids):
        return tuple(query_ids)
    chosen = np.sort(np.random.default_rng(seed).choice(len(query_ids), count, replace=False))
    return tuple(query_ids[q] for q in chosen.tolist())


def staged(
    task: Task,
    ranking: Ranking,
    rerankers: Mapping[str, Reranker],
    fine: Fine,
    *,
    embedding: str,
    progress: Progress,
    label: str | None = None,
) -> Stage:
    """Every scorer on the same queries of one ranking. Where that holds fewer candidates than are to be
    judged, the stage says how many it holds.

    Args:
        embedding, label: how tables name the coarse stage and the task.

    Raises:
        DataError, UsageError, ItemError: as `Reranker.rerank`.
    """
    name = label or task.name
    top = min(fine.top, ranking.rows_QK.shape[1])
    chosen = sample(ranking.query_ids, fine.queries, fine.seed)
    words = f"{embedding}, {len(chosen):,} queries" if len(chosen) < len(ranking.query_ids) else embedding
    done: dict[str, Reranked] = {}
    judges = []
    for scorer, reranker in rerankers.items():
        done[scorer] = reranker.rerank(
            task,
            ranking,
            top=fine.top,  # a ranking that was cut above it is refused there
            queries=chosen,
            fuse=fine.fuse,
            progress=Labelled(progress, f"{name}: {scorer}, top {top}"),
        )
        if fine.bias and task.relevance:
            labelled = Labelled(progress, f"{name}: biases of {scorer}")
            judges.append(judge_row(scorer, reranker, task, done[scorer], label=name, progress=labelled))
    return Stage(task, words, top, done, tuple(judges), label)


def record(run: Run, stage: Stage, rows: Sequence[ResultRow]) -> Scores:
    """Rankings and fine scores of a stage into the run; its scores by the names of their files.

    `rankings/NAME.trec` holds the reranked lists, whose scores are minus the candidates above;
    `fine/NAME.json` what was judged: query -> candidate -> the fine score, null where there is none.
    """
    first = next(iter(stage.fine.values()))
    run.write_ranking(f"rankings/{file_name(stage, 'coarse')}.trec", first.coarse)
    for scorer, one in stage.fine.items():
        name = file_name(stage, scorer)
        run.write_ranking(f"rankings/{name}.trec", one.ranking)
        run.write_json(f"fine/{name}.json", fine_scores(one))
    return {file_name(stage, row.repair): row.scores for row in rows}


def fine_scores(one: Reranked) -> dict[str, dict[str, float | None]]:
    """query -> candidate -> fine score, best coarse candidate first."""
    return {
        query: {
            one.coarse.candidate_ids[row]: None if math.isnan(value) else value
            for row, value in zip(one.coarse.rows_QK[q].tolist(), one.fine_QT[q].tolist(), strict=False)
            if row >= 0
        }
        for q, query in enumerate(one.coarse.query_ids)
    }


def file_name(stage: Stage, scorer: str) -> str:
    """Task, coarse stage, depth and scorer in letters, digits and hyphens."""
    words = f"{stage.name} {stage.group} {scorer}"
    return "-".join("".join(c if c.isalnum() else " " for c in words).split()).lower()


def reranked_rows(run: Run, stage: Stage) -> tuple[tuple[ResultRow, ...], Scores]:
    """The table's rows of a stage (coarse, each scorer, oracle) and its scores, written to the run too."""
    rows = result_rows(stage)
    return rows, record(run, stage, rows)


def summary(model: str, stages: Sequence[Stage]) -> str:
    """One plain sentence: who judged how much of what."""
    stage = stages[0]
    queries = len(next(iter(stage.fine.values())).coarse.query_ids)
    scorers = ", ".join(stage.fine)
    names = ", ".join(one.name for one in stages)
    return (
        f"{model} judged the first {stage.top} candidates of {queries:,} queries again ({scorers}): {names}."
    )
