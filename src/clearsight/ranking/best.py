"""The running best of a block of queries, and where their relevant candidates stand.

A score and a row are packed into one int64 key: a larger key is a better score or, at equal score, an earlier
row. The best K keys are then one total order, the same whatever the blocks.

Legend: B queries of a block, N candidates of a block, K ranks kept, T thresholds (relevant items) of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT_ROW = 2**32 - 1
FEW_THRESHOLDS = 24
"""Up to so many thresholds a comparison each is quicker than sorting the block (measured: equal near 30)."""


def to_keys(scores_BN: Tensor, rows_N: Tensor) -> Tensor:
    """int64 keys (B, N) of float32 scores and rows (N or (B, N)); -inf stands for an absent candidate."""
    bits_BN = scores_BN.view(torch.int32)
    ordered_BN = bits_BN ^ ((bits_BN >> 31) & 0x7FFFFFFF)
    return (ordered_BN.long() << 32) + (ABSENT_ROW - rows_N)


def from_keys(keys_BK: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, rows) of keys; rows are -1 where the candidate is absent."""
    ordered_BK = (keys_BK >> 32).int()
    scores_BK = (ordered_BK ^ ((ordered_BK >> 31) & 0x7FFFFFFF)).view(torch.float32)
    rows_BK = ABSENT_ROW - (keys_BK & ABSENT_ROW)
    return scores_BK, torch.where(scores_BK == -torch.inf, -1, rows_BK)


def count(scores_BN: Tensor, thresholds_BT: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of each row lie strictly above, and equal, each of its thresholds: two (B, T) int64."""
    if thresholds_BT.shape[1] <= FEW_THRESHOLDS:
        columns = [thresholds_BT[:, t : t + 1] for t in range(thresholds_BT.shape[1])]
        above = [(scores_BN > column_B1).sum(1) for column_B1 in columns]
        equal = [(scores_BN == column_B1).sum(1) for column_B1 in columns]
        return torch.stack(above, 1), torch.stack(equal, 1)
    sorted_BN = scores_BN.sort(dim=1).values
    upper_BT = torch.searchsorted(sorted_BN, thresholds_BT, right=True)
    lower_BT = torch.searchsorted(sorted_BN, thresholds_BT)
    return scores_BN.shape[1] - upper_BT, upper_BT - lower_BT


class Best:
    """What is known of B queries after some blocks of candidates.

    Args:
        thresholds_BT: exact scores of their relevant candidates, padded with +inf.
        kept: K.
    """

    def __init__(self, thresholds_BT: Tensor, kept: int) -> None:
        queries = len(thresholds_BT)
        nothing_BK = torch.full((queries, kept), -torch.inf, device=thresholds_BT.device)
        self.keys_BK = to_keys(nothing_BK, torch.full_like(nothing_BK, ABSENT_ROW, dtype=torch.int64))
        self.thresholds_BT = thresholds_BT
        self.above_BT = torch.zeros_like(thresholds_BT, dtype=torch.int64)
        self.equal_BT = torch.zeros_like(self.above_BT)
        self.last_B = nothing_BK[:, -1].clone()
        self.equal_last_B = torch.zeros_like(self.above_BT[:, :0].sum(1))

    def add(self, scores_BN: Tensor, rows_N: Tensor) -> None:
        """Take in float32 scores of candidates `rows_N` (N or (B, N)); -inf leaves one out."""
        if self.thresholds_BT.shape[1]:
            above_BT, equal_BT = count(scores_BN, self.thresholds_BT)
            self.above_BT += above_BT
            self.equal_BT += equal_BT
        kept = self.keys_BK.shape[1]
        block_BK = to_keys(scores_BN, rows_N)
        if kept < block_BK.shape[1]:
            block_BK = block_BK.topk(kept, dim=1).values
        before_BK = from_keys(self.keys_BK)[0]
        self.keys_BK = torch.cat([self.keys_BK, block_BK], 1).topk(kept, dim=1).values
        last_B = from_keys(self.keys_BK[:, -1])[0]
        # Candidates left out so far score at most the former last entry: a risen last entry outdoes them all.
        seen_B = torch.where(
            last_B > self.last_B, (before_BK == last_B.unsqueeze(1)).sum(1), self.equal_last_B
        )
        self.equal_last_B = seen_B + (scores_BN == last_B.unsqueeze(1)).sum(1)
        self.last_B = last_B

    def tied_out(self) -> Tensor:
        """How many candidates outside the best K equal the score of the last entry."""
        inside_B = (from_keys(self.keys_BK)[0] == self.last_B.unsqueeze(1)).sum(1)
        return torch.where(self.last_B == -torch.inf, 0, self.equal_last_B - inside_B)
