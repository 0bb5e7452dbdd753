"""A ranking from lists that were written before, as in a TREC run file: what they leave out counts as last.

Legend: Q queries, K ranks of the longest list, C candidates, R (query, relevant item) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clearsight.errors import DataError
from clearsight.types import Ranking, Task, ids_of


def of_lists(lists: Mapping[str, Mapping[str, float]], task: Task) -> Ranking:
    """The ranking of the queries that have a list, in the task's order.

    Higher scores stand first; equal ones are tied, and ordered by their row in the task's candidates. A
    relevant candidate that its query's list leaves out is counted among the last of the pool, without ties:
    up to the lists' length measures are what they were, but for ties across the end of a list.

    Args:
        lists: query id -> candidate id -> score.

    Raises:
        DataError: there are no lists, queries or candidates are missing from the task, a candidate stands
            outside its query's pool, or a score is no finite number.
    """
    if not lists:
        raise DataError("The ranking is empty.", do="Give one that lists candidates.")
    names = list(lists)
    place = dict(zip(names, places_of(ids_of(task.queries), names, "query", task.name), strict=True))
    names.sort(key=place.__getitem__)
    wanted = {name for scores in lists.values() for name in scores}
    listed = sorted(wanted)
    row_of = dict(
        zip(listed, places_of(ids_of(task.candidates), listed, "candidate", task.name), strict=True)
    )
    right = {q: [c for c, grade in task.relevance.get(q, {}).items() if grade > 0] for q in names}
    wanted.update(c for some in right.values() for c in some)
    row_of |= {name: row for row, name in enumerate(ids_of(task.candidates)) if name in wanted}

    kept = max(map(len, lists.values()))
    rows_QK = np.full((len(names), kept), -1, dtype=np.int64)
    scores_QK = np.full((len(names), kept), -np.inf, dtype=np.float32)
    pool_size_Q = np.empty(len(names), dtype=np.int64)
    relevant: list[tuple[int, int, int, int, float]] = []
    for q, name in enumerate(names):
        pool, out = task.pools.get(name), set(task.excluded.get(name, ()))
        inside = None if pool is None else set(pool) - out
        _check(name, lists[name], inside, out)
        rows = np.array([row_of[c] for c in lists[name]], dtype=np.int64)
        scores = np.array([*lists[name].values()], dtype=np.float32)
        order = np.lexsort((rows, -scores))
        rows_QK[q, : len(rows)], scores_QK[q, : len(rows)] = rows[order], scores[order]
        pool_size_Q[q] = len(task.candidates) - len(out) if inside is None else len(inside)
        last = int(pool_size_Q[q])
        for c in sorted(right[name], key=row_of.__getitem__):
            if c in out or (inside is not None and c not in inside):
                continue
            if c in lists[name]:
                own = np.float32(lists[name][c])
                counts = int((scores > own).sum()), int((scores == own).sum()) - 1, float(own)
            else:
                last -= 1
                counts = last, 0, -np.inf
            relevant.append((q, row_of[c], *counts))
    columns = np.array(relevant, dtype=np.float64).reshape(-1, 5).T
    return Ranking(
        query_ids=tuple(names),
        candidate_ids=ids_of(task.candidates),
        rows_QK=rows_QK,
        scores_QK=scores_QK,
        pool_size_Q=pool_size_Q,
        tied_out_Q=np.zeros(len(names), dtype=np.int64),
        relevant_query_R=columns[0].astype(np.int64),
        relevant_row_R=columns[1].astype(np.int64),
        above_R=columns[2].astype(np.int64),
        equal_R=columns[3].astype(np.int64),
        relevant_score_R=columns[4].astype(np.float32),
        counted=bool(task.relevance),
    )


def places_of(known: Sequence[str], wanted: Sequence[str], what: str, task: str) -> list[int]:
    """Where each wanted id stands among the known ones.

    Args:
        what: "query" or "candidate", for messages; `task` names the known ones.

    Raises:
        DataError: none of them, or not all, are known.
    """
    left = set(wanted)
    place_of = {name: place for place, name in enumerate(known) if name in left}
    lost = [name for name in wanted if name not in place_of]
    if lost and len(lost) == len(wanted):
        raise DataError(
            f"The ranking is of another task: '{task}' has none of its {len(left):,} {what} ids.",
            where=lost[0],
            do="Give the task, n and seed that the ranking was made with.",
        )
    if lost:
        raise DataError(
            f"{len(lost):,} of {len(left):,} {what} ids of the ranking are missing from the data.",
            where=", ".join(lost[:3]),
            do="Give the data that the ranking was made with.",
        )
    return [place_of[name] for name in wanted]


def _check(query: str, scores: Mapping[str, float], inside: set[str] | None, out: set[str]) -> None:
    bad = next((c for c, value in scores.items() if not np.isfinite(np.float32(value))), None)
    if bad is not None:
        raise DataError("A score is no finite number.", where=f"{query} x {bad}", do="Correct the ranking.")
    stray = next((c for c in scores if c in out or (inside is not None and c not in inside)), None)
    if stray is not None:
        raise DataError(
            "The ranking lists a candidate that is not in the query's pool.",
            where=f"{query} x {stray}",
            do="Give the task that the ranking was made with.",
        )
