"""Where the relevant candidates of each query stand, tie groups included: all that a measure needs.

Legend: Q queries, R (query, relevant candidate) pairs, G tie groups (pairs of one query at one score).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.types import Ranking, Relevance

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Relevant candidates of Q queries, sorted by query, then from the best placed to the worst.

    Attributes:
        query_R: whose they are.
        above_R: how many candidates of the pool stand strictly above.
        size_R: how many share the place, itself included (1: no tie); ranks above + 1 .. above + size are
            equally likely.
        grade_R: above 0.
        relevant_Q: how many relevant candidates each query has in its pool.
        pool_Q: how many candidates it ranks.
        listed: ranks up to this one are known; beyond it `above_R` is only a lower bound (None: all known).
    """

    query_R: Ints
    above_R: Ints
    size_R: Ints
    grade_R: Floats
    relevant_Q: Ints
    pool_Q: Ints
    listed: int | None = None

    @property
    def queries(self) -> int:
        return len(self.pool_Q)

    def ordered(self) -> Judged:
        order_R = np.lexsort((-self.grade_R, self.above_R, self.query_R))
        return replace(
            self,
            query_R=self.query_R[order_R],
            above_R=self.above_R[order_R],
            size_R=self.size_R[order_R],
            grade_R=self.grade_R[order_R],
        )

    def groups(self) -> tuple[Ints, Ints]:
        """(first, count) of the pairs of each tie group, as positions into the sorted pairs."""
        new_R = np.ones(len(self.query_R), dtype=bool)
        new_R[1:] = (np.diff(self.query_R) != 0) | (np.diff(self.above_R) != 0)
        first_G = np.flatnonzero(new_R)
        return first_G, np.diff(np.append(first_G, len(new_R)))

    def resolved(self, *, favourable: bool) -> Judged:
        """Every tie broken for the relevant candidates (best grade first) or against them (last)."""
        first_G, count_G = self.groups()
        place_R = np.arange(len(self.query_R)) - np.repeat(first_G, count_G)
        above_R = self.above_R + (place_R if favourable else self.size_R - 1 - place_R)
        return replace(self, above_R=above_R, size_R=np.ones_like(self.size_R)).ordered()

    def shuffled(self) -> Judged:
        """The same pools in random order: one tie of everything."""
        return replace(
            self,
            above_R=np.zeros_like(self.above_R),
            size_R=self.pool_Q[self.query_R],
            listed=None,
        ).ordered()


def judge(ranking: Ranking, relevance: Relevance | None) -> Judged:
    """Grades joined with places (errors: see `score`)."""
    if ranking.counted:
        query_R, above_R, size_R = ranking.relevant_query_R, ranking.above_R, ranking.equal_R + 1
        grade_R = np.ones(len(query_R)) if relevance is None else _grades(ranking, relevance)
        return _finish(ranking, query_R, above_R, size_R, grade_R, None)
    if relevance is None:
        raise DataError(
            "Nothing says which candidates are relevant.", do="Pass relevance to score or to rank."
        )
    return _from_list(ranking, relevance)


def _finish(
    ranking: Ranking, query_R: Ints, above_R: Ints, size_R: Ints, grade_R: Floats, listed: int | None
) -> Judged:
    relevant_Q = np.bincount(query_R, minlength=len(ranking.query_ids)).astype(np.int64)
    return Judged(query_R, above_R, size_R, grade_R, relevant_Q, ranking.pool_size_Q, listed).ordered()


def _grades(ranking: Ranking, relevance: Relevance) -> Floats:
    """Grades of the counted pairs; they must be the pairs that `relevance` calls relevant."""
    names_Q, names_C = ranking.query_ids, ranking.candidate_ids
    pairs = zip(ranking.relevant_query_R.tolist(), ranking.relevant_row_R.tolist(), strict=True)
    grades = [relevance.get(names_Q[q], {}).get(names_C[c], 0.0) for q, c in pairs]
    grade_R = np.array(grades, dtype=np.float64)
    asked = sum(grade > 0 for name in names_Q for grade in relevance.get(name, {}).values())
    whole = bool((ranking.pool_size_Q == len(names_C)).all())
    if (grade_R <= 0).any() or (whole and asked != len(grade_R)):
        raise DataError(
            "The ranking was counted with another relevance than the one given.",
            do="Pass the same relevance to rank and to score, or none to score (all grades 1).",
        )
    return grade_R


def _from_list(ranking: Ranking, relevance: Relevance) -> Judged:
    """Places read off the list itself, where that is exact."""
    kept = ranking.rows_QK.shape[1]
    whole_Q = ranking.pool_size_Q <= kept
    if (ranking.tied_out_Q > 0).any():
        raise DataError(
            f"{int((ranking.tied_out_Q > 0).sum())} queries have candidates beyond rank {kept} that tie with "
            "it; a list cannot tell their places.",
            do="Pass relevance to rank: it then counts the ties.",
        )
    if not (whole_Q | (ranking.pool_size_Q == len(ranking.candidate_ids))).all():
        raise DataError(
            f"With pools or exclusions, a list of {kept} does not say which relevant candidates were ranked.",
            do="Pass relevance to rank, or keep as many ranks as the pools are long.",
        )
    row_of = {name: row for row, name in enumerate(ranking.candidate_ids)}
    columns: list[tuple[int, int, int, float]] = []
    for query, name in enumerate(ranking.query_ids):
        place = {row: rank for rank, row in enumerate(ranking.rows_QK[query].tolist()) if row >= 0}
        scores_K, beyond = ranking.scores_QK[query], kept
        for candidate, grade in relevance.get(name, {}).items():
            if candidate not in row_of:
                raise DataError(
                    f"relevance of query '{name}' names an unknown candidate.",
                    where=candidate,
                    do="Correct the id or add the candidate.",
                )
            rank = place.get(row_of[candidate])
            if grade > 0 and rank is not None:
                above = int((scores_K > scores_K[rank]).sum())
                columns.append((query, above, int((scores_K == scores_K[rank]).sum()), grade))
            elif grade > 0 and not whole_Q[query]:
                columns.append((query, beyond, 1, grade))  # each at a place of its own: no tie is known
                beyond += 1
    table = np.array(columns, dtype=np.float64).reshape(-1, 4)
    query_R, above_R, size_R = table[:, :3].T.astype(np.int64)
    return _finish(ranking, query_R, above_R, size_R, table[:, 3], None if whole_Q.all() else kept)
