"""From ids to rows: relevance, pools and exclusions as arrays.

Legend: Q queries, C candidates, R (query, relevant candidate) pairs, X (query, excluded candidate) pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.names import row_numbers
from clearsight.types import Embeddings, Relevance, RowSource

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a ranking is asked, in rows.

    Attributes:
        pools: query row -> sorted candidate rows, less its exclusions; absent: every candidate.
        excluded: for the queries without a pool: (query rows, candidate rows), sorted by query.
        relevant: (query rows, candidate rows) of relevant candidates within their pools, sorted.
        pool_size_Q: candidates each query ranks.
    """

    pools: dict[int, NDArray[np.int64]]
    excluded: Pairs
    relevant: Pairs
    pool_size_Q: NDArray[np.int64]


def read_inputs(
    queries: Embeddings,
    candidates: RowSource,
    k: int,
    relevance: Relevance | None,
    pools: Mapping[str, Sequence[str]] | None,
    excluded: Mapping[str, Sequence[str]] | None,
) -> Inputs:
    """Check everything at the border and turn it into rows (errors: see `rank`)."""
    if k < 1:
        raise UsageError(f"k is {k}.", where="k", do="Keep at least one candidate.")
    for side, size in (("queries", len(queries)), ("candidates", len(candidates))):
        if size == 0:
            raise DataError(f"There are no {side} to rank.", where=side, do="Give at least one row.")
    if queries.width != candidates.width or queries.width == 0:
        raise DataError(
            f"Queries are {queries.width} wide, candidates {candidates.width}.",
            do="Embed both sides with one model, or repair both into one space.",
        )
    query_row = {name: i for i, name in enumerate(queries.ids)}
    # A hundred thousand names are not looked up for nothing.
    named = dict.fromkeys(
        name
        for given in (relevance, pools, excluded)
        for query, members in (given or {}).items()
        if query in query_row
        for name in members
    )
    candidate_row = row_numbers(candidates.ids, tuple(named)) if named else {}

    def table(given: Mapping[str, Iterable[str]] | None, what: str) -> dict[int, NDArray[np.int64]]:
        if given and not any(name in query_row for name in given):
            raise DataError(f"No query of {what} is among the queries.", where=what, do="Compare the ids.")
        asked = {query_row[name]: members for name, members in (given or {}).items() if name in query_row}
        return {
            q: _rows(members, candidate_row, what, queries.ids[q]) for q, members in sorted(asked.items())
        }

    left_out = table(excluded, "excluded")
    pool_rows = table(pools, "pools")
    relevant = table(_positive(relevance, query_row), "relevance")
    for query, members in pool_rows.items():
        if query in left_out:
            pool_rows[query] = np.setdiff1d(members, left_out[query], assume_unique=True)
    for query, members in relevant.items():
        if query in pool_rows:
            relevant[query] = np.intersect1d(members, pool_rows[query], assume_unique=True)
        elif query in left_out:
            relevant[query] = np.setdiff1d(members, left_out[query], assume_unique=True)
    pool_size_Q = np.full(len(queries), len(candidates), dtype=np.int64)
    for query, members in left_out.items():
        pool_size_Q[query] -= len(members)
    for query, members in pool_rows.items():
        pool_size_Q[query] = len(members)
    open_ones = {q: rows for q, rows in left_out.items() if q not in pool_rows}
    return Inputs(pool_rows, _pairs(open_ones), _pairs(relevant), pool_size_Q)


def _positive(relevance: Relevance | None, query_row: Mapping[str, int]) -> dict[str, list[str]] | None:
    if relevance is None:
        return None
    for query, grades in relevance.items():
        for name, grade in grades.items():
            if query in query_row and not math.isfinite(grade):
                raise DataError(f"The grade of '{name}' for query '{query}' is {grade}.", do="Give a number.")
    return {
        query: [name for name, grade in grades.items() if grade > 0] for query, grades in relevance.items()
    }


def _rows(names: Iterable[str], row: Mapping[str, int], what: str, query: str) -> NDArray[np.int64]:
    try:
        return np.unique(np.fromiter((row[name] for name in names), dtype=np.int64))
    except KeyError as missing:
        raise DataError(
            f"{what} of query '{query}' names an unknown candidate.",
            where=str(missing.args[0]),
            do="Correct the id or add the candidate.",
        ) from None


def _pairs(table: Mapping[int, NDArray[Any]]) -> Pairs:
    queries = [np.full(len(rows), query, dtype=np.int64) for query, rows in table.items()]
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *queries]), np.concatenate([nothing, *table.values()])
