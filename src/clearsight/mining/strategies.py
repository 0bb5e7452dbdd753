"""The door `mining_strategy`: from vectors of training pairs to clusters, one function a strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from clearsight.errors import DataError, UsageError
from clearsight.mining import baselines
from clearsight.mining.found import Found
from clearsight.mining.pairs import TrainingPairs
from clearsight.mining.saha import PAPER, RELEASE, WHOLE, Variant, saha
from clearsight.mining.search import Search
from clearsight.progress import Progress, Silent
from clearsight.registry import Registry
from clearsight.types import Embeddings, RowSource


@dataclass(frozen=True, slots=True, eq=False)
class Mining:
    """What a strategy may use.

    Attributes:
        pairs: the data set's pairs.
        queries: vectors of `pairs.query_ids`, in that order.
        candidates: vectors of the candidates `pairs.distinct`, in that order.
        search: over `candidates`; opened when first asked for.
        negatives, pool, beta, seed: see `MineOptions`.
    """

    pairs: TrainingPairs
    queries: RowSource
    candidates: RowSource
    search: Callable[[], Search]
    negatives: int = 7
    pool: int = 4
    beta: float = baselines.BETA
    seed: int = 0
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way of making clusters.

    Attributes:
        label: how tables name it.
        make: from what is there to clusters in rows.
        uses: fields of `Mining` that matter to it, beside the vectors: the manifest names no others.
    """

    label: str
    make: Callable[[Mining], Found]
    uses: tuple[str, ...]


STRATEGIES: Registry[Strategy] = Registry("mining_strategy")


def mine_pairs(strategy: str, mining: Mining) -> Found:
    """Clusters of one data set by a strategy's name.

    Raises:
        UsageError: an unknown strategy, or fewer than 1 negative or pool.
        DataError: the vectors are not those of the pairs, fewer than two queries have a positive, or all
            positives are one.
    """
    check_sizes(mining.negatives, mining.pool)
    check_pairs(mining.pairs)
    for rows, count, what in (
        (mining.queries, len(mining.pairs.query_ids), "queries"),
        (mining.candidates, len(mining.pairs.distinct), "distinct candidates"),
    ):
        if len(rows) != count:
            raise DataError(
                f"{len(rows)} vectors for {count} {what}.", do="Give a vector for each, in order."
            )
    return STRATEGIES.get(strategy).make(mining)


def check_sizes(negatives: int, pool: int) -> None:
    """Raises UsageError for less than 1 negative, or a pool below 1."""
    if min(negatives, pool) < 1:
        raise UsageError(
            f"{negatives} negatives from a pool of {pool} times as many.",
            where="--negatives, --pool",
            do="Give whole numbers from 1; the paper has 7 and 4.",
        )


def check_pairs(pairs: TrainingPairs) -> None:
    """Whether there can be negatives at all.

    Raises:
        DataError: one query only, or all positives are the same.
    """
    if len(pairs.active) < 2:
        raise DataError(
            "Only one query has a positive: another query's positive is what a negative is.",
            where=pairs.dataset,
            do="Give at least two pairs.",
        )
    positives = np.unique(pairs.first_C[pairs.positive_Q[pairs.active]])
    if len(positives) == 1:
        raise DataError(
            f"All {len(pairs.active):,} queries have the same positive, so that none can be a negative.",
            where=f"{pairs.dataset}, candidate '{pairs.candidate_ids[int(positives[0])]}'",
            do="Give pairs with different positives; items of equal content count as one.",
        )


def distinct_rows(pairs: TrainingPairs, candidates: RowSource) -> RowSource:
    """The vectors of the distinct candidates, of the vectors of all."""
    if len(pairs.distinct) == len(candidates):
        return candidates
    return Part(candidates, pairs.distinct)


class Part:
    """Some rows of a `RowSource`, as one."""

    def __init__(self, rows: RowSource, at: Any) -> None:
        from clearsight.names import Names

        self._rows, self._at = rows, at
        self.ids = Names(Names.of(rows.ids).column.take(at))
        self.width, self.origin = rows.width, rows.origin

    def __len__(self) -> int:
        return len(self._at)

    def take(self, index: Any) -> Embeddings:
        return self._rows.take(self._at[np.asarray(index, dtype=np.int64)])


def _saha(variant: Variant, mining: Mining) -> Found:
    return saha(
        mining.pairs,
        mining.queries,
        mining.search(),
        mining.negatives,
        mining.pool,
        variant=variant,
        progress=mining.progress,
    )


def _in_batch(mining: Mining) -> Found:
    return baselines.in_batch(mining.pairs, mining.queries, mining.negatives, seed=mining.seed)


def _hard(with_beta: bool, mining: Mining) -> Found:
    return baselines.mine_hard(
        mining.pairs,
        mining.queries,
        mining.candidates,
        mining.search(),
        mining.negatives,
        beta=mining.beta if with_beta else None,
        progress=mining.progress,
    )


STRATEGIES.add("in_batch", Strategy("in-batch", _in_batch, ("seed",)))
STRATEGIES.add("hard", Strategy("hard negatives", partial(_hard, False), ()))
STRATEGIES.add("hard_beta", Strategy("hard negatives + beta", partial(_hard, True), ("beta",)))
STRATEGIES.add("saha", Strategy("SaHa", partial(_saha, PAPER), ("pool",)))
STRATEGIES.add("saha_whole", Strategy("SaHa, whole clusters", partial(_saha, WHOLE), ("pool",)))
STRATEGIES.add("saha_release", Strategy("SaHa (release)", partial(_saha, RELEASE), ("pool",)))
