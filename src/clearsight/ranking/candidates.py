"""The candidates' side: in memory, or read block by block from where it lies, ahead of the arithmetic.

Legend: N candidates of a block, D width, B queries of a list, P members of a list, U distinct rows.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import DataError
from clearsight.ranking.fixed import (
    CHUNK_ELEMENTS,
    Rows,
    lengths,
    listed_scores,
    pair_products,
    to_fixed,
    to_scores,
)
from clearsight.types import Embeddings, RowSource

LENGTH_TOLERANCE = 1e-6
"""Rows this close to length 1 are screened as they are; the difference goes into the margin."""
BLOCKS_A_PASS = 16
"""Blocks of queries that share one reading of the candidates; more hold more short lists."""
READ_AHEAD = 2
LISTED_PAIRS = 1 << 22
"""Pairs scored by one sweep over the rows that they name: 100 MB beside the rows."""
LISTED_ROWS = 4096
LISTED_ELEMENTS = 1 << 22
"""Numbers named by one batch of small pools in memory: the batch then costs little beside its pairs."""

Lists = tuple[Tensor, Tensor]
"""Queries (B), and for each the rows of its own candidates (B, P)."""


@dataclass(frozen=True, eq=False)
class Part:
    """Candidates of one block.

    Attributes:
        rows_N: their rows, ascending, on the host.
        raw_ND: float32 as they came, on the device.
        length_N: as `Rows.length_N`.
        unit_ND: float32, of length at most 1 (and the candidates' `loose`); None where no screen is asked.
    """

    rows_N: Tensor
    raw_ND: Tensor
    length_N: Tensor
    unit_ND: Tensor | None

    @cached_property
    def fixed_ND(self) -> Tensor:
        return to_fixed(self.raw_ND, self.length_N)

    def __len__(self) -> int:
        return len(self.rows_N)


class Candidates(Protocol):
    """What a ranking asks of its candidates.

    Attributes:
        longest: the longest row (inner products only; 1 for cosines).
        loose: how far `Part.unit_ND` is from length 1 at most.
        blocks_a_pass: blocks of queries worth holding for one reading.
        listed_elements: numbers that one call of `scores` may name.
        near_most: candidates near one query's relevant ones worth listing.
    """

    device: torch.device
    cosine: bool
    longest: float
    loose: float
    blocks_a_pass: int
    listed_elements: int
    near_most: int

    @property
    def width(self) -> int: ...
    def __len__(self) -> int: ...
    def parts(self, pool: Tensor | None, step: int, *, screened: bool) -> Iterator[Part]:
        """The candidates of a sorted pool (None: all), `step` at a time."""
        ...

    def scores(self, queries: Rows, lists: Sequence[Lists]) -> list[Tensor]:
        """float32 scores (B, P), on the host, of each query with its own candidates."""
        ...


def open_candidates(rows: RowSource, *, normalize: bool, device: torch.device) -> Candidates:
    """Candidates in memory where the rows are there, else from where they lie."""
    if isinstance(rows, Embeddings):
        return InMemory(Rows.of(rows.rows_ND, normalize=normalize, device=device))
    return Streamed(rows, normalize=normalize, device=device)


class InMemory:
    """Candidates whose rows are an array."""

    blocks_a_pass = 1
    listed_elements = LISTED_ELEMENTS
    near_most = 1 << 62

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.device, self.cosine = rows.device, rows.cosine
        self.longest = 1.0 if rows.cosine else float(rows.length_N.max())
        self.stretch_N, self.loose = _stretch(rows)

    @property
    def width(self) -> int:
        return self.rows.width

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, pool: Tensor | None, step: int, *, screened: bool) -> Iterator[Part]:
        size = len(self) if pool is None else len(pool)
        copied = screened and self.stretch_N is not None
        buffer_ND = torch.empty(min(step, size) if copied else 0, self.width, device=self.device)
        for first in range(0, size, step):
            end = min(first + step, size)
            index = slice(first, end) if pool is None else pool[first:end]
            raw_ND = self.rows.raw(index)
            unit_ND = raw_ND if screened else None
            if copied and self.stretch_N is not None:
                stretch_N1 = self.stretch_N[index].unsqueeze(1).to(self.device)
                unit_ND = torch.mul(raw_ND, stretch_N1, out=buffer_ND[: len(raw_ND)])
            rows_N = torch.arange(first, end) if pool is None else pool[first:end]
            yield Part(rows_N, raw_ND, self.rows.length_N[index], unit_ND)

    def scores(self, queries: Rows, lists: Sequence[Lists]) -> list[Tensor]:
        return [listed_scores(queries, at_B, self.rows, rows_BP) for at_B, rows_BP in lists]


def _stretch(rows: Rows) -> tuple[Tensor | None, float]:
    """What float32 rows are multiplied by to have at most length 1 (None: they do), and the error of that."""
    if not rows.cosine:
        return (1.0 / rows.length_N.max()).float().expand(len(rows)), 0.0
    loose = float((rows.length_N - 1).abs().max())
    if loose <= LENGTH_TOLERANCE:
        return None, loose
    return rows.length_N.reciprocal().float(), 0.0


class Streamed:
    """Candidates that are read as they are needed, by a thread that is a few blocks ahead.

    One reading serves many blocks of queries; what is scored exactly is collected and read in order of rows.
    Inner products need the longest row first, which is one more reading.
    """

    loose = 0.0
    blocks_a_pass = BLOCKS_A_PASS
    near_most = 512

    def __init__(self, source: RowSource, *, normalize: bool, device: torch.device) -> None:
        self.source, self.cosine, self.device = source, normalize, device
        self.listed_elements = LISTED_PAIRS * source.width
        self.longest = 1.0
        if not normalize:
            parts = self.parts(None, LISTED_ROWS, screened=False)
            self.longest = max(float(part.length_N.max()) for part in parts)

    @property
    def width(self) -> int:
        return self.source.width

    def __len__(self) -> int:
        return len(self.source)

    def parts(self, pool: Tensor | None, step: int, *, screened: bool) -> Iterator[Part]:
        size = len(self) if pool is None else len(pool)
        indices = (
            np.arange(first, min(first + step, size)) if pool is None else pool[first : first + step].numpy()
            for first in range(0, size, step)
        )
        return self._ahead(indices, screened)

    def scores(self, queries: Rows, lists: Sequence[Lists]) -> list[Tensor]:
        if not lists:
            return []
        sizes = [rows_BP.numel() for _, rows_BP in lists]
        query_P = torch.cat([at_B.repeat_interleave(rows_BP.shape[1]) for at_B, rows_BP in lists])
        row_P = torch.cat([rows_BP.reshape(-1) for _, rows_BP in lists])
        score_P = self._pairs(queries, query_P, row_P)
        split = torch.split(score_P, sizes)
        return [part.view(rows_BP.shape) for part, (_, rows_BP) in zip(split, lists, strict=True)]

    def _pairs(self, queries: Rows, query_P: Tensor, row_P: Tensor) -> Tensor:
        """The score of each pair, reading every row that is named once, in order."""
        score_P = torch.empty(len(row_P))
        if not len(row_P):
            return score_P
        row_U, which_P = torch.unique(row_P, return_inverse=True)
        order_P = which_P.argsort()
        end_U = torch.bincount(which_P, minlength=len(row_U)).cumsum(0)
        first_pair = first = 0
        for part in self._ahead((rows.numpy() for rows in torch.split(row_U, LISTED_ROWS)), screened=False):
            end_pair = int(end_U[first + len(part) - 1])
            at_P = order_P[first_pair:end_pair]
            place_P, query_of_P = which_P[at_P] - first, query_P[at_P]
            if self.device.type == "cpu":
                rows = Rows(part.raw_ND, part.length_N, self.cosine, self.device)
                exact_P = pair_products(rows, place_P, queries, query_of_P)
            else:
                exact_P = part_products(part, place_P, queries, query_of_P)
            length_P1 = part.length_N[place_P].unsqueeze(1)
            score_P[at_P] = to_scores(exact_P.unsqueeze(1), queries, query_of_P, length_P1).cpu()[:, 0]
            first, first_pair = first + len(part), end_pair
        return score_P

    def _ahead(self, indices: Iterable[NDArray[np.int64]], screened: bool) -> Iterator[Part]:
        waiting: deque[Future[Part]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        try:
            for index in indices:
                waiting.append(pool.submit(self._read, index, screened))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, index: NDArray[np.int64], screened: bool) -> Part:
        block = self.source.take(index)
        if len(block) != len(index) or block.width != self.width:
            raise DataError(
                f"The source gave {len(block)} rows of width {block.width} for {len(index)} asked.",
                where=f"rows {index[0]} to {index[-1]}",
                do="`take` gives one row of the source's width for each position.",
            )
        with warnings.catch_warnings():  # as in `Rows.of`
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            raw_ND = torch.from_numpy(np.ascontiguousarray(block.rows_ND))
        length_N = lengths(raw_ND, normalize=self.cosine)
        raw_ND = raw_ND.to(self.device)
        unit_ND = None
        if screened:
            stretch_N = length_N.reciprocal() if self.cosine else torch.full_like(length_N, 1 / self.longest)
            unit_ND = raw_ND * stretch_N.float().unsqueeze(1).to(self.device)
        return Part(torch.from_numpy(index), raw_ND, length_N, unit_ND)


def part_products(part: Part, place_P: Tensor, queries: Rows, query_P: Tensor) -> Tensor:
    """Exact products of candidates of a part, each with its own query, on any device; P at least 1."""
    step = max(1, CHUNK_ELEMENTS // queries.width)
    chunks = zip(torch.split(place_P, step), torch.split(query_P, step), strict=True)
    fixed_ND = part.fixed_ND
    products = [(fixed_ND[at_P.to(fixed_ND.device)] * queries.fixed(query)).sum(1) for at_P, query in chunks]
    return torch.cat(products)
