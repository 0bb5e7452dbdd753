"""Variants of one embedding, each ranked, scored and tested against others on the same queries.

`clearsight.jobs.compare` judges named recipes and keeps their rankings for a page; a sweep has a hundred
variants that have no name of their own and leave only their scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clearsight.metrics import PairedTest
    from clearsight.types import Embeddings, Score, Task

Scores = Mapping[str, "Score"]
Tests = Mapping[str, "PairedTest"]


def scored(task: Task, queries: Embeddings, candidates: Embeddings, k: int = 10) -> dict[str, Score]:
    """The task's measures of one pair of sides."""
    from clearsight.metrics import score
    from clearsight.ranking import rank

    ranking = rank(queries, candidates, k, relevance=task.relevance, pools=task.pools, excluded=task.excluded)
    return score(ranking, measures=task.measures, groups=task.groups)


def tested(one: Scores, other: Scores) -> dict[str, PairedTest]:
    """`one` against `other` on every measure, query by query."""
    from clearsight.metrics import paired_test

    return {measure: paired_test(one[measure], other[measure]) for measure in one}


def mean_of(several: Sequence[Scores], *, resamples: int = 2000, seed: int = 0) -> dict[str, Score]:
    """Each query's value averaged over runs that differ by a seed; the interval is over queries."""
    from clearsight.metrics import bootstrap_interval

    averaged = {}
    for measure, first in several[0].items():
        runs = [scores[measure] for scores in several]
        values_Q = np.mean([run.values_Q for run in runs], axis=0)
        judged = values_Q[np.isfinite(values_Q)]
        low, high = bootstrap_interval(judged, confidence=0.95, resamples=resamples, seed=seed)
        averaged[measure] = replace(
            first,
            values_Q=values_Q,
            mean=float(judged.mean()),
            low=low,
            high=high,
            optimistic=float(np.mean([run.optimistic for run in runs])),
            pessimistic=float(np.mean([run.pessimistic for run in runs])),
            tie_rate=float(np.mean([run.tie_rate for run in runs])),
        )
    return averaged


def flat(facts: Mapping[str, Any], scores: Scores, tests: Mapping[str, Tests]) -> list[dict[str, Any]]:
    """One record a measure, of plain values: the facts, the score, and each test under its own names."""
    records = []
    for measure, one in scores.items():
        record = {**facts, "measure": measure, "mean": one.mean, "low": one.low, "high": one.high}
        record |= {"chance": one.chance, "queries": one.judged}
        for name, by_measure in tests.items():
            test = by_measure.get(measure)
            record[f"difference_from_{name}"] = test.difference if test else None
            record[f"p_from_{name}"] = test.p_value if test else None
        records.append(record)
    return records


def save_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """The records as a table at `path` (.parquet, or .json), whole or not at all."""
    from clearsight.files import to_json, write_atomic

    rows = [dict(record) for record in records]
    if path.suffix == ".json":
        write_atomic(path, to_json(rows))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())
