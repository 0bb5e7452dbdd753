"""Several questions to a reranker in one pass of its judge.

Legend of shapes: C candidates of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import ItemError, UsageError
from clearsight.types import Item

if TYPE_CHECKING:
    from clearsight.models.judge_questions import Question
    from clearsight.rerank import Reranker


@dataclass(frozen=True, slots=True)
class Pairing:
    """A question to the reranker."""

    query: Item
    candidates: Sequence[Item]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Its answer.

    Attributes:
        score_C: higher is better; NaN for what could not be judged.
        refused: why, for the candidates that could not be.
    """

    score_C: NDArray[np.float64]
    refused: tuple[ItemError, ...] = ()


def judge(reranker: Reranker, asked: Sequence[Pairing]) -> list[Judgement | Exception]:
    """Judgements in the order of the questions; an exception where a question itself cannot be asked.

    The judge sees all questions at once: in float32 none depends on what else is asked.
    """
    from clearsight.rerank.scorers import Asking

    if not isinstance(reranker.scorer, Asking):
        return [_alone(reranker, one) for one in asked]
    scorer = reranker.scorer
    questions: list[Question] = []
    spans: list[tuple[int, int] | Exception] = []
    for one in asked:
        try:
            mine = scorer.form.ask(one.query, one.candidates) if one.candidates else []
        except (ItemError, UsageError) as error:
            spans.append(error)
            continue
        spans.append((len(questions), len(questions) + len(mine)))
        questions += mine
    refusals: dict[int, ItemError] = {}
    rows = scorer.judge.answer(questions, refuse=refusals.__setitem__)
    answers: list[Judgement | Exception] = []
    for one, span in zip(asked, spans, strict=True):
        if isinstance(span, Exception):
            answers.append(span)
            continue
        start, end = span
        read = scorer.form.read(rows[start:end], len(one.candidates), one.query.id) if end > start else None
        refused = tuple(refusals[place] for place in range(start, end) if place in refusals)
        answers.append(Judgement(np.empty(0) if read is None else read.scores_C, refused))
    return answers


def _alone(reranker: Reranker, one: Pairing) -> Judgement | Exception:
    try:
        return Judgement(np.asarray(reranker.scorer.score(one.query, one.candidates), np.float64))
    except (ItemError, UsageError) as error:
        return error
