"""Scores of a ranking: expected values under ties, bounds, chance, and intervals.

Legend: Q queries (or groups of queries), R (query, relevant candidate) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clearsight.errors import DataError, UsageError
from clearsight.metrics.judged import Floats, Ints, Judged, judge
from clearsight.metrics.measures import parse
from clearsight.metrics.statistics import bootstrap_interval
from clearsight.types import Ranking, Relevance, Score


def score(
    ranking: Ranking,
    relevance: Relevance | None = None,
    measures: Sequence[str] = ("hit_rate@1", "hit_rate@5", "hit_rate@10"),
    *,
    groups: Mapping[str, str] | None = None,
    strict: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score a ranking by each of `measures`.

    The value of a query is its expected value if tied candidates were put in random order: a collapsed
    encoder, for which everything ties, scores chance. `optimistic` and `pessimistic` break every tie for, or
    against, the relevant candidates. `chance` is the expected mean if the same pools were shuffled.

    Args:
        ranking: counted (ranked with relevance), or a list without ties across its end.
        relevance: the grades. None: those counted in the ranking, all of grade 1.
        measures: hit_rate@k, recall@k, all_recall@k, precision@k, mrr, mrr@k, ndcg, ndcg@k, map, map@k.
        groups: query id -> group. A group is one unit: its value is the product of its members' values, so
            that a hit counts only if every member hits (members taken as independent under ties). A query
            without a group is its own. A group with a member that is not judged is not judged.
        strict: queries without a relevant candidate in their pool count as 0 instead of being left out.
        confidence, resamples, seed: of the bootstrap interval over queries (or groups).

    Returns:
        One `Score` for each measure, under its name, in the order asked.

    Raises:
        DataError: relevance is missing, differs from the counted one, or names unknown candidates; no query
            is judged; an uncounted list has ties across its end; groups names an unknown query.
        UsageError: an unknown measure, one without its cut-off, or one beyond an uncounted list.
    """
    parsed = {name: parse(name) for name in measures}
    places = judge(ranking, relevance)
    unit_Q, units = _units(ranking.query_ids, groups or {})
    judged_Q = np.ones(places.queries, dtype=bool) if strict else places.relevant_Q > 0
    judged_U = np.ones(units, dtype=bool)
    judged_U[unit_Q[~judged_Q]] = False
    if not judged_U.any():
        raise DataError(
            "No query has a relevant candidate in its pool.",
            where="relevance",
            do="Compare the ids of relevance with those of queries and candidates.",
        )
    tied_U = np.zeros(units, dtype=bool)
    tied_U[unit_Q[places.query_R[places.size_R > 1]]] = True
    variants = {
        "expected": places,
        "optimistic": places.resolved(favourable=True),
        "pessimistic": places.resolved(favourable=False),
        "chance": places.shuffled(),
    }
    scores = {}
    for name, (measure, cut) in parsed.items():
        _check_listed(places, name, cut)
        value = {
            what: _product(measure.values(variant, cut), unit_Q, units)[judged_U]
            for what, variant in variants.items()
        }
        values_Q = np.full(units, np.nan)
        values_Q[judged_U] = value["expected"]
        low, high = bootstrap_interval(
            value["expected"], confidence=confidence, resamples=resamples, seed=seed
        )
        scores[name] = Score(
            measure=name,
            values_Q=values_Q,
            mean=float(value["expected"].mean()),
            low=low,
            high=high,
            optimistic=float(value["optimistic"].mean()),
            pessimistic=float(value["pessimistic"].mean()),
            judged=int(judged_U.sum()),
            tie_rate=float(tied_U[judged_U].mean()),
            chance=float(value["chance"].mean()),
        )
    return scores


def _units(query_ids: Sequence[str], groups: Mapping[str, str]) -> tuple[Ints, int]:
    """Which unit each query belongs to; units in order of first appearance."""
    unknown = set(groups).difference(query_ids)
    if unknown:
        raise DataError(f"groups names an unknown query: '{min(unknown)}'.", do="Correct the id.")
    number: dict[tuple[bool, str], int] = {}
    keys = [(name in groups, groups.get(name, name)) for name in query_ids]
    unit_Q = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
    return unit_Q, len(number)


def _product(value_Q: Floats, unit_Q: Ints, units: int) -> Floats:
    product_U = np.ones(units)
    np.multiply.at(product_U, unit_Q, value_Q)
    return product_U


def _check_listed(places: Judged, name: str, cut: int | None) -> None:
    if places.listed is not None and (cut is None or cut > places.listed):
        raise UsageError(
            f"'{name}' needs places beyond the {places.listed} ranks kept.",
            do="Pass relevance to rank: it then counts every relevant candidate's place.",
        )
