"""The ways to rank one block of queries: screened, exact, or each query against its own small pool.

Legend: Q queries, C candidates, D width, K ranks kept, R (query, relevant candidate) pairs, X (query,
excluded candidate) pairs, B queries of a block, N candidates of a block, P members of a small pool or short
list, T relevant candidates of a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clearsight.ranking.best import ABSENT_ROW, FEW_THRESHOLDS, Best
from clearsight.ranking.fixed import Index, Rows, block_scores, listed_scores
from clearsight.ranking.inputs import Inputs
from clearsight.ranking.screen import NEAR_SHARE, SLICES, SPARE, Screen, Shortlist

SCREEN_FROM = 8
"""A pool shorter than so many short lists is scored exactly at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Both sides, the question, and the arrays that blocks of queries write their answers into."""

    queries: Rows
    candidates: Rows
    asked: Inputs
    relevant_score_R: Tensor
    keys_QK: Tensor
    tied_out_Q: Tensor
    above_R: Tensor
    equal_R: Tensor

    @classmethod
    def of(cls, queries: Rows, candidates: Rows, asked: Inputs, kept: int) -> Job:
        query_R, row_R = (torch.from_numpy(pair) for pair in asked.relevant)
        return cls(
            queries=queries,
            candidates=candidates,
            asked=asked,
            relevant_score_R=listed_scores(queries, query_R, candidates, row_R.unsqueeze(1)).squeeze(1),
            keys_QK=torch.zeros(len(queries), kept, dtype=torch.int64),
            tied_out_Q=torch.zeros(len(queries), dtype=torch.int64),
            above_R=torch.zeros(len(query_R), dtype=torch.int64),
            equal_R=torch.zeros(len(query_R), dtype=torch.int64),
        )

    @property
    def kept(self) -> int:
        return self.keys_QK.shape[1]

    def relevant(self, at_B: Tensor) -> tuple[Tensor, Tensor]:
        """Of the relevant candidates of queries `at_B`, (B, T): scores (+inf where a query has fewer; on the
        device) and positions among the pairs (-1 where it has fewer)."""
        query_R = torch.from_numpy(self.asked.relevant[0])
        first_B, end_B = torch.searchsorted(query_R, at_B), torch.searchsorted(query_R, at_B, right=True)
        column_T = torch.arange(int((end_B - first_B).max()))
        pair_BT = first_B.unsqueeze(1) + column_T
        pair_BT[column_T >= (end_B - first_B).unsqueeze(1)] = -1
        if not len(query_R):
            return torch.zeros(pair_BT.shape, device=self.queries.device), pair_BT
        thresholds_BT = torch.where(pair_BT < 0, torch.inf, self.relevant_score_R[pair_BT])
        return thresholds_BT.to(self.queries.device), pair_BT

    def finish(self, at_B: Tensor, best: Best, above_BT: Tensor, equal_BT: Tensor, pair_BT: Tensor) -> None:
        """Write the answers of queries `at_B`; `equal_BT` counts the relevant candidate itself too."""
        self.keys_QK[at_B] = best.keys_BK.cpu()
        self.tied_out_Q[at_B] = best.tied_out().cpu()
        filled_BT = pair_BT >= 0
        self.above_R[pair_BT[filled_BT]] = above_BT.cpu()[filled_BT]
        self.equal_R[pair_BT[filled_BT]] = equal_BT.cpu()[filled_BT] - 1


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Queries `at_B` (ascending) and the candidates they share: all of them, or a sorted pool."""

    job: Job
    at_B: Tensor
    pool: Tensor | None
    step: int

    @property
    def size(self) -> int:
        return len(self.job.candidates) if self.pool is None else len(self.pool)

    def parts(self) -> Iterator[tuple[Tensor, Index]]:
        """Candidates `step` at a time: their rows (on the device), and an index of them."""
        device = self.job.queries.device
        for first in range(0, self.size, self.step):
            end = min(first + self.step, self.size)
            if self.pool is None:
                yield torch.arange(first, end, device=device), slice(first, end)
            else:
                yield self.pool[first:end].to(device), self.pool[first:end]

    def exclude(self, scores_BN: Tensor, at_N: Index) -> None:
        """-inf where a candidate is left out for a query (pools come without their exclusions)."""
        query_X, row_X = self.job.asked.excluded
        if isinstance(at_N, slice) and len(row_X):
            at = self.at_B.numpy()
            here_X = np.isin(query_X, at) & (row_X >= at_N.start) & (row_X < at_N.stop)
            place_X = torch.from_numpy(np.searchsorted(at, query_X[here_X]))
            column_X = torch.from_numpy(row_X[here_X] - at_N.start)
            scores_BN[place_X.to(scores_BN.device), column_X.to(scores_BN.device)] = -torch.inf

    def rank(self) -> None:
        """Screen, then score exactly what the screen could not decide."""
        thresholds = self.job.relevant(self.at_B)[0].shape[1]
        rest = self
        if self.size >= SCREEN_FROM * (self.job.kept + SPARE) and thresholds <= FEW_THRESHOLDS:
            rest = replace(self, at_B=self.at_B[self._screen()])
        if len(rest.at_B):
            rest._exact()

    def _exact(self) -> None:
        thresholds_BT, pair_BT = self.job.relevant(self.at_B)
        best = Best(thresholds_BT, self.job.kept)
        left_BD = self.job.queries.fixed(self.at_B)
        for rows_N, at_N in self.parts():
            scores_BN = block_scores(self.job.queries, left_BD, self.at_B, self.job.candidates, at_N)
            self.exclude(scores_BN, at_N)
            best.add(scores_BN, rows_N)
        self.job.finish(self.at_B, best, best.above_BT, best.equal_BT, pair_BT)

    def _screen(self) -> Tensor:
        """Rank what the screen can decide; returns which queries it cannot."""
        thresholds_BT, pair_BT = self.job.relevant(self.at_B)
        slices = SLICES if thresholds_BT.shape[1] else 1
        screen = Screen(self.job.queries, self.at_B, self.job.candidates, self.step, slices=slices)
        in_unit_BT = (thresholds_BT / screen.unit_B.unsqueeze(1)).float()
        found = Shortlist(in_unit_BT, screen.margin, self.job.kept + SPARE, NEAR_SHARE * self.size + SPARE)
        for rows_N, at_N in self.parts():
            products_BN = screen.products(at_N)
            self.exclude(products_BN, at_N)
            found.add(products_BN, rows_N)
            if 2 * int(found.given_up_B.sum()) > len(self.at_B):
                return torch.ones(len(self.at_B), dtype=torch.bool)
        columns = found.close(self.job.kept)
        left_B = found.given_up_B.cpu()
        done_B = torch.nonzero(~left_B).squeeze(1)
        if len(done_B):
            above_BT, equal_BT = self._settle(found, thresholds_BT)
            rows_BP = found.rows_BM[:, :columns].cpu()[done_B]
            at_B = self.at_B[done_B]
            best = rank_listed(self.job, at_B, rows_BP, thresholds_BT[:, :0].cpu()[done_B])
            self.job.finish(at_B, best, above_BT[done_B], equal_BT[done_B], pair_BT[done_B])
        return left_B

    def _settle(self, found: Shortlist, thresholds_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Counts above and equal (on the host): those sure, and those near scored exactly."""
        above_BT, thresholds_BT = found.above_BT.cpu(), thresholds_BT.cpu()
        equal_BT = torch.zeros_like(above_BT)
        place_S, column_S, row_S = (part_S.cpu() for part_S in found.near())
        score_S = listed_scores(self.job.queries, self.at_B[place_S], self.job.candidates, row_S.unsqueeze(1))
        threshold_S = thresholds_BT[place_S, column_S]
        for counts_BT, hit_S in (
            (above_BT, score_S.squeeze(1) > threshold_S),
            (equal_BT, score_S.squeeze(1) == threshold_S),
        ):
            counts_BT.index_put_((place_S[hit_S], column_S[hit_S]), torch.tensor(1), accumulate=True)
        return above_BT, equal_BT


def rank_listed(job: Job, at_B: Tensor, rows_BP: Tensor, thresholds_BT: Tensor) -> Best:
    """Rank for each query the candidates listed for it (-1: none), on the host."""
    scores_BP = listed_scores(job.queries, at_B, job.candidates, rows_BP.clamp(min=0))
    best = Best(thresholds_BT, job.kept)
    best.add(torch.where(rows_BP < 0, -torch.inf, scores_BP), torch.where(rows_BP < 0, ABSENT_ROW, rows_BP))
    return best


def rank_small(job: Job, at_B: Tensor) -> None:
    """Queries `at_B`, each against its own small pool."""
    pools = [job.asked.pools[int(query)] for query in at_B]
    rows_BP = torch.full((len(pools), max(1, max(map(len, pools)))), -1, dtype=torch.int64)
    for place, pool in enumerate(pools):
        rows_BP[place, : len(pool)] = torch.from_numpy(pool)
    thresholds_BT, pair_BT = job.relevant(at_B)
    best = rank_listed(job, at_B, rows_BP, thresholds_BT.cpu())
    job.finish(at_B, best, best.above_BT, best.equal_BT, pair_BT)
