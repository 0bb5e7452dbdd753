"""Cosines of listed pairs, exact: the same number whatever it is computed with.

Rows are fixed-point as in `clearsight.ranking.fixed`: whole numbers of at most 2^26, so that a sum of
products is exact in int64 in any order, and equal rows have equal cosines to the bit.

Legend of shapes: L left rows, R right rows, P pairs, D width.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.mining.compiled import compiled


def fixed(rows_ND: NDArray[np.float32]) -> NDArray[np.int32]:
    """Rows divided by their length, in units of 2^-26."""
    import torch

    from clearsight.ranking.fixed import Rows

    if not len(rows_ND):
        return np.zeros(rows_ND.shape, dtype=np.int32)
    rows = Rows.of(rows_ND, normalize=True, device=torch.device("cpu"))
    fixed_ND = np.empty(rows_ND.shape, dtype=np.int32)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        fixed_ND[part] = rows.fixed(part).numpy()
    return fixed_ND


_AT_ONCE = 256


def listed(
    left_LD: NDArray[np.int32],
    right_RD: NDArray[np.int32],
    left_P: NDArray[np.int64],
    right_P: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Cosine of left row `left_P[i]` and right row `right_P[i]`, rows as `fixed` gives them."""
    product_P = np.empty(len(left_P), dtype=np.int64)
    _kernel()(left_LD, right_RD, left_P, right_P, product_P)
    cosine_P: NDArray[np.float32] = (product_P * 2.0**-52).astype(np.float32) + np.float32(0)
    return cosine_P


@cache
def _kernel() -> Any:
    return compiled(_products)


def _products(left_LD: Any, right_RD: Any, left_P: Any, right_P: Any, product_P: Any) -> None:
    for i in range(len(left_P)):
        left_D, right_D = left_LD[left_P[i]], right_RD[right_P[i]]
        total = np.int64(0)
        for d in range(left_D.shape[0]):
            total += np.int64(left_D[d]) * np.int64(right_D[d])
        product_P[i] = total
