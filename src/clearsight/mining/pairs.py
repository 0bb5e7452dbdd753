"""Training pairs of one data set in rows: who owns which candidate, and what can never be a negative.

Candidates of equal content are one candidate, which all their queries own: a thousand rows that name one
class are one answer, not a thousand negatives. Queries of equal content stay apart, but share their
positives.

Legend of shapes: Q queries, C candidates, P (query, positive) pairs, F (query, forbidden candidate) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.names import row_numbers
from clearsight.types import Task, ids_of

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Lists of rows, one after the other: list i is `row_P[start_N1[i] : start_N1[i + 1]]`."""

    start_N1: Rows
    row_P: Rows

    @classmethod
    def of(cls, key_P: Rows, row_P: Rows, size: int) -> Table:
        """The lists of `row_P` by key; each in the order given."""
        order_P = np.argsort(key_P, kind="stable")
        start_N1 = np.zeros(size + 1, dtype=np.int64)
        np.cumsum(np.bincount(key_P, minlength=size), out=start_N1[1:])
        return cls(start_N1, np.ascontiguousarray(row_P[order_P]))

    def __len__(self) -> int:
        return len(self.start_N1) - 1

    def __getitem__(self, place: int) -> Rows:
        return self.row_P[self.start_N1[place] : self.start_N1[place + 1]]

    @property
    def size_N(self) -> Rows:
        return np.diff(self.start_N1)

    def take(self, index: Rows) -> Table:
        """The lists at `index`, in that order."""
        lists = [self[place] for place in index.tolist()]
        start_N1 = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        return Table(start_N1, np.concatenate([np.zeros(0, dtype=np.int64), *lists]))


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPairs:
    """The pairs of one data set.

    Attributes:
        dataset: its name.
        query_ids, candidate_ids: names of the rows.
        first_C: the first candidate with the same content, itself where there is none before it.
        positive_Q: each query's positive in its own pair: the first of its highest grade; -1 without one.
        own_QP: all positives of each query, as candidate rows, highest grade first.
        owners_CP: the queries that own each candidate (a row of `distinct`), ascending.
        forbidden_QF: candidates (rows of `distinct`), ascending, that are never a negative of a query: its
            own positives, those of queries with the same content, and what its task excludes.
        distinct: candidates that are the first of their content, ascending.
    """

    dataset: str
    query_ids: Sequence[str]
    candidate_ids: Sequence[str]
    first_C: Rows
    positive_Q: Rows
    own_QP: Table
    owners_CP: Table
    forbidden_QF: Table
    distinct: Rows

    @classmethod
    def of(
        cls,
        task: Task,
        *,
        query_content: Sequence[Any] | None = None,
        candidate_content: Sequence[Any] | None = None,
    ) -> TrainingPairs:
        """The pairs of a task: every query with its relevant candidates (grade above 0).

        Args:
            query_content, candidate_content: a key for what each item holds (`data.content.content_key`);
                without them every item is taken for different.

        Raises:
            DataError: the task ranks pools of its own, or no query has a positive.
        """
        if task.pools:
            raise DataError(
                "The task ranks a pool for each query; mining searches all candidates.",
                where=task.name,
                do="Give the pairs to train on, such as a set of MMEB-train.",
            )
        query_ids, candidate_ids = ids_of(task.queries), ids_of(task.candidates)
        relevant = [
            (query, name)
            for query, grades in task.relevance.items()
            for name, grade in sorted(grades.items(), key=lambda entry: -entry[1])
            if grade > 0
        ]
        if not relevant:
            raise DataError(
                "No query has a positive.", where=task.name, do="Give relevance: pairs to train on."
            )
        excluded = [(query, name) for query, names in task.excluded.items() for name in names]
        query_row = row_numbers(query_ids, tuple(dict.fromkeys(q for q, _ in (*relevant, *excluded))))
        candidate_row = row_numbers(candidate_ids, tuple(dict.fromkeys(c for _, c in (*relevant, *excluded))))

        def rows(pairs: list[tuple[str, str]]) -> tuple[Rows, Rows]:
            both = ([query_row[q] for q, _ in pairs], [candidate_row[c] for _, c in pairs])
            return np.array(both[0], dtype=np.int64), np.array(both[1], dtype=np.int64)

        return cls.of_rows(
            task.name,
            query_ids,
            candidate_ids,
            *rows(relevant),
            first_Q=_first(query_content, len(query_ids)),
            first_C=_first(candidate_content, len(candidate_ids)),
            excluded=rows(excluded),
        )

    @classmethod
    def of_rows(
        cls,
        dataset: str,
        query_ids: Sequence[str],
        candidate_ids: Sequence[str],
        query_P: Rows,
        candidate_P: Rows,
        *,
        first_Q: Rows | None = None,
        first_C: Rows | None = None,
        excluded: tuple[Rows, Rows] | None = None,
    ) -> TrainingPairs:
        """Pairs from rows; the positives of a query in the order in which its own comes first."""
        queries, candidates = len(query_ids), len(candidate_ids)
        first_Q = np.arange(queries) if first_Q is None else first_Q
        first_C = np.arange(candidates) if first_C is None else first_C
        distinct = np.flatnonzero(first_C == np.arange(candidates))
        place_C = np.searchsorted(distinct, first_C)
        own_QP = Table.of(query_P, candidate_P, queries)
        positive_Q = np.full(queries, -1, dtype=np.int64)
        has_Q = own_QP.size_N > 0
        positive_Q[has_Q] = own_QP.row_P[own_QP.start_N1[:-1][has_Q]]
        # A query stands in for all of its content: what one of them owns is forbidden to all.
        by_content = Table.of(first_Q[query_P], place_C[candidate_P], queries)
        size_Q = by_content.size_N[first_Q]
        key_F = np.repeat(np.arange(queries), size_Q)
        within_F = np.arange(len(key_F)) - np.repeat(np.cumsum(size_Q) - size_Q, size_Q)
        row_F = by_content.row_P[by_content.start_N1[first_Q][key_F] + within_F]
        if excluded is not None:
            key_F = np.concatenate([key_F, excluded[0]])
            row_F = np.concatenate([row_F, place_C[excluded[1]]])
        return cls(
            dataset,
            query_ids,
            candidate_ids,
            first_C,
            positive_Q,
            own_QP,
            _sets(place_C[candidate_P], query_P, len(distinct)),
            _sets(key_F, row_F, queries),
            distinct,
        )

    @property
    def active(self) -> Rows:
        """Queries with a positive, ascending: those that clusters are made of."""
        return np.flatnonzero(self.positive_Q >= 0)

    def owned(self, query: int, place: int) -> int:
        """The candidate row under which a query owns the `place`-th distinct candidate."""
        own = self.own_QP[query]
        return int(own[self.first_C[own] == self.distinct[place]][0])


def _sets(key_P: Rows, row_P: Rows, size: int) -> Table:
    """Lists by key, each ascending and without repeats."""
    order_P = np.lexsort((row_P, key_P))
    key_P, row_P = key_P[order_P], row_P[order_P]
    new_P = np.ones(len(key_P), dtype=bool)
    new_P[1:] = (np.diff(key_P) != 0) | (np.diff(row_P) != 0)
    return Table.of(key_P[new_P], row_P[new_P], size)


def _first(content: Sequence[Any] | None, size: int) -> Rows | None:
    """For each row the first row of the same content."""
    if content is None:
        return None
    seen: dict[Any, int] = {}
    return np.fromiter((seen.setdefault(key, row) for row, key in enumerate(content)), np.int64, size)
