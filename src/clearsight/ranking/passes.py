"""The ways to rank one block of queries: screened, exact, or each query against its own small pool.

Legend: Q queries, C candidates, D width, K ranks kept, R (query, relevant candidate) pairs, X (query,
excluded candidate) pairs, B queries of a block, N candidates of a block, P members of a small pool or short
list, T relevant candidates of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clearsight.ranking.best import ABSENT_ROW, FEW_THRESHOLDS, Best
from clearsight.ranking.candidates import Candidates, Lists, Part
from clearsight.ranking.fixed import Rows, to_scores
from clearsight.ranking.inputs import Inputs
from clearsight.ranking.screen import NEAR_SHARE, SLICES, SPARE, Buffers, Screen, Shortlist

SCREEN_FROM = 8
"""A pool shorter than so many short lists is scored exactly at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Both sides, the question, and the arrays that blocks of queries write their answers into."""

    queries: Rows
    candidates: Candidates
    asked: Inputs
    relevant_score_R: Tensor
    keys_QK: Tensor
    tied_out_Q: Tensor
    above_R: Tensor
    equal_R: Tensor

    @classmethod
    def of(cls, queries: Rows, candidates: Candidates, asked: Inputs, kept: int) -> Job:
        query_R, row_R = (torch.from_numpy(pair) for pair in asked.relevant)
        [score_R1] = candidates.scores(queries, [(query_R, row_R.unsqueeze(1))])
        return cls(
            queries=queries,
            candidates=candidates,
            asked=asked,
            relevant_score_R=score_R1.squeeze(1),
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


class Exclusions:
    """Candidates left out for queries `at_B` (ascending); pools come without theirs."""

    def __init__(self, job: Job, at_B: Tensor) -> None:
        query_X, row_X = job.asked.excluded
        at = at_B.numpy()
        here = np.flatnonzero(np.isin(query_X, at)) if len(query_X) else np.zeros(0, np.int64)
        here = here[np.argsort(row_X[here], kind="stable")]
        self._place_X, self._row_X = np.searchsorted(at, query_X[here]), row_X[here]

    def apply(self, scores_BN: Tensor, part: Part) -> None:
        """-inf where a candidate of the part, which is a run of rows, is left out for a query."""
        if not len(self._row_X):
            return
        start = int(part.rows_N[0])
        first, end = np.searchsorted(self._row_X, (start, start + len(part)))
        place_X = torch.from_numpy(self._place_X[first:end]).to(scores_BN.device)
        column_X = torch.from_numpy(self._row_X[first:end] - start).to(scores_BN.device)
        scores_BN[place_X, column_X] = -torch.inf


class Exact:
    """Queries `at_B` (ascending) whose candidates are all scored without rounding."""

    def __init__(self, job: Job, at_B: Tensor, *, pooled: bool) -> None:
        self.job, self.at_B = job, at_B
        thresholds_BT, self._pair_BT = job.relevant(at_B)
        self._best = Best(thresholds_BT, job.kept)
        self._left_BD = job.queries.fixed(at_B)
        self._excluded = None if pooled else Exclusions(job, at_B)

    def add(self, part: Part) -> None:
        exact_BN = self._left_BD @ part.fixed_ND.T
        scores_BN = to_scores(exact_BN, self.job.queries, self.at_B, part.length_N)
        if self._excluded is not None:
            self._excluded.apply(scores_BN, part)
        self._best.add(scores_BN, part.rows_N.to(scores_BN.device))

    def finish(self) -> None:
        best = self._best
        self.job.finish(self.at_B, best, best.above_BT, best.equal_BT, self._pair_BT)


class Screened:
    """Queries `at_B` (ascending) whose candidates are screened; what is near a decision is scored exactly.

    Attributes:
        hopeless: most of the queries are given up; no more parts are needed.
    """

    def __init__(self, job: Job, at_B: Tensor, buffers: Buffers, size: int, *, pooled: bool) -> None:
        self.job, self.at_B, self.hopeless = job, at_B, False
        self._thresholds_BT, self._pair_BT = job.relevant(at_B)
        slices = SLICES if self._thresholds_BT.shape[1] else 1
        self._screen = Screen(job.queries, at_B, job.candidates, buffers, slices=slices)
        in_unit_BT = (self._thresholds_BT / self._screen.unit_B.unsqueeze(1)).float()
        near = min(NEAR_SHARE * size, job.candidates.near_most) + SPARE
        self._found = Shortlist(in_unit_BT, self._screen.margin, job.kept + SPARE, near)
        self._excluded = None if pooled else Exclusions(job, at_B)

    def add(self, part: Part) -> None:
        if self.hopeless:
            return
        products_BN = self._screen.products(part)
        if self._excluded is not None:
            self._excluded.apply(products_BN, part)
        self._found.add(products_BN, part.rows_N.to(products_BN.device))
        self.hopeless = 2 * int(self._found.given_up_B.sum()) > len(self.at_B)

    def close(self) -> tuple[Tensor, list[Lists]]:
        """Queries that the screen could not decide, and for the others what to score exactly."""
        if self.hopeless:
            return self.at_B, []
        columns = self._found.close(self.job.kept)
        left_B = self._found.given_up_B.cpu()
        self._done_B = torch.nonzero(~left_B).squeeze(1)
        self._rows_BP = self._found.rows_BM[:, :columns].cpu()[self._done_B]
        self._near = tuple(part_S.cpu() for part_S in self._found.near())
        near = (self.at_B[self._near[0]], self._near[2].unsqueeze(1))
        return self.at_B[left_B], [(self.at_B[self._done_B], self._rows_BP.clamp(min=0)), near]

    def finish(self, listed_BP: Tensor, near_S1: Tensor) -> None:
        """Take in the scores of what `close` listed."""
        done_B, thresholds_BT = self._done_B, self._thresholds_BT.cpu()
        above_BT = self._found.above_BT.cpu()
        equal_BT = torch.zeros_like(above_BT)
        place_S, column_S, _ = self._near
        score_S, threshold_S = near_S1.squeeze(1), thresholds_BT[place_S, column_S]
        for counts_BT, hit_S in ((above_BT, score_S > threshold_S), (equal_BT, score_S == threshold_S)):
            counts_BT.index_put_((place_S[hit_S], column_S[hit_S]), torch.tensor(1), accumulate=True)
        best = best_listed(self.job, self._rows_BP, listed_BP, thresholds_BT[:, :0][done_B])
        self.job.finish(self.at_B[done_B], best, above_BT[done_B], equal_BT[done_B], self._pair_BT[done_B])


def rank_together(job: Job, blocks: Sequence[Tensor], pool: Tensor | None, step: int) -> None:
    """Rank blocks of queries (each ascending) that share their candidates: all, or a sorted pool.

    The candidates are read once for the screen, where they are not in memory once more for what it lists,
    and once again only if it leaves queries undecided.
    """
    size, pooled = len(job.candidates) if pool is None else len(pool), pool is not None
    step = max(1, min(step, size))
    screened: list[Screened] = []
    exact: list[Tensor] = []
    if size >= SCREEN_FROM * (job.kept + SPARE):
        buffers = Buffers.of(max(map(len, blocks)), step, job.queries.device)
        for at_B in blocks:
            if job.relevant(at_B)[0].shape[1] <= FEW_THRESHOLDS:
                screened.append(Screened(job, at_B, buffers, size, pooled=pooled))
            else:
                exact.append(at_B)
    else:
        exact.extend(blocks)
    if screened:
        for part in job.candidates.parts(pool, step, screened=True):
            for screen in screened:
                screen.add(part)
            if all(screen.hopeless for screen in screened):
                break
        del buffers
        exact.extend(_settle(job, screened))
    rest = torch.cat(exact).sort().values if exact else torch.zeros(0)
    if len(rest):
        running = [Exact(job, at_B, pooled=pooled) for at_B in torch.split(rest, max(map(len, blocks)))]
        for part in job.candidates.parts(pool, step, screened=False):
            for one in running:
                one.add(part)
        for one in running:
            one.finish()


def _settle(job: Job, screened: Sequence[Screened]) -> list[Tensor]:
    """Score exactly what the screens listed, all of it at once; returns the queries they left undecided."""
    closed = [screen.close() for screen in screened]
    scores = iter(job.candidates.scores(job.queries, [lists for _, both in closed for lists in both]))
    for screen, (_, lists) in zip(screened, closed, strict=True):
        if lists:
            screen.finish(next(scores), next(scores))
    return [left for left, _ in closed]


def best_listed(job: Job, rows_BP: Tensor, scores_BP: Tensor, thresholds_BT: Tensor) -> Best:
    """The best of each query's own list (-1: none), on the host."""
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
    [scores_BP] = job.candidates.scores(job.queries, [(at_B, rows_BP.clamp(min=0))])
    best = best_listed(job, rows_BP, scores_BP, thresholds_BT.cpu())
    job.finish(at_B, best, best.above_BT, best.equal_BT, pair_BT)
