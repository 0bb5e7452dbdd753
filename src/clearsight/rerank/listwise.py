"""All candidates in one prompt; the model writes the number of the best.

Legend of shapes: C candidates, O orders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Question, Written
from clearsight.rerank.prompts import Phrasing
from clearsight.rerank.scorers import Read, Rows, make, written
from clearsight.types import Item

GIVEN_ORDER = 1e-6
"""What the given order weighs against a vote: of candidates with equal votes the earlier stands first."""


@dataclass(eq=False)
class Listwise:
    """The share of orders in which a candidate was chosen; among equals the given (coarse) order.

    An answer without a number of the list counts as unparsed and for no candidate; where none of a query can
    be parsed, its scores are NaN and it keeps its coarse order.

    Attributes:
        section: the form of the wording that asks.
        orders: the given order, then others drawn by `seed` and the query's id. The release asks once.
        tokens: most tokens of an answer.
    """

    judge: Judge
    phrasing: Phrasing
    section: str = "list"
    orders: int = 3
    tokens: int = 8
    seed: int = 0

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        asked = []
        for order_C in self.shuffles(len(candidates), query.id):
            worded = self.phrasing.listed(self.section, query, [candidates[c] for c in order_C])
            asked.append(Question(worded.turns, worded.images, Written(self.tokens), query.id))
        return asked

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        chosen_O = np.array([self._chosen(row, candidates) for row in rows], np.int64)
        votes_C = np.zeros(candidates)
        for order_C, place in zip(self.shuffles(candidates, query_id), chosen_O, strict=True):
            if place >= 0:
                votes_C[order_C[place]] += 1
        asked, parsed = sum(row is not None for row in rows), int((chosen_O >= 0).sum())
        scores_C = votes_C / parsed if parsed else np.full(candidates, np.nan)
        return Read(
            scores_C - GIVEN_ORDER * np.arange(candidates) / candidates,
            asked=asked,
            unparsed=asked - parsed,
            chosen_O=chosen_O,
        )

    def shuffles(self, count: int, query_id: str) -> list[NDArray[np.int64]]:
        """The orders in which the options of a query are listed, the given one first."""
        # Of the query: under one order for all, the place of the coarse favourite would pass for a bias.
        rng = np.random.default_rng([self.seed, count, crc32(query_id.encode("utf-8", "surrogatepass"))])
        others = [rng.permutation(count) for _ in range(self.orders - 1)]
        return [np.arange(count), *others]

    def _chosen(self, row: NDArray[np.float32] | None, count: int) -> int:
        """The place that an answer names; -1 where it names none of the list."""
        found = None if row is None else re.search(r"\d+", written(self.judge, row))
        place = -1 if found is None else int(found[0]) - 1
        return place if place < count else -1


make("listwise", Listwise)
make("listwise_release", Listwise, section="list_release", orders=1)
