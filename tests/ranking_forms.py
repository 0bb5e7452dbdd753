"""Rows with numbered names, and rankings compared entry by entry, for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clearsight.types import Embeddings, Ranking


def embeddings(rows: ArrayLike, prefix: str) -> Embeddings:
    """Rows in float32, called prefix0, prefix1 ..."""
    rows_ND = np.asarray(rows, dtype=np.float32)
    return Embeddings.of([f"{prefix}{i}" for i in range(len(rows_ND))], rows_ND)


def same(first: Ranking, second: Ranking) -> None:
    """Both rankings are equal to the bit."""
    for name in (
        "rows_QK",
        "scores_QK",
        "tied_out_Q",
        "above_R",
        "equal_R",
        "relevant_score_R",
        "pool_size_Q",
    ):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert tuple(first.candidate_ids) == tuple(second.candidate_ids)
