"""What shows a scorer's biases: scores of an empty query, of both label orders, the places it chooses.

Legend of shapes: C candidates, Q queries, O orders, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.progress import Progress, Silent
from clearsight.rerank.listwise import Listwise
from clearsight.rerank.rounds import Notes, Pairs, judged
from clearsight.rerank.scorers import Asking, Choice, Digit, Read, Scorer, TrueFalse
from clearsight.types import Item, Modality, Ranking, Task

Floats: TypeAlias = NDArray[np.float64]


def empty_query_scores(
    scorer: Scorer, query: Modality, candidates: Sequence[Item], *, progress: Progress | None = None
) -> Floats:
    """The score of each candidate under a query of which neither text nor image is shown, (C,).

    An unbiased p_true or choice would say 0.5 (yes-bias: the mean above it); an unbiased number 4.5.

    Args:
        query: the modality that the wording is to assume.

    Raises:
        UsageError: the scorer asks no question that has a sense without a query (likelihood, listwise).
    """
    asking = _asking(scorer)
    if not isinstance(asking.form, TrueFalse | Choice | Digit):
        raise UsageError(
            f"'{asking.name}' has no score of an empty query.",
            where="scorer",
            do="Use p_true, choice or number.",
        )
    questions = asking.form.blank(query, candidates)
    rows = asking.judge.answer(questions, progress=progress)
    return asking.form.read(rows, len(candidates), "").scores_C if candidates else np.empty(0)


def label_orders(
    scorer: Scorer, task: Task, ranking: Ranking, *, top: int = 10, progress: Progress | None = None
) -> Floats:
    """The score of each pair under "A is yes" and under "B is yes", (P, 2), queries in their order.

    A scorer without a liking for a label gives a pair the same score twice; the pairs of which one is above
    0.5 and the other below it disagree.

    Raises:
        UsageError: the scorer has no labels.
    """
    if not isinstance(_asking(scorer).form, Choice):
        raise UsageError("Only 'choice' has two label orders.", where="scorer", do="Use choice.")
    orders = [read.orders_CO for read in _reads(scorer, task, ranking, top, progress)]
    return np.concatenate([one for one in orders if one is not None] or [np.empty((0, 2))])


def chosen_positions(
    scorer: Scorer, task: Task, ranking: Ranking, *, top: int = 10, progress: Progress | None = None
) -> NDArray[np.int64]:
    """The place (0 first) of the option that was chosen in each order of the list, (Q, O); -1: unparsed.

    Orders beyond the first are random: a scorer without a liking for a place chooses all of them alike there.

    Raises:
        UsageError: the scorer shows no list.
    """
    if not isinstance(_asking(scorer).form, Listwise):
        raise UsageError("Only listwise scorers choose a place.", where="scorer", do="Use listwise.")
    places = [read.chosen_O for read in _reads(scorer, task, ranking, top, progress)]
    return np.stack([one for one in places if one is not None])


def _reads(scorer: Scorer, task: Task, ranking: Ranking, top: int, progress: Progress | None) -> list[Read]:
    pairs = Pairs(task, ranking, top)
    return list(judged(scorer, pairs, Notes(skip=False), progress or Silent()))


def _asking(scorer: Scorer) -> Asking:
    if not isinstance(scorer, Asking):
        raise UsageError(
            "Only built-in scorers can be looked into.", where="scorer", do="Choose one by name."
        )
    return scorer
