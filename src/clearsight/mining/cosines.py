"""Cosines of listed pairs, exact, to the bit those of `clearsight.ranking`: equal rows have equal cosines.

Legend of shapes: L left rows, R right rows, P pairs, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clearsight.ranking.fixed import Rows


def measured(rows_ND: NDArray[np.float32]) -> Rows:
    """Rows with their lengths, which `listed` asks for."""
    import torch

    from clearsight.ranking.fixed import Rows

    return Rows.of(rows_ND, normalize=True, device=torch.device("cpu"))


def listed(
    left: Rows, right: Rows, left_P: NDArray[np.int64], right_P: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosine of left row `left_P[i]` and right row `right_P[i]`; quickest where equal left rows follow each
    other.
    """
    import torch

    from clearsight.ranking.fixed import pair_products, to_scores

    left_at_P, right_at_P = torch.from_numpy(left_P), torch.from_numpy(right_P)
    exact_P1 = pair_products(left, left_at_P, right, right_at_P).unsqueeze(1)
    length_P1 = right.length_N[right_at_P].unsqueeze(1)
    cosine_P: NDArray[np.float32] = to_scores(exact_P1, left, left_at_P, length_P1)[:, 0].numpy()
    return cosine_P
