"""How much likelier a text becomes once the other item is known: pointwise mutual information, as the model
has it.

Legend of shapes: C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearsight.errors import UsageError
from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Question, Said
from clearsight.rerank.prompts import Phrasing, Worded
from clearsight.rerank.scorers import Read, Rows, make, where
from clearsight.types import Item


@dataclass(eq=False)
class Likelihood:
    """log p(text | other side) - log p(text), in nats.

    Where a candidate is a text alone, its text: log p(candidate | query) - log p(candidate). Otherwise the
    query's: log p(query text | candidate, query image) - log p(query text | query image), where the query's
    image is there only if the query has one (composed queries: two images in a prompt).
    Where neither side offers such a text nothing is defined.

    Attributes:
        prior: False leaves the second term out (the plain likelihood).
    """

    judge: Judge
    phrasing: Phrasing
    prior: bool = True

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        asked = []
        for candidate in candidates:
            name = where(query, candidate)
            if candidate.modality == "text":
                text = candidate.text
                given = self.phrasing.pair("say", query, candidate)
                free = self.phrasing.pair("say_nothing", query, candidate)
            elif query.text is not None:
                text = query.text
                given = self.phrasing.pair("ask", query, candidate)
                free = self.phrasing.pair("ask_nothing", query, candidate)
            else:
                raise UsageError(
                    f"The likelihood of {candidate.modality} candidates under image queries is not defined: "
                    "neither side is a text whose probability would say how well both fit.",
                    where=name,
                    do="Choose p_true, choice, number or listwise.",
                )
            asked += [_said(one, text or "", name) for one in ((given, free) if self.prior else (given,))]
        return asked

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        log_p = np.array([np.nan if row is None else row[0] for row in rows], np.float64)
        by_candidate = log_p.reshape(candidates, -1)
        return Read(by_candidate[:, 0] - (by_candidate[:, 1] if self.prior else 0.0))


def _said(worded: Worded, text: str, name: str) -> Question:
    return Question(worded.turns, worded.images, Said(text), name)


make("likelihood", Likelihood)
make("likelihood_plain", Likelihood, prior=False)
