"""How much of retrieval is left when vectors are replaced by their reconstructions.

Legend of shapes: Q queries, S resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearsight.metrics import PairedTest, paired_test, score
from clearsight.metrics.statistics import CHUNK
from clearsight.ranking import rank
from clearsight.sae.measures import Autoencoder
from clearsight.types import Embeddings, Relevance, Score

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recovered:
    """What is left of retrieval when vectors are replaced by their reconstructions.

    Attributes:
        original, reconstructed: the scores of the same queries.
        ratio: reconstructed over original mean; 1 is all of it, NaN where the original scores 0.
        low, high: bootstrap interval of the ratio over queries (both rankings drawn together).
        test: of reconstructed - original.
    """

    original: Score
    reconstructed: Score
    ratio: float
    low: float
    high: float
    test: PairedTest


def retrieval_recovered(
    sae: Autoencoder,
    queries: Embeddings,
    candidates: Embeddings,
    relevance: Relevance,
    *,
    measures: Sequence[str] = ("hit_rate@1", "hit_rate@5", "hit_rate@10"),
    pools: Mapping[str, Sequence[str]] | None = None,
    excluded: Mapping[str, Sequence[str]] | None = None,
    groups: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Recovered]:
    """Retrieval with reconstructions of both sides over retrieval with the vectors themselves.

    Args:
        pools, excluded: as in `clearsight.rank`. measures, groups: as in `clearsight.score`.

    Raises:
        DataError: vectors of another width than the autoencoder's; what `rank` and `score` refuse.
    """
    kept = max((int(name.split("@")[1]) for name in measures if "@" in name), default=10)

    def scores(left: Embeddings, right: Embeddings) -> dict[str, Score]:
        ranking = rank(left, right, kept, relevance=relevance, pools=pools, excluded=excluded)
        return score(ranking, relevance, measures, groups=groups, seed=seed)

    before = scores(queries, candidates)
    after = scores(*(side.with_rows(sae.decode(sae.encode(side.rows_ND))) for side in (queries, candidates)))
    recovered = {}
    for name in measures:
        ratio = after[name].mean / before[name].mean if before[name].mean else float("nan")
        low, high = _ratio_interval(after[name], before[name], resamples, seed)
        test = paired_test(after[name], before[name], seed=seed)
        recovered[name] = Recovered(before[name], after[name], ratio, low, high, test)
    return recovered


def _ratio_interval(after: Score, before: Score, resamples: int, seed: int) -> tuple[float, float]:
    """95% percentile interval of mean(after) / mean(before), queries drawn with replacement."""
    judged_Q = np.isfinite(before.values_Q)
    values_2Q = np.stack([after.values_Q[judged_Q], before.values_Q[judged_Q]])
    random = np.random.default_rng(seed)
    size = values_2Q.shape[1]
    step = max(1, CHUNK // size)
    ratios: list[Floats] = []
    for done in range(0, resamples, step):
        drawn_SQ = random.integers(size, size=(min(step, resamples - done), size))
        after_S, before_S = values_2Q[:, drawn_SQ].mean(axis=2)
        ratios.append((after_S[before_S > 0] / before_S[before_S > 0]).astype(np.float64))
    ratio_S = np.concatenate(ratios)
    if not len(ratio_S):
        return float("nan"), float("nan")
    low, high = np.quantile(ratio_S, [0.025, 0.975])
    return float(low), float(high)
