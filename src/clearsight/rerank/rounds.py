"""What a rerank asks, part by part: pairs of a ranking, their questions, what is read of them.

Legend of shapes: Q queries, T candidates judged of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clearsight.errors import DataError, ItemError, UsageError
from clearsight.models.judge import Refuse
from clearsight.models.judge_questions import Question
from clearsight.progress import Progress
from clearsight.ranking.listed import places_of
from clearsight.rerank.scorers import Asking, Floats, Form, Read, Scorer
from clearsight.types import Item, Ranking, Task, ids_of

QUESTIONS_AT_ONCE = 16_384
"""Questions that wait at a time: they bound the memory, and prefixes that queries share are found among
them."""


class Pairs:
    """The first candidates of each query, as items.

    Raises:
        DataError: the ranking is of another task, or names candidates that the task lacks.
        UsageError: `top` below 1, or beyond what the ranking keeps.
    """

    def __init__(self, task: Task, coarse: Ranking, top: int) -> None:
        self.coarse, self.depth = coarse, depth(coarse, top)
        self._queries = places_of(ids_of(task.queries), coarse.query_ids, "query", task.name)
        self._task = task
        rows = np.unique(coarse.rows_QK[:, : self.depth])
        rows = rows[rows >= 0]
        names = [coarse.candidate_ids[row] for row in rows.tolist()]
        places = places_of(ids_of(task.candidates), names, "candidate", task.name)
        self._place_of = dict(zip(rows.tolist(), places, strict=True))

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, q: int) -> tuple[Item, list[Item]]:
        """The query and its candidates, best first."""
        rows = [row for row in self.coarse.rows_QK[q, : self.depth].tolist() if row >= 0]
        return self._task.queries[self._queries[q]], [
            self._task.candidates[self._place_of[row]] for row in rows
        ]


def depth(coarse: Ranking, top: int) -> int:
    """How many ranks are judged: `top`, or all that there are.

    Raises:
        UsageError: `top` below 1, or beyond what the ranking keeps of larger pools.
    """
    kept = int(coarse.rows_QK.shape[1])
    if top < 1:
        raise UsageError(f"top is {top}.", where="top", do="Give at least 1.")
    if top > kept and (coarse.pool_size_Q > kept).any():
        raise UsageError(
            f"The ranking keeps {kept} candidates of a query, {top} are to be reranked.",
            where="top",
            do=f"Give at most {kept}, or rank again and keep {top}.",
        )
    return min(top, kept)


@dataclass(eq=False)
class Notes:
    """What could not be judged: query x candidate -> why. Raises instead, unless `skip`."""

    skip: bool
    skipped: dict[str, str] = field(default_factory=dict)

    def meet(self, where: str, error: ItemError) -> None:
        """Note the pair, or raise."""
        if not self.skip:
            raise error
        self.skipped[where] = f"{error.what} {error.do or ''}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The questions about one query.

    Attributes:
        query_id: its id.
        candidates: how many it has.
        places: those that can be asked about.
    """

    query_id: str
    candidates: int
    places: tuple[int, ...]
    questions: list[Question]


def judged(scorer: Scorer, pairs: Pairs, notes: Notes, progress: Progress) -> Iterator[Read]:
    """What is read of each query, in their order; many are asked about at a time where a judge is asked."""
    if not isinstance(scorer, Asking):
        yield from _one_by_one(scorer, pairs, notes, progress)
        return
    part: list[Work] = []
    for q in range(len(pairs)):
        part.append(_work(scorer.form, *pairs[q], notes))
        if sum(len(work.questions) for work in part) >= QUESTIONS_AT_ONCE:
            yield from _read(scorer, part, notes, progress)
            part = []
    yield from _read(scorer, part, notes, progress)


def _one_by_one(scorer: Scorer, pairs: Pairs, notes: Notes, progress: Progress) -> Iterator[Read]:
    progress.start(len(pairs), "reranking")
    try:
        for q in range(len(pairs)):
            query, candidates = pairs[q]
            scores_C = np.full(len(candidates), np.nan)
            try:
                scores_C = np.asarray(scorer.score(query, candidates), np.float64)
            except ItemError as error:
                notes.meet(query.id, error)
            if scores_C.shape != (len(candidates),):
                raise DataError(
                    f"The scorer gave scores of shape {scores_C.shape} for {len(candidates)} candidates.",
                    where=query.id,
                    do="One score for each candidate is wanted.",
                )
            yield Read(scores_C)
            progress.advance()
    finally:
        progress.close()


def _work(form: Form, query: Item, candidates: Sequence[Item], notes: Notes) -> Work:
    every = tuple(range(len(candidates)))
    if not candidates:
        return Work(query.id, 0, (), [])
    try:
        return Work(query.id, len(candidates), every, form.ask(query, candidates))
    except ItemError:
        if not notes.skip:
            raise
    places = tuple(c for c in every if _asks(form, query, candidates[c], notes))
    questions = form.ask(query, [candidates[c] for c in places]) if places else []
    return Work(query.id, len(candidates), places, questions)


def _asks(form: Form, query: Item, candidate: Item, notes: Notes) -> bool:
    try:
        form.ask(query, [candidate])
    except ItemError as error:
        notes.meet(f"{query.id} x {candidate.id}", error)
        return False
    return True


def _read(scorer: Asking, part: Sequence[Work], notes: Notes, progress: Progress) -> Iterator[Read]:
    questions = [question for work in part for question in work.questions]
    rows = scorer.judge.answer(questions, refuse=refusal(questions, notes), progress=progress)
    start = 0
    for work in part:
        mine = rows[start : start + len(work.questions)]
        start += len(work.questions)
        yield (
            _spread(scorer.form.read(mine, len(work.places), work.query_id), work)
            if work.places
            else Read(np.full(work.candidates, np.nan))
        )


def refusal(questions: Sequence[Question], notes: Notes) -> Refuse:
    def refuse(place: int, error: ItemError) -> None:
        notes.meet(questions[place].where, error)

    return refuse


def _spread(read: Read, work: Work) -> Read:
    """Scores and entropies at the places of the candidates they are of; NaN elsewhere."""
    if len(work.places) == work.candidates:
        return read
    return Read(
        _at(read.scores_C, work),
        read.asked,
        read.unparsed,
        None if read.entropy_C is None else _at(read.entropy_C, work),
    )


def _at(values: Floats, work: Work) -> Floats:
    spread = np.full(work.candidates, np.nan)
    spread[list(work.places)] = values
    return spread
