"""A float32 screen before the exact scores: most candidates are far enough from every decision to skip.

The rounding of a float32 product of D terms is below D u |x| |y| (u = 2^-24; Higham 2002, eq. 3.5), whatever
the order of the sum; summed in L slices of the width it is below (D / L + L) u |x| |y|. Candidates farther
than that from the last kept rank, and from a relevant candidate's score, are decided by the screen; those
nearer are scored exactly. A query with too many of them is left to the exact pass: nothing is ever guessed.

Legend: B queries of a block, N candidates of a block, M candidates short-listed, K ranks kept, T relevant
candidates of a query, S survivors (candidates of a block that may matter), G groups of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clearsight.ranking.candidates import Candidates, Part
from clearsight.ranking.fixed import Rows
from clearsight.ranking.scan import list_near, scan

SPARE = 16
"""Candidates short-listed beyond K."""
SLICES = 4
"""Slices of the width where relevant candidates are counted: fewer candidates near them pay for the additions
(measured at width 1536: 2 to 4 are best, 0.8 of the time of one)."""
GROUP = 64
"""A block is first looked at by the largest score of so many neighbours."""
SCANNED = 256
"""Lists up to this length are filled by one compiled pass on the host, longer ones block by block."""
NEAR_SHARE = 1 / 100
"""Share of candidates near a relevant one from which the exact product is cheaper than listing (measured)."""


@dataclass(frozen=True, slots=True, eq=False)
class Buffers:
    """Room for the products of one block of queries with one part; blocks take turns."""

    products_BN: Tensor
    slice_BN: Tensor

    @classmethod
    def of(cls, queries: int, step: int, device: torch.device) -> Buffers:
        padded = -(-step // GROUP) * GROUP
        return cls(*(torch.empty(queries, padded, device=device) for _ in range(2)))


class Screen:
    """float32 products of one block of queries with parts of the candidates, and how far to trust them.

    Attributes:
        unit_B: float64; a screened product times its query's unit is the score, up to the margin.
        margin: largest difference between a screened product and the exact one.
    """

    def __init__(
        self, queries: Rows, at_B: Tensor, candidates: Candidates, buffers: Buffers, *, slices: int = 1
    ) -> None:
        self.buffers = buffers
        self.slice_width = -(-queries.width // slices)
        device = queries.device
        stretch_B1 = queries.length_N[at_B].reciprocal().float().unsqueeze(1)
        self.left_BD = queries.raw(at_B) * stretch_B1.to(device)
        self.unit_B = torch.ones(len(at_B), dtype=torch.float64, device=device)
        if not queries.cosine:
            self.unit_B *= queries.length_N[at_B].to(device) * candidates.longest
        rounding = (self.slice_width + slices + 16) * 2.0**-24
        self.margin = rounding + 2 * _input_rounding(device) + 2 * candidates.loose

    def products(self, part: Part) -> Tensor:
        """Products (B, N) with a part, padded with -inf to whole groups; overwritten by the next."""
        right_ND = part.unit_ND
        assert right_ND is not None
        size, padded = len(part), -(-len(part) // GROUP) * GROUP
        products_BN = self.buffers.products_BN[: len(self.left_BD), :padded]
        columns = [slice(i, i + self.slice_width) for i in range(0, self.left_BD.shape[1], self.slice_width)]
        torch.mm(self.left_BD[:, columns[0]], right_ND[:, columns[0]].T, out=products_BN[:, :size])
        for column in columns[
            1:
        ]:  # apart, then added: what a product does with its addend is not ours to know
            slice_BN = self.buffers.slice_BN[: len(self.left_BD), :size]
            products_BN[:, :size] += torch.mm(self.left_BD[:, column], right_ND[:, column].T, out=slice_BN)
        products_BN[:, size:] = -torch.inf
        return products_BN


def _input_rounding(device: torch.device) -> float:
    """Relative rounding of the factors before a float32 product: TF32 and bfloat16 modes are allowed for."""
    reduced = torch.get_float32_matmul_precision() != "highest"
    if device.type == "cuda":
        reduced = reduced or torch.backends.cuda.matmul.allow_tf32
    return 2.0**-8 if reduced else 2.0**-24


class Shortlist:
    """The best M of B queries by screened product, and what lies near their relevant candidates.

    Args:
        thresholds_BT: exact scores of the relevant candidates in the screen's unit, padded with +inf.
        near_limit: candidates near one query's relevant ones beyond which it is given up.

    Attributes:
        above_BT: how many candidates are surely above.
        given_up_B: queries left to the exact pass.
    """

    def __init__(self, thresholds_BT: Tensor, margin: float, listed: int, near_limit: float) -> None:
        self.values_BM = torch.full((len(thresholds_BT), listed), -torch.inf, device=thresholds_BT.device)
        self.rows_BM = torch.full_like(self.values_BM, -1, dtype=torch.int64)
        self.low_BT = _outward(thresholds_BT - margin, down=True)
        self.high_BT = _outward(thresholds_BT + margin, down=False)
        self.above_BT = torch.zeros_like(self.low_BT, dtype=torch.int64)
        self.near_B = torch.zeros_like(self.rows_BM[:, 0])
        self._near: list[tuple[Tensor, Tensor, Tensor]] = []
        self.given_up_B = torch.zeros_like(self.near_B, dtype=torch.bool)
        self.near_limit = near_limit
        self.margin = margin

    def add(self, products_BN: Tensor, rows_N: Tensor) -> None:
        """Take in a block; columns beyond `rows_N` hold -inf."""
        if products_BN.device.type == "cpu" and self.values_BM.shape[1] <= SCANNED:
            self._scan(products_BN, rows_N)
        else:
            self._add_groups(products_BN, rows_N)

    def _scan(self, products_BN: Tensor, rows_N: Tensor) -> None:
        bounds_BT = self.low_BT, self.high_BT
        lists_BM = self.values_BM, self.rows_BM
        near_BT = scan(products_BN, rows_N, bounds_BT, *lists_BM, self.above_BT)
        if not near_BT.shape[1]:
            return
        self.near_B += near_BT.sum(1)
        self._give_up()
        near_BT[self.given_up_B] = 0
        self._near.append(list_near(products_BN, rows_N, bounds_BT, near_BT))

    def _add_groups(self, products_BN: Tensor, rows_N: Tensor) -> None:
        queries, padded = products_BN.shape
        listed = self.values_BM.shape[1]
        grouped_BGN = products_BN.view(queries, padded // GROUP, GROUP)
        peak_BG = grouped_BGN.amax(2)
        floor_B = self.values_BM[:, -1]
        if peak_BG.shape[1] >= listed and bool((floor_B == -torch.inf).any()):
            # The M-th peak bounds the M-th best from below: a full list to come needs nothing beneath it.
            floor_B = torch.maximum(floor_B, peak_BG.topk(listed, dim=1).values[:, -1])
        if self.low_BT.shape[1]:
            floor_B = torch.minimum(floor_B, self.low_BT.amin(1))
        floor_B = floor_B.clamp(min=torch.finfo(floor_B.dtype).min)  # -inf is no candidate
        live_BG = peak_BG >= floor_B.unsqueeze(1)
        if int(live_BG.sum()) * 2 > live_BG.numel():
            self._add_all(products_BN, rows_N)
            return
        at_S, group_S = live_BG.nonzero(as_tuple=True)
        member_SN = grouped_BGN[at_S, group_S]
        place_S, column_S = (member_SN >= floor_B[at_S].unsqueeze(1)).nonzero(as_tuple=True)
        at_S, column_in_block_S = at_S[place_S], group_S[place_S] * GROUP + column_S
        self._keep(at_S, member_SN[place_S, column_S], rows_N[column_in_block_S])
        self._count(at_S, member_SN[place_S, column_S], rows_N[column_in_block_S])

    def _add_all(self, products_BN: Tensor, rows_N: Tensor) -> None:
        """A block of which much may matter: whole-block operations instead of lists."""
        values_BM, column_BM = products_BN[:, : len(rows_N)].topk(
            min(self.rows_BM.shape[1], len(rows_N)), dim=1
        )
        self._merge(values_BM, rows_N[column_BM])
        for t in range(self.low_BT.shape[1]):
            high_B = (products_BN > self.high_BT[:, t : t + 1]).sum(1, dtype=torch.int32)
            low_B = (products_BN >= self.low_BT[:, t : t + 1]).sum(1, dtype=torch.int32)
            self.above_BT[:, t] += high_B
            self.near_B += low_B - high_B
            self._give_up()
            some_S = torch.nonzero((low_B > high_B) & ~self.given_up_B).squeeze(1)
            part_SN = products_BN[some_S]
            near_SN = (part_SN >= self.low_BT[some_S, t : t + 1]) & (
                part_SN <= self.high_BT[some_S, t : t + 1]
            )
            place_S, column_S = near_SN.nonzero(as_tuple=True)
            self._near.append((some_S[place_S], torch.full_like(place_S, t), rows_N[column_S]))

    def _keep(self, at_S: Tensor, value_S: Tensor, row_S: Tensor) -> None:
        """Merge survivors, sorted by query, into the short list."""
        better_S = value_S > self.values_BM[at_S, -1]
        at_S, value_S, row_S = at_S[better_S], value_S[better_S], row_S[better_S]
        if not len(at_S):
            return
        size_B = torch.bincount(at_S, minlength=len(self.values_BM))
        start_B = size_B.cumsum(0) - size_B
        place_S = torch.arange(len(at_S), device=at_S.device) - start_B[at_S]
        values_BP = self.values_BM.new_full((len(size_B), int(size_B.max())), -torch.inf)
        rows_BP = torch.full_like(values_BP, -1, dtype=torch.int64)
        values_BP[at_S, place_S] = value_S
        rows_BP[at_S, place_S] = row_S
        self._merge(values_BP, rows_BP)

    def _merge(self, values_BP: Tensor, rows_BP: Tensor) -> None:
        self.values_BM, kept_BM = torch.cat([self.values_BM, values_BP], 1).topk(self.rows_BM.shape[1], dim=1)
        self.rows_BM = torch.cat([self.rows_BM, rows_BP], 1).gather(1, kept_BM)

    def _count(self, at_S: Tensor, value_S: Tensor, row_S: Tensor) -> None:
        for t in range(self.low_BT.shape[1]):
            above_S = value_S > self.high_BT[at_S, t]
            self.above_BT[:, t] += torch.bincount(at_S[above_S], minlength=len(self.above_BT))
            near_S = (value_S >= self.low_BT[at_S, t]) & ~above_S
            self.near_B += torch.bincount(at_S[near_S], minlength=len(self.near_B))
            self._near.append((at_S[near_S], torch.full_like(at_S[near_S], t), row_S[near_S]))
        self._give_up()

    def _give_up(self) -> None:
        """Stop listing for queries with too many near candidates: they go to the exact pass anyway."""
        self.given_up_B |= self.near_B > self.near_limit
        self.low_BT[self.given_up_B] = torch.inf
        self.high_BT[self.given_up_B] = torch.inf

    def close(self, kept: int) -> int:
        """How many columns of the list hold every candidate that may be, or tie with, one of the best `kept`.

        Queries whose list may end too early are given up.
        """
        floor_B = _outward(self.values_BM[:, kept - 1] - 2 * self.margin, down=True)
        self.given_up_B |= ~(self.values_BM[:, -1] < floor_B)
        size_B = (self.values_BM >= floor_B.unsqueeze(1)).sum(1)
        return int(torch.where(self.given_up_B, kept, size_B).max())

    def near(self) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates near a relevant one, of the queries not given up: query, relevant (column), row."""
        nothing_S = torch.zeros(0, dtype=torch.int64, device=self.near_B.device)
        place_S, column_S, row_S = (
            torch.cat(parts) for parts in zip((nothing_S,) * 3, *self._near, strict=True)
        )
        open_S = ~self.given_up_B[place_S]
        return place_S[open_S], column_S[open_S], row_S[open_S]


def _outward(bound_BT: Tensor, *, down: bool) -> Tensor:
    """A float32 bound moved one step outward, so that rounding the bound cannot narrow it."""
    return torch.nextafter(bound_BT, torch.full_like(bound_BT, -torch.inf if down else torch.inf))
