"""One task, one embedding, several repairs: rank and score each, test each against the one before."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clearsight.jobs.recipes import RECIPES, Repaired, Sides, sample

if TYPE_CHECKING:
    from clearsight.metrics import PairedTest
    from clearsight.repair import Refinement, ShrinkageChoice
    from clearsight.report.data import Card, Curve, Example, GeometryRow, ReportData, ResultRow
    from clearsight.run import Run
    from clearsight.types import Item, Ranking, Score, Task

SHOWN = 5  # results a query in the report's examples


@dataclass(frozen=True)
class Outcome:
    """What one repair made of one task under one embedding."""

    task: Task
    task_label: str
    embedding: str
    recipe: str
    repaired: Repaired
    ranking: Ranking
    scores: Mapping[str, Score]
    test: PairedTest | None = None
    note: str = ""
    geometry: Mapping[str, float] = field(default_factory=dict)
    seen: int | None = None
    """Candidates that the geometry looks at, where that is not all of them."""

    @property
    def name(self) -> str:
        """A file name for the ranking: task, embedding, note and recipe."""
        words = f"{self.task_label} {self.embedding} {self.note} {self.recipe}"
        return "-".join("".join(c if c.isalnum() else " " for c in words).split()).lower()

    def row(self) -> ResultRow:
        from clearsight.report import ResultRow

        recipe = RECIPES.get(self.recipe)
        against = RECIPES.get(recipe.against).label if recipe.against and self.test else None
        return ResultRow(
            self.task_label, self.embedding, recipe.label, self.scores, against, self.test, self.note
        )

    def geometry_row(self) -> GeometryRow:
        from clearsight.report import GeometryRow

        label = f"{self.task_label}, {self.embedding}, {RECIPES.get(self.recipe).label}"
        if self.seen is not None:
            label += f" (a sample of {self.seen:,} candidates)"
        return GeometryRow(label, self.geometry)


def compare(task: Task, sides: Sides, recipes: Sequence[str], **labels: Any) -> list[Outcome]:
    """Apply every recipe, then judge. `labels`: as for `judge`."""
    return judge(task, {name: RECIPES.get(name).apply(sides) for name in recipes}, **labels)


def judge(
    task: Task,
    repaired: Mapping[str, Repaired],
    *,
    embedding: str,
    task_label: str | None = None,
    note: str = "",
    k: int = 10,
    with_geometry: bool = True,
) -> list[Outcome]:
    """Rank and score what each recipe made of the task.

    The geometry of candidates that are not in memory is that of a sample, and says so.

    Each outcome is tested (paired, on the task's first measure) against the recipe it claims to better, if
    that one is there.
    """
    from clearsight.metrics import geometry, paired_test, score
    from clearsight.ranking import rank

    outcomes: dict[str, Outcome] = {}
    for name, sides in repaired.items():
        ranking = rank(
            sides.queries,
            sides.candidates,
            k,
            relevance=task.relevance,
            pools=task.pools,
            excluded=task.excluded,
        )
        scores = score(ranking, task.relevance, task.measures, groups=task.groups)
        rival = outcomes.get(RECIPES.get(name).against or "")
        headline = task.measures[0]
        drawn = sample(sides.candidates)
        outcomes[name] = Outcome(
            task,
            task_label or task.name,
            embedding,
            name,
            sides,
            ranking,
            scores,
            paired_test(scores[headline], rival.scores[headline]) if rival else None,
            note,
            geometry(sides.queries, drawn) if with_geometry else {},
            len(drawn) if len(drawn) < len(sides.candidates) else None,
        )
    return list(outcomes.values())


def record(
    run: Run,
    outcomes: Iterable[Outcome],
    more_rows: Iterable[ResultRow] = (),
    more_scores: Mapping[str, Mapping[str, Score]] | None = None,
) -> None:
    """Write every outcome into the run: scores by query, table, TREC rankings, relevance, repairs.

    Args:
        more_rows, more_scores: what was judged again and stands in the same table.
    """
    from clearsight.report import rows_to_json

    outcomes = list(outcomes)
    run.write_scores({outcome.name: outcome.scores for outcome in outcomes} | dict(more_scores or {}))
    run.write_json("table.json", rows_to_json([*(outcome.row() for outcome in outcomes), *more_rows]))
    write_outcomes(run, outcomes)


def write_outcomes(run: Run, outcomes: Sequence[Outcome]) -> None:
    """TREC rankings, relevance and repairs of outcomes."""
    from clearsight.repair import save_repair

    for task in {outcome.task.name: outcome.task for outcome in outcomes}.values():
        run.write_qrels(f"qrels/{_slug(task.name)}.trec", task.relevance)
    for outcome in outcomes:
        run.write_ranking(f"rankings/{outcome.name}.trec", outcome.ranking)
        if outcome.repaired.fitted is not None:
            save_repair(run.path(f"repairs/{outcome.name}.safetensors"), outcome.repaired.fitted)


TIES_WORTH_A_WORD = 0.01
POINTS_WORTH_A_WORD = 0.0005
"""Ties beyond the ranks that a measure looks at move nothing."""


def tie_warnings(rows: Iterable[ResultRow]) -> tuple[str, ...]:
    """A sentence on every row whose ties move its measure: what a careless evaluator would report."""
    said = []
    for row in rows:
        measure, score = next(iter(row.scores.items()))
        if (
            score.tie_rate >= TIES_WORTH_A_WORD
            and score.optimistic - score.pessimistic >= POINTS_WORTH_A_WORD
        ):
            said.append(
                f"{row.task}, {row.embedding}, {row.repair}: the right answer ties with others in "
                f"{score.tie_rate:.0%} of the queries. {measure} {score.mean:.1%} is its expected value; an "
                f"evaluator that lists the right answer first would report {score.optimistic:.1%}, a strict "
                f"one {score.pessimistic:.1%}."
            )
    return tuple(said)


def examples(before: Outcome, after: Outcome, count: int) -> tuple[Example, ...]:
    """The first `count` queries of the task, as they come: nothing is picked for its success."""
    from clearsight.report import Example

    recipes = (RECIPES.get(before.recipe), RECIPES.get(after.recipe))
    queries = before.task.queries[:count]
    shown = _candidates(before.task, (before.ranking, after.ranking), len(queries))
    return tuple(
        Example(
            before.task_label,
            item_card(item),
            _results(before, row, shown),
            _results(after, row, shown),
            recipes[0].label,
            recipes[1].label,
        )
        for row, item in enumerate(queries)
    )


def _candidates(task: Task, rankings: Iterable[Ranking], count: int) -> dict[str, Item]:
    """The items that the first `count` queries of the rankings show."""
    from clearsight.names import row_numbers
    from clearsight.types import ids_of

    rows = [
        (ranking, row) for ranking in rankings for row in ranking.rows_QK[:count, :SHOWN].ravel().tolist()
    ]
    wanted = dict.fromkeys(ranking.candidate_ids[row] for ranking, row in rows if row >= 0)
    place = row_numbers(ids_of(task.candidates), tuple(wanted))
    return {name: task.candidates[place[name]] for name in wanted}


def _results(outcome: Outcome, query: int, shown: Mapping[str, Item]) -> tuple[Card, ...]:
    ranking = outcome.ranking
    wanted = outcome.task.relevance.get(ranking.query_ids[query], {})
    cards = []
    for row, value in zip(ranking.rows_QK[query, :SHOWN], ranking.scores_QK[query, :SHOWN], strict=True):
        if row >= 0:
            item_id = ranking.candidate_ids[row]
            cards.append(item_card(shown[item_id], relevant=wanted.get(item_id, 0) > 0, score=float(value)))
    return tuple(cards)


def item_card(item: Item, *, relevant: bool = False, score: float | None = None) -> Card:
    """An item as the report shows it; pictures are re-encoded as small PNG."""
    from clearsight.report import Card

    return Card(item.id, item.text, None if item.image is None else thumbnail(item), relevant, score)


def thumbnail(item: Item, side: int = 192) -> bytes:
    """The item's image as PNG, at most `side` pixels wide and high."""
    from clearsight.data import open_image

    assert item.image is not None
    image = open_image(item.image, item_id=item.id)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()


def curves(outcomes: Iterable[Outcome]) -> tuple[Curve, ...]:
    """What recipes looked at to choose, without labels: rounds of a refinement, values of the shrinkage."""
    found = []
    for outcome in outcomes:
        where = f"{outcome.task_label}, {outcome.embedding}"
        if "refinement" in outcome.repaired.notes:
            found.append(_refinement_curve(where, outcome.repaired.notes["refinement"]))
        if "choice" in outcome.repaired.notes:
            found.append(_shrinkage_curve(where, outcome.repaired.notes["choice"]))
    return tuple(curve for curve in found if curve is not None)


def _refinement_curve(where: str, record: Refinement) -> Curve | None:
    from clearsight.report import Curve

    if not record.held_out:
        return None
    return Curve(
        title=f"Refinement: {where}",
        x_label="round",
        y_label="mean reciprocal rank",
        x=[float(i) for i in range(len(record.held_out))],
        y={"held-out generated pairs": record.held_out},
        chosen=float(len(record.rounds)),
        note="No labels: images and the model's own captions of them, held out from the fit.",
    )


def _shrinkage_curve(where: str, choice: ShrinkageChoice) -> Curve:
    from clearsight.report import Curve

    trials = choice.trials
    seen = {"hubness (skewness)": [trial.hubness for trial in trials]}
    if trials[0].self_retrieval is not None:
        seen = {"image finds its own caption": [float(trial.self_retrieval or 0) for trial in trials]}
    return Curve(
        title=f"Shrinkage of ReAlign: {where}",
        x_label="shrinkage",
        y_label="hit rate@1" if trials[0].self_retrieval is not None else "skewness",
        x=[trial.shrinkage for trial in trials],
        y=seen,
        chosen=choice.value,
        log_x=True,
        note=f"Rule: {choice.rule}. Ledoit-Wolf would take {choice.ledoit_wolf:.3g}, OAS {choice.oas:.3g}.",
    )


def provenance(run: Run) -> dict[str, Any]:
    """What the page says of its origin: the manifest as it stands, without what is still to change."""
    return copy.deepcopy({k: v for k, v in run.manifest.items() if k not in ("status", "finished", "files")})


def write_report(run: Run, data: ReportData) -> None:
    """The page, and the values it shows, so that it can be rendered again."""
    from clearsight.report import render_report

    run.write_text("report.json", data.to_json())
    run.write_text("report.html", render_report(data))
