"""From reranked rankings to the values that the reranking page shows, and the page in a run.

A job fills one `Stage` a task, then calls `page_data` and `write_page`; the page needs no more:

```python
judges = [judge_row(name, rerankers[name], task, fine[name]) for name in fine]  # fine: name -> Reranked
stage = Stage(task, "mean, one_word, refined", top=20, fine=fine, judges=judges)
write_page(run, page_data(title, summary, [stage], headline="likelihood", run=run))
```

`judge_row` asks the scorer for its biases, of so few queries that it costs little; what the judge's cache
holds is not asked again.

Legend of shapes: Q queries, T candidates judged of each, C candidates, P pairs, O orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.jobs.compare import SHOWN, item_card, provenance, tie_warnings
from clearsight.types import ids_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clearsight.metrics.calibration import OrderSwap, PositionBias, Reliability, YesBias
    from clearsight.progress import Progress
    from clearsight.report.data import Card, Example, ResultRow
    from clearsight.report.reranking import JudgeRow, RerankingData
    from clearsight.rerank import Reranked, Reranker, Scorer
    from clearsight.run import Run
    from clearsight.types import Item, Ranking, Relevance, Score, Task

BIAS_QUERIES = 100
"""A scorer's biases are measured on the first so many queries."""
EMPTY_CANDIDATES = 200
"""Candidates that are judged under an empty query."""
QUERIES_SHOWN = 4
"""Examples of a task."""
COARSE, ORACLE = "coarse", "oracle"
LARGEST_DIGIT = 9.0


@dataclass(frozen=True, eq=False)
class Stage:
    """One task, and what each scorer made of the same coarse ranking of it.

    Attributes:
        task: queries, candidates and relevance; without relevance there is nothing to show.
        embedding: how the table names the coarse stage, such as "mean, one_word, refined".
        top: candidates of a query that were judged.
        fine: scorer (with what else sets a row apart, such as "likelihood, zscore") -> its result, in the
            order of the table. All were made of the same queries of the same ranking.
        judges: bias and calibration of each scorer, see `judge_row`; may be empty.
        label: the task in the table; None: its name.
    """

    task: Task
    embedding: str
    top: int
    fine: Mapping[str, Reranked]
    judges: Sequence[JudgeRow] = ()
    label: str | None = None

    @property
    def name(self) -> str:
        """The task in the table."""
        return self.label or self.task.name

    @property
    def group(self) -> str:
        """The heading over its rows."""
        return f"{self.embedding}; top {self.top} judged"


def page_data(
    title: str,
    summary: str,
    stages: Sequence[Stage],
    *,
    headline: str | None = None,
    run: Run | None = None,
    shown: int = QUERIES_SHOWN,
) -> RerankingData:
    """The values of the page.

    Args:
        summary: one plain sentence: model, scorers, depth, on how many queries.
        stages: at least one, each with at least one scorer.
        headline: the scorer whose gain stands on top and whose results the examples show; None: the first
            of the first stage.
        run: where provenance, warnings and the command come from.
        shown: examples of each stage: its first queries as they come, picked for nothing.
    """
    from clearsight.report.reranking import RerankingData

    chosen = next(iter(stages[0].fine)) if headline is None else headline
    rows = tuple(row for stage in stages for row in result_rows(stage))
    skipped = {
        pair: why for s in stages for reranked in s.fine.values() for pair, why in reranked.skipped.items()
    }
    return RerankingData(
        title=title,
        summary=summary,
        rows=rows,
        headline=chosen,
        judges=tuple(judge for stage in stages for judge in stage.judges),
        examples=tuple(e for s in stages if chosen in s.fine for e in examples(s, chosen, shown)),
        skipped=tuple(skipped.items()),
        warnings=(*(run.manifest["warnings"] if run else ()), *fine_warnings(stages), *tie_warnings(rows)),
        manifest=provenance(run) if run else {},
        commands=(run.command,) if run else (),
    )


def write_page(run: Run, data: RerankingData) -> None:
    """`report.html`, the values it shows (`report.json`), and the figures for a paper (`figures/`)."""
    from clearsight.report.data import plain
    from clearsight.report.reranking import render_reranking, reranking_figures

    run.write_json("report.json", plain(data))
    run.write_text("report.html", render_reranking(data))
    for name, drawn in reranking_figures(data).items():
        run.write_bytes(f"figures/{name}", drawn)


def result_rows(stage: Stage) -> tuple[ResultRow, ...]:
    """The table of a task: coarse, each scorer tested against it (paired), and what bounds them all."""
    from clearsight.metrics import paired_test
    from clearsight.ranking.fusion import oracle
    from clearsight.report.data import ResultRow
    from clearsight.report.reranking import BOUND

    coarse = next(iter(stage.fine.values())).coarse
    task, before = stage.task, _scores(stage.task, coarse)
    depth = min(stage.top, coarse.rows_QK.shape[1])
    ranked = {scorer: (one.ranking, "") for scorer, one in stage.fine.items()}
    ranked[ORACLE] = (oracle(coarse, depth, _relevance(task, coarse)), BOUND)
    rows = [ResultRow(stage.name, stage.group, COARSE, before)]
    for name, (ranking, note) in ranked.items():
        after, first = _scores(task, ranking), task.measures[0]
        test = paired_test(after[first], before[first])
        rows.append(ResultRow(stage.name, stage.group, name, after, COARSE, test, note))
    return tuple(rows)


def judge_row(
    scorer: str,
    reranker: Reranker,
    task: Task,
    reranked: Reranked,
    *,
    label: str | None = None,
    queries: int = BIAS_QUERIES,
    progress: Progress | None = None,
) -> JudgeRow:
    """What can be measured of a scorer's bias and calibration.

    Of choice the label orders, of listwise the chosen places; of all that give a probability the calibration
    and the empty query. A digit counts as its share of 9.

    Args:
        scorer, label: how the row is named; label None: by the task's name.
        reranked: what the same reranker made of the task; its scores are used, not asked for again.
        queries: label orders and places are asked of the first so many.
    """
    from clearsight.ranking.reorder import of_queries
    from clearsight.report.reranking import JudgeRow
    from clearsight.rerank.listwise import Listwise
    from clearsight.rerank.scorers import Asking, Choice, Digit, TrueFalse

    form = reranker.scorer.form if isinstance(reranker.scorer, Asking) else None
    looked = _Looked(
        reranker.scorer,
        task,
        of_queries(reranked.coarse, reranked.coarse.query_ids[:queries]),
        reranked.fine_QT.shape[1],
        progress,
    )
    facts: dict[str, Any] = {}
    if isinstance(form, TrueFalse | Choice | Digit):
        largest = LARGEST_DIGIT if isinstance(form, Digit) else 1.0
        facts = {"reliability": _reliability(task, reranked, largest), "yes": looked.yes(largest)}
    return JudgeRow(
        scorer,
        task.name if label is None else label,
        written=reranked.asked,
        unparsed=reranked.unparsed,
        fell_back=len(reranked.fell_back),
        swap=looked.swap() if isinstance(form, Choice) else None,
        position=looked.position() if isinstance(form, Listwise) else None,
        **facts,
    )


def _reliability(task: Task, reranked: Reranked, largest: float) -> Reliability | None:
    from clearsight.metrics.calibration import reliability

    judged_QT = ~np.isnan(reranked.fine_QT)
    relevant_QT = _relevant(task, reranked.coarse, judged_QT.shape[1])
    shares_N = reranked.fine_QT[judged_QT] / largest
    return reliability(shares_N, relevant_QT[judged_QT]) if len(shares_N) else None


@dataclass(frozen=True, eq=False)
class _Looked:
    """What a scorer is asked for its biases; None where nothing could be parsed."""

    scorer: Scorer
    task: Task
    few: Ranking
    top: int
    progress: Progress | None

    def yes(self, largest: float) -> YesBias | None:
        from clearsight.metrics.calibration import yes_bias
        from clearsight.rerank import empty_query_scores

        modality = _items(self.task.queries, self.few.query_ids[:1])[self.few.query_ids[0]].modality
        rows = dict.fromkeys(row for row in self.few.rows_QK.T.ravel().tolist() if row >= 0)
        names = [self.few.candidate_ids[row] for row in list(rows)[:EMPTY_CANDIDATES]]
        shown = list(_items(self.task.candidates, names).values())
        scores_C = empty_query_scores(self.scorer, modality, shown, progress=self.progress)
        scores_C = scores_C[~np.isnan(scores_C)]
        return yes_bias(scores_C / largest) if len(scores_C) else None

    def swap(self) -> OrderSwap | None:
        from clearsight.metrics.calibration import order_swap
        from clearsight.rerank import label_orders

        orders_PO = label_orders(self.scorer, self.task, self.few, top=self.top, progress=self.progress)
        orders_PO = orders_PO[~np.isnan(orders_PO).any(axis=1)]
        return order_swap(orders_PO[:, 0], orders_PO[:, 1]) if len(orders_PO) else None

    def position(self) -> PositionBias | None:
        from clearsight.metrics.calibration import position_bias
        from clearsight.rerank import chosen_positions

        chosen_QO = chosen_positions(self.scorer, self.task, self.few, top=self.top, progress=self.progress)
        # The first order is the coarse one, in which a good judge rightly chooses early places.
        chosen_QO = chosen_QO[:, 1:]
        options_Q = (self.few.rows_QK[:, : self.top] >= 0).sum(axis=1)
        options_QO = np.broadcast_to(options_Q[:, None], chosen_QO.shape)
        parsed_QO = chosen_QO >= 0
        return position_bias(chosen_QO[parsed_QO], options_QO[parsed_QO]) if parsed_QO.any() else None


def examples(stage: Stage, scorer: str, count: int) -> tuple[Example, ...]:
    """The first `count` queries that were judged, as they come; scores are the coarse and the fine ones."""
    from clearsight.report.data import Example

    reranked = stage.fine[scorer]
    before, after = reranked.coarse, reranked.ranking
    count = min(count, len(before.query_ids))
    fine_of = [
        dict(zip(rows_T.tolist(), fine_T.tolist(), strict=True))
        for rows_T, fine_T in zip(before.rows_QK[:count, : stage.top], reranked.fine_QT[:count], strict=True)
    ]
    coarse_of = [
        dict(zip(rows_K.tolist(), scores_K.tolist(), strict=True))
        for rows_K, scores_K in zip(before.rows_QK[:count], before.scores_QK[:count], strict=True)
    ]
    queries = _items(stage.task.queries, before.query_ids[:count])
    return tuple(
        Example(
            stage.name,
            item_card(queries[before.query_ids[q]]),
            _cards(stage.task, before, q, coarse_of[q]),
            _cards(stage.task, after, q, fine_of[q]),
            COARSE,
            scorer,
        )
        for q in range(count)
    )


def _cards(task: Task, ranking: Ranking, query: int, score_of: Mapping[int, float]) -> tuple[Card, ...]:
    rows = [row for row in ranking.rows_QK[query, :SHOWN].tolist() if row >= 0]
    names = [ranking.candidate_ids[row] for row in rows]
    items = _items(task.candidates, names)
    grades = task.relevance.get(ranking.query_ids[query], {})
    return tuple(
        item_card(items[name], relevant=grades.get(name, 0) > 0, score=score_of.get(row))
        for row, name in zip(rows, names, strict=True)
    )


def _items(items: Sequence[Item], names: Sequence[str]) -> dict[str, Item]:
    """The named ones; of millions, no others are made."""
    wanted = set(names)
    return {name: items[i] for i, name in enumerate(ids_of(items)) if name in wanted}


def _relevant(task: Task, ranking: Ranking, top: int) -> NDArray[np.bool_]:
    """Whether each of the first `top` entries is relevant, (Q, T)."""
    relevant_QT = np.zeros((len(ranking.query_ids), top), dtype=bool)
    for q, name in enumerate(ranking.query_ids):
        grades = task.relevance.get(name, {})
        for t, row in enumerate(ranking.rows_QK[q, :top].tolist()):
            relevant_QT[q, t] = row >= 0 and grades.get(ranking.candidate_ids[row], 0) > 0
    return relevant_QT


def _relevance(task: Task, ranking: Ranking) -> Relevance:
    """Of the ranking's queries alone."""
    return {name: task.relevance[name] for name in ranking.query_ids if name in task.relevance}


def _scores(task: Task, ranking: Ranking) -> dict[str, Score]:
    from clearsight.metrics import score

    groups = {name: task.groups[name] for name in ranking.query_ids if name in task.groups}
    return score(ranking, _relevance(task, ranking), task.measures, groups=groups)


def fine_warnings(stages: Sequence[Stage]) -> tuple[str, ...]:
    """What was answered otherwise than asked, and where chance chose the candidates."""
    said = []
    for stage in stages:
        for scorer, one in stage.fine.items():
            if one.unparsed:
                said.append(
                    f"{stage.name}, {scorer}: {one.unparsed:,} of {one.asked:,} answers could not be parsed; "
                    f"{len(one.fell_back):,} of {len(one.coarse.query_ids):,} queries keep their coarse "
                    "order for it."
                )
        cut_tied = next(iter(stage.fine.values())).cut_tied
        if cut_tied:
            said.append(
                f"{stage.name}: in {cut_tied:,} queries the coarse score at rank {stage.top} goes on below "
                "it; which of these candidates were judged, their row decided."
            )
    return tuple(said)
