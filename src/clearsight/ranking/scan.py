"""One pass over a block of screened products on the host, compiled: the best of each query, and counts.

Legend: B queries of a block, N candidates of a block, M candidates short-listed, T relevant candidates of a
query, S candidates near a relevant one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clearsight.compiled import compiled
from clearsight.threads import edges_every, spread

TOGETHER = 64
"""Products compared with the floor before any of them is looked at alone."""
PIECE_PRODUCTS = 1 << 19
"""Products that one thread takes at a time."""


def scan(
    products_BN: Tensor,
    rows_N: Tensor,
    bounds_BT: tuple[Tensor, Tensor],
    values_BM: Tensor,
    rows_BM: Tensor,
    above_BT: Tensor,
) -> Tensor:
    """Take a block into the short lists (descending) and into the counts; returns how many are near (B, T).

    Args:
        products_BN: columns beyond `rows_N` are not read; -inf is no candidate.
        bounds_BT: products above the second are counted as above, those from the first to it as near.
        values_BM, rows_BM, above_BT: changed in place. Each new entry is moved up to its place: for lists of
            a few hundred at most.
    """
    near_BT = torch.zeros_like(above_BT)
    block = products_BN.numpy(), rows_N.numpy(), *(bound_BT.numpy() for bound_BT in bounds_BT)
    state = [tensor.numpy() for tensor in (values_BM, rows_BM, above_BT, near_BT)]
    kernel: Any = compiled(_scan)
    _in_pieces(products_BN, lambda first, last: kernel(*block, *state, first, last))
    return near_BT


def list_near(
    products_BN: Tensor, rows_N: Tensor, bounds_BT: tuple[Tensor, Tensor], near_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, relevant candidate (column) and row of what lies between the bounds, `near_BT` of each."""
    end_BT = near_BT.flatten().cumsum(0).view(near_BT.shape)
    query_S, column_S, row_S = torch.empty(3, int(near_BT.sum()), dtype=torch.int64)
    if len(row_S):
        block = products_BN.numpy(), rows_N.numpy(), *(bound_BT.numpy() for bound_BT in bounds_BT)
        state = [tensor.numpy() for tensor in (near_BT, end_BT - near_BT, query_S, column_S, row_S)]
        kernel: Any = compiled(_list_near)
        _in_pieces(products_BN, lambda first, last: kernel(*block, *state, first, last))
    return query_S, column_S, row_S


def _in_pieces(products_BN: Tensor, work: Any) -> None:
    spread(work, edges_every(len(products_BN), max(1, PIECE_PRODUCTS // products_BN.shape[1])))


def _scan(
    products_BN: Any,
    rows_N: Any,
    low_BT: Any,
    high_BT: Any,
    values_BM: Any,
    rows_BM: Any,
    above_BT: Any,
    near_BT: Any,
    first: int,
    last: int,
) -> None:
    size, listed = len(rows_N), values_BM.shape[1]
    for b in range(first, last):
        product_N, values_M, kept_M = products_BN[b, :size], values_BM[b], rows_BM[b]
        floor = values_M[listed - 1]
        for start in range(0, size, TOGETHER):
            part = product_N[start : start + TOGETHER]
            hits = 0
            for j in range(len(part)):
                hits += part[j] > floor
            if hits == 0:
                continue
            for j in range(len(part)):
                value = part[j]
                if value > floor:
                    m = listed - 1
                    while m > 0 and values_M[m - 1] < value:
                        values_M[m], kept_M[m] = values_M[m - 1], kept_M[m - 1]
                        m -= 1
                    values_M[m], kept_M[m] = value, rows_N[start + j]
                    floor = values_M[listed - 1]
        for t in range(low_BT.shape[1]):
            low, high = low_BT[b, t], high_BT[b, t]
            reached = above = 0
            for j in range(size):
                reached += product_N[j] >= low
                above += product_N[j] > high
            above_BT[b, t] += above
            near_BT[b, t] = reached - above


def _list_near(
    products_BN: Any,
    rows_N: Any,
    low_BT: Any,
    high_BT: Any,
    near_BT: Any,
    start_BT: Any,
    query_S: Any,
    column_S: Any,
    row_S: Any,
    first: int,
    last: int,
) -> None:
    for b in range(first, last):
        for t in range(low_BT.shape[1]):
            if near_BT[b, t] == 0:
                continue
            s, low, high = start_BT[b, t], low_BT[b, t], high_BT[b, t]
            for j in range(len(rows_N)):
                if products_BN[b, j] >= low and products_BN[b, j] <= high:
                    query_S[s], column_S[s], row_S[s] = b, t, rows_N[j]
                    s += 1
