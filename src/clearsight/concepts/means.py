"""The code of the mean and the mean of the codes: two readings of one sample, and how far they differ.

The paper's eq. 13 takes them for the same. Only the pre-activations are linear, so with any nonlinearity they
are not: a concept that fires on a few tokens can vanish from the mean, and one that stays below every token's
threshold cannot appear there.

Legend of shapes: N items, D width, C concepts, L tokens of an item, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from clearsight.concepts.codes import Coder, Floats, Ints, Rows, checked_codes
from clearsight.errors import DataError, UsageError

BLOCK_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class CodeDisagreement:
    """How far the code of the mean is from the mean of the codes, item by item, float64, (N,) each.

    Attributes:
        cosine_N: cosine of the two codes; -1..1, 1 is the same direction. NaN where either is empty.
        jaccard_N: shared concepts / concepts of either; 0..1, 1 is the same support. NaN where both are
            empty.
        l1_share_N: share of the mean of codes' sum of |z| that lies on concepts of the code of the mean;
            0..1, 1 is nothing lost. NaN where the mean of codes is empty.
        l1_distance_N: |u - v|_1 / (|u|_1 + |v|_1) of the two codes u, v; 0..1, 0 is equal. NaN where both
            are empty.
        of_mean_N, of_codes_N: number of active concepts of the code of the mean, of the mean of the codes.
    """

    cosine_N: Floats
    jaccard_N: Floats
    l1_share_N: Floats
    l1_distance_N: Floats
    of_mean_N: Ints
    of_codes_N: Ints

    def summary(self) -> dict[str, float]:
        """Means over the items where the figure is defined; NaN where it is nowhere."""
        figures: dict[str, Rows] = {
            "cosine": self.cosine_N,
            "jaccard": self.jaccard_N,
            "l1_share": self.l1_share_N,
            "l1_distance": self.l1_distance_N,
            "active_in_code_of_mean": self.of_mean_N,
            "active_in_mean_of_codes": self.of_codes_N,
        }
        return {name: _mean(value_N) for name, value_N in figures.items()}


def mean_of_codes(sae: Coder, token_rows: Iterable[Any]) -> csr_array:
    """The mean of the tokens' codes of every item, (N, C) float32; `sae.encode` of pooled rows is the other.

    Args:
        token_rows: (L, D) for each item, the tokens that its pooled vector is the mean of. Blocks of about
            8192 tokens are encoded at a time.

    Raises:
        DataError: an item without tokens, or no item.
    """
    parts: list[csr_array] = []
    for rows_TD, length_B in _blocks(token_rows):
        codes = sae.encode(rows_TD)
        start = np.concatenate(([0], np.cumsum(length_B)))
        averaging = csr_array(
            (np.repeat(1.0 / length_B, length_B), np.arange(len(rows_TD)), start),
            shape=(len(length_B), len(rows_TD)),
        )
        parts.append(csr_array(averaging @ codes.astype(np.float64)))
    if not parts:
        raise DataError("There is no item to take the codes of.", do="Give the token rows of each item.")
    codes = csr_array(vstack(parts, format="csr"), dtype=np.float32)
    codes.sort_indices()
    return codes


def code_disagreement(sae: Coder, pooled_rows_ND: Any, token_rows: Iterable[Any]) -> CodeDisagreement:
    """Encode both ways and compare.

    Args:
        pooled_rows_ND: the pooled vector of each item.
        token_rows: (L, D) for each item, in the same order.

    Raises:
        UsageError: another number of pooled rows than of items.
        DataError: an item without tokens, or no item.
    """
    return compare_codes(sae.encode(pooled_rows_ND), mean_of_codes(sae, token_rows))


def compare_codes(code_of_mean: csr_array, mean_of_codes: csr_array) -> CodeDisagreement:
    """The figures of `CodeDisagreement` for codes (N, C) of the same items.

    Raises:
        UsageError: shapes that differ.
    """
    if code_of_mean.shape != mean_of_codes.shape:
        raise UsageError(
            f"Codes of shape {code_of_mean.shape} and {mean_of_codes.shape} are not of the same items.",
            do="Give one pooled row and one block of token rows for each item.",
        )
    u, v = (
        checked_codes(codes, what).astype(np.float64)
        for codes, what in ((code_of_mean, "Codes of means"), (mean_of_codes, "Means of codes"))
    )
    fires_u, fires_v = (csr_array((np.ones_like(c.data), c.indices, c.indptr), shape=c.shape) for c in (u, v))
    shared_N = _row_sums(fires_u * fires_v)
    active_u, active_v = np.diff(u.indptr), np.diff(v.indptr)
    l1_u, l1_v = _row_sums(abs(u)), _row_sums(abs(v))
    return CodeDisagreement(
        cosine_N=_ratio(_row_sums(u * v), np.sqrt(_row_sums(u * u) * _row_sums(v * v))),
        jaccard_N=_ratio(shared_N, active_u + active_v - shared_N),
        l1_share_N=_ratio(_row_sums(abs(v) * fires_u), l1_v),
        l1_distance_N=_ratio(_row_sums(abs(u - v)), l1_u + l1_v),
        of_mean_N=active_u.astype(np.int64),
        of_codes_N=active_v.astype(np.int64),
    )


def _blocks(token_rows: Iterable[Any]) -> Iterator[tuple[Any, Ints]]:
    """Tokens of consecutive items together, and how many belong to each; an item is never cut."""
    waiting: list[Any] = []
    tokens = 0
    for item, rows in enumerate(token_rows):
        rows_LD = np.asarray(rows, dtype=np.float32)
        if rows_LD.ndim != 2 or not len(rows_LD):
            raise DataError(
                f"Token rows of shape {rows_LD.shape} have no mean.",
                where=f"item {item}",
                do="Give at least one token (L, D) for each item.",
            )
        if waiting and tokens + len(rows_LD) > BLOCK_TOKENS:
            yield np.concatenate(waiting), np.array([len(part) for part in waiting])
            waiting, tokens = [], 0
        waiting.append(rows_LD)
        tokens += len(rows_LD)
    if waiting:
        yield np.concatenate(waiting), np.array([len(part) for part in waiting])


def _row_sums(codes: csr_array) -> Floats:
    return np.asarray(codes.sum(axis=1), dtype=np.float64).ravel()


def _ratio(above_N: Floats, below_N: Floats) -> Floats:
    return np.asarray(np.divide(above_N, below_N, out=np.full(len(above_N), np.nan), where=below_N > 0))


def _mean(value_N: Rows) -> float:
    defined = value_N[np.isfinite(value_N)]
    return float(defined.mean()) if len(defined) else float("nan")
