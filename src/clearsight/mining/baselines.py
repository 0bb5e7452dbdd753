"""What self-aware negatives are compared with: random batches, and the nearest candidates as negatives.

Legend of shapes: Q queries, B queries of a block, K negatives, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.mining.cosines import listed, measured
from clearsight.mining.found import Found
from clearsight.mining.pairs import Rows, Table, TrainingPairs
from clearsight.mining.search import ExactSearch, Search
from clearsight.progress import Progress, Silent
from clearsight.types import Embeddings, RowSource

BLOCK = 4096
BETA = 0.02
"""Margin of hard negatives with beta (paper, section IV)."""
NONE_FREE = "every other candidate is a positive of its own, or above the margin"


def in_batch(pairs: TrainingPairs, queries: RowSource, negatives: int = 7, *, seed: int = 0) -> Found:
    """Random clusters: the queries in a random order, `negatives + 1` at a time (the last may be smaller).

    A member whose candidate is a positive of its anchor stays: a random batch does not know. In each cluster
    the first drawn is the anchor, the others follow by ascending cosine of the queries.
    """
    order_Q = np.random.default_rng(seed).permutation(pairs.active)
    size = negatives + 1
    parts = []
    for start in range(0, len(order_Q), BLOCK * size):
        drawn_M = order_Q[start : start + BLOCK * size]
        cluster_M, place_M = np.divmod(np.arange(len(drawn_M)), size)
        anchor_G, others = drawn_M[::size], place_M > 0
        query_N, cluster_N = drawn_M[others], cluster_M[others]
        cosine_N = _between(queries, anchor_G, cluster_N, query_N)
        order_N = np.lexsort((query_N, cosine_N, cluster_N))
        parts.append(
            Found.joined(
                anchor_G,
                pairs.positive_Q[anchor_G],
                np.bincount(cluster_N, minlength=len(anchor_G)),
                query_N[order_N],
                pairs.positive_Q[query_N[order_N]],
                cosine_N[order_N],
                1,
            )
        )
    return Found.of(parts, {})


def _between(queries: RowSource, anchor_G: Rows, cluster_N: Rows, query_N: Rows) -> NDArray[np.float32]:
    left, right = measured(queries.take(anchor_G).rows_ND), measured(queries.take(query_N).rows_ND)
    return listed(left, right, cluster_N, np.arange(len(query_N)))


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The hardest negatives of some queries: rows (B, K) of candidates, hardest first, -1 where there are no
    more, and their cosines.
    """

    row_BK: Rows
    cosine_BK: NDArray[np.float32]


def hard_negatives(
    queries: Embeddings,
    search: Search,
    forbidden: Table,
    negatives: int,
    *,
    ceiling_B: NDArray[np.float32] | None = None,
) -> Nearest:
    """The nearest candidates of each query that are no positives of it.

    Args:
        queries: B vectors.
        search: over the candidates.
        forbidden: candidates that are no negatives, by query (B lists, each ascending).
        negatives: how many at most.
        ceiling_B: candidates of a higher cosine than this are passed over (hard negatives with beta).
    """
    shape = (len(queries), negatives)
    row_BK = np.full(shape, -1, dtype=np.int64)
    cosine_BK = np.full(shape, -np.inf, dtype=np.float32)
    waiting = np.arange(len(queries))
    depth = negatives + int(forbidden.size_N.max(initial=0))
    while len(waiting):
        found_BK, score_BK = search.nearest(queries.take(waiting), depth)
        short = []
        for place, b in enumerate(waiting.tolist()):
            good = (found_BK[place] >= 0) & ~np.isin(found_BK[place], forbidden[b])
            if ceiling_B is not None:
                good &= score_BK[place] <= ceiling_B[b]
            kept = np.flatnonzero(good)[:negatives]
            if len(kept) < negatives and found_BK.shape[1] == depth and found_BK[place, -1] >= 0:
                short.append(b)
                continue
            row_BK[b, : len(kept)] = found_BK[place, kept]
            cosine_BK[b, : len(kept)] = score_BK[place, kept]
        waiting = np.array(short, dtype=np.int64)
        depth *= 4
    return Nearest(row_BK, cosine_BK)


def mine_hard(
    pairs: TrainingPairs,
    queries: RowSource,
    candidates: RowSource,
    search: Search,
    negatives: int = 7,
    *,
    beta: float | None = None,
    progress: Progress | None = None,
) -> Found:
    """A cluster for every query: itself, and its hardest negatives, which stand alone.

    Args:
        candidates: vectors of `pairs.distinct`, in that order; `search` is over the same.
        beta: candidates that score above the query's own positive by more than this are passed over, as they
            may be right too; None: none are.
    """
    told = progress or Silent()
    told.start(len(pairs.active), "hard negatives")
    parts: list[Found] = []
    left: dict[int, str] = {}
    try:
        for start in range(0, len(pairs.active), BLOCK):
            at_B = pairs.active[start : start + BLOCK]
            rows = queries.take(at_B)
            found = hard_negatives(
                rows,
                search,
                pairs.forbidden_QF.take(at_B),
                negatives,
                ceiling_B=None if beta is None else _own(pairs, rows, candidates, at_B) + np.float32(beta),
            )
            parts.append(_clusters(pairs, at_B, found))
            left |= dict.fromkeys(at_B[(found.row_BK < 0).all(axis=1)].tolist(), NONE_FREE)
            told.advance(len(at_B))
    finally:
        told.close()
    return Found.of(parts, left)


def _clusters(pairs: TrainingPairs, at_B: Rows, found: Nearest) -> Found:
    row_BK, cosine_BK = found.row_BK[:, ::-1], found.cosine_BK[:, ::-1]  # ascending
    count_B = (row_BK >= 0).sum(axis=1)
    made = count_B > 0
    inside = row_BK >= 0
    anchor_G = at_B[made]
    candidate_N = pairs.distinct[row_BK[inside]]
    return Found.joined(
        anchor_G,
        pairs.positive_Q[anchor_G],
        count_B[made],
        np.full(len(candidate_N), -1, dtype=np.int64),
        candidate_N,
        cosine_BK[inside],
        1,
    )


def _own(pairs: TrainingPairs, queries: Embeddings, candidates: RowSource, at_B: Rows) -> NDArray[np.float32]:
    """The cosine of each query with its own positive."""
    place_B = np.searchsorted(pairs.distinct, pairs.first_C[pairs.positive_Q[at_B]])
    places, where_B = np.unique(place_B, return_inverse=True)
    right = measured(candidates.take(places).rows_ND)
    return listed(measured(queries.rows_ND), right, np.arange(len(at_B)), where_B)


@dataclass(slots=True, eq=False)
class OnlineNegatives:
    """Hard negatives re-searched while the encoder trains: the paper's baseline.

    The trainer asks `stale(step)`; if so it embeds the distinct candidates (`pairs.distinct`, in that order)
    with the current encoder and hands them to `refresh`. `find` then searches with the queries' current
    vectors.

    Args:
        interval: steps for which the candidates' vectors stay in use; 1 is the paper's way.
        beta: see `mine_hard`.

    Raises:
        UsageError: negatives or interval below 1.
    """

    pairs: TrainingPairs
    negatives: int = 7
    beta: float | None = None
    interval: int = 1
    _candidates: RowSource | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if min(self.negatives, self.interval) < 1:
            raise UsageError(
                f"{self.negatives} negatives, refreshed every {self.interval} steps.",
                do="Give whole numbers from 1.",
            )

    def stale(self, step: int) -> bool:
        """Whether the candidates must be embedded again before the search of this step."""
        return self._candidates is None or step - self._since >= self.interval

    def refresh(self, step: int, candidates: RowSource) -> None:
        """Take the candidates' vectors of this step."""
        if len(candidates) != len(self.pairs.distinct):
            raise UsageError(
                f"{len(candidates)} vectors for {len(self.pairs.distinct)} distinct candidates.",
                do="Embed the candidates of pairs.distinct, in that order.",
            )
        self._candidates, self._since = candidates, step

    def find(self, queries: Embeddings, at_B: Rows) -> Nearest:
        """Negatives of the query rows `at_B`, whose current vectors are `queries`: rows of the task's
        candidates.
        """
        if self._candidates is None:
            raise UsageError("The candidates have no vectors yet.", do="Call refresh first.")
        ceiling = None
        if self.beta is not None:
            ceiling = _own(self.pairs, queries, self._candidates, at_B) + np.float32(self.beta)
        found = hard_negatives(
            queries,
            ExactSearch(self._candidates),
            self.pairs.forbidden_QF.take(at_B),
            self.negatives,
            ceiling_B=ceiling,
        )
        rows = np.where(found.row_BK >= 0, self.pairs.distinct[found.row_BK], -1)
        return Nearest(rows, found.cosine_BK)
