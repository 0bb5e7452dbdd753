"""Exact ranking in blocks: the best K candidates of each query, and counts around each relevant one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.ranking.best import from_keys
from clearsight.ranking.candidates import Candidates, open_candidates
from clearsight.ranking.fixed import Rows, check_range
from clearsight.ranking.inputs import Inputs, read_inputs
from clearsight.ranking.passes import Job, rank_small, rank_together
from clearsight.types import Embeddings, Ranking, Relevance, RowSource

SHARED_POOL = 16
"""A pool common to so many queries is ranked as a matrix product, a rarer one pair by pair."""
LONG_POOL = 4096
"""A pool longer than this is ranked in blocks even for one query: memory stays bounded."""
BLOCK = (1024, 4096)


def rank(
    queries: Embeddings,
    candidates: RowSource,
    k: int = 10,
    *,
    relevance: Relevance | None = None,
    pools: Mapping[str, Sequence[str]] | None = None,
    excluded: Mapping[str, Sequence[str]] | None = None,
    normalize: bool = True,
    device: str | torch.device | None = None,
    block: tuple[int, int] = BLOCK,
) -> Ranking:
    """Rank candidates for every query by cosine (or inner product), exactly and reproducibly.

    A score is the float32 number nearest to the inner product of the two rows, each divided by its length and
    rounded to a multiple of 2^-26; that product is computed without rounding (`clearsight.ranking.fixed`).
    Identical candidates therefore tie to the bit, and nothing in the answer depends on blocks, threads or
    device. Candidates of equal score are ordered by row. A zero vector has cosine 0 with everything.

    Args:
        queries, candidates: rows of one width. Candidates that are no `Embeddings` are read in blocks, ahead
            of the arithmetic, once for every sixteen blocks of queries; the answer is the same to the bit.
        k: ranks to keep; K = min(k, number of candidates).
        relevance: query id -> candidate id -> grade. With it the answer carries, for each candidate of grade
            above 0 in its query's pool, how many others score above it and how many equal it: what measures
            need to be exact under ties and beyond K. Entries of queries that are not ranked are passed over.
        pools: query id -> the candidate ids it ranks, as a set; a query without an entry ranks them all.
        excluded: query id -> candidate ids left out for it.
        normalize: cosine; otherwise the plain inner product.
        device: where to compute; the CPU unless said. It must know float64.
        block: queries and candidates taken at a time; extra memory is about
            8 (block[0] + block[1]) D + 20 block[0] block[1] bytes.

    Raises:
        DataError: an empty side, widths that differ, an unknown candidate id, a grade that is not finite, no
            query of `relevance`, `pools` or `excluded` among the queries, or (inner products) overflow.
        UsageError: `k` or a block below 1.
    """
    prepared = Prepared(candidates, normalize=normalize, device=device)
    return prepared.rank(queries, k, relevance=relevance, pools=pools, excluded=excluded, block=block)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Candidates that are ranked more than once: what is computed of their rows alone is computed once.

    Nothing is read before the first ranking. Threads may not share one.

    Attributes:
        candidates, normalize, device: as `rank` takes them.
    """

    candidates: RowSource
    normalize: bool = True
    device: str | torch.device | None = None

    @cached_property
    def _opened(self) -> Candidates:
        place = torch.device(self.device or "cpu")
        return open_candidates(self.candidates, normalize=self.normalize, device=place)

    def rank(
        self,
        queries: Embeddings,
        k: int = 10,
        *,
        relevance: Relevance | None = None,
        pools: Mapping[str, Sequence[str]] | None = None,
        excluded: Mapping[str, Sequence[str]] | None = None,
        block: tuple[int, int] = BLOCK,
    ) -> Ranking:
        """As the function `rank`, to the bit; same arguments, same errors."""
        asked = read_inputs(queries, self.candidates, k, relevance, pools, excluded)
        if min(block) < 1:
            raise UsageError(f"The block is {block}.", where="block", do="Give two sizes of at least 1.")
        right = self._opened
        left = Rows.of(queries.rows_ND, normalize=right.cosine, device=right.device)
        check_range(left, right.longest)
        job = Job.of(left, right, asked, min(k, len(right)))
        _rank_all(job, asked, block)
        scores_QK, rows_QK = from_keys(job.keys_QK)
        return Ranking(
            query_ids=queries.ids,
            candidate_ids=self.candidates.ids,
            rows_QK=rows_QK.numpy(),
            scores_QK=scores_QK.numpy(),
            pool_size_Q=asked.pool_size_Q,
            tied_out_Q=job.tied_out_Q.numpy(),
            relevant_query_R=asked.relevant[0],
            relevant_row_R=asked.relevant[1],
            above_R=job.above_R.numpy(),
            equal_R=job.equal_R.numpy(),
            relevant_score_R=job.relevant_score_R.numpy(),
            counted=relevance is not None,
        )


def _rank_all(job: Job, asked: Inputs, block: tuple[int, int]) -> None:
    right = job.candidates
    small: list[int] = []
    for pool, members in _by_pool(asked, len(job.queries)):
        if pool is not None and len(members) < SHARED_POOL and len(pool) <= LONG_POOL:
            small.extend(members)
            continue
        blocks = torch.split(torch.tensor(members), block[0])
        for i in range(0, len(blocks), right.blocks_a_pass):
            rank_together(job, blocks[i : i + right.blocks_a_pass], pool, block[1])
    for at_B in _alike(small, asked, right.listed_elements // right.width, block[0] * right.blocks_a_pass):
        rank_small(job, at_B)


def _by_pool(asked: Inputs, queries: int) -> Iterator[tuple[Tensor | None, list[int]]]:
    """Queries that rank the same candidates, together; None is everything."""
    together: dict[bytes | None, list[int]] = {}
    for query in range(queries):
        pool = asked.pools.get(query)
        together.setdefault(None if pool is None else pool.tobytes(), []).append(query)
    for members in together.values():
        pool = asked.pools.get(members[0])
        yield None if pool is None else torch.from_numpy(pool), members


def _alike(small: Sequence[int], asked: Inputs, pairs: int, most: int) -> Iterator[Tensor]:
    """Batches of at most `most` queries with pools of like size, and of `pairs` pairs."""
    ordered = sorted(small, key=lambda query: (len(asked.pools[query]), query))
    start = 0
    while start < len(ordered):
        end = start + 1
        while end < min(len(ordered), start + most):
            if (end + 1 - start) * len(asked.pools[ordered[end]]) > pairs:
                break
            end += 1
        yield torch.tensor(ordered[start:end])
        start = end
