"""Means and spreads of a collection's vectors, by modality: what repairs are centred on and drift is told by.

Everything is of raw vectors brought to length 1. Legend of shapes: N rows of a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.metrics.geometry import effective_rank
from clearsight.moments import Moments
from clearsight.repair.affine import unit_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.store.door import View

Rows = NDArray[np.float32]
BATCH = 4096


@dataclass(frozen=True, eq=False)
class Spread:
    """Where vectors of one modality lie.

    Attributes:
        count: rows seen.
        mean_D: their mean; float64.
        trace: of their covariance.
        rank: effective rank of their covariance (Roy & Vetterli 2007); NaN for fewer than two rows.
    """

    count: int
    mean_D: NDArray[np.float64]
    trace: float
    rank: float

    @classmethod
    def of(cls, moments: Moments) -> Spread:
        count = int(moments.count)
        if count < 2:
            return cls(count, moments.mean_D, 0.0, float("nan"))
        variance_D = np.linalg.eigvalsh(moments.covariance_DD)
        return cls(count, moments.mean_D, moments.trace / (count - 1), effective_rank(variance_D.clip(min=0)))


@dataclass(frozen=True)
class Drift:
    """How far the vectors of today lie from those that a repair was fitted on.

    Attributes:
        side: query or candidate.
        errors: distance of the means in units of its standard error, root(trace / n + trace' / n'); about 1
            where nothing has moved.
        spreads: the same distance in units of the spread, root(trace): how much it matters.
        rank_before, rank_now: effective ranks.
    """

    side: str
    modality: str
    count: int
    errors: float
    spreads: float
    rank_before: float
    rank_now: float

    @property
    def moved(self) -> bool:
        """Whether it is both sure and large enough to matter."""
        return self.errors > SURE and self.spreads > MATTERS

    def sentence(self) -> str:
        what = {"query": "queries", "candidate": "items"}[self.side]
        return (
            f"The {what} of today ({self.modality}, {self.count:,}) lie {self.spreads:.2f} spreads "
            f"from those that the repair was fitted on ({self.errors:.0f} standard errors): refit it "
            "(clearsight index ... --refit)."
        )


SURE = 4.0
"""Standard errors; by chance the distance of two means of many directions is 1, give or take a fraction."""
MATTERS = 0.25
"""Spreads; moved by so much, the shift holds a sixteenth of the variance that tells vectors apart."""


def drift(before: Spread, now: Spread, *, side: str, modality: str) -> Drift:
    """Compare two sets of vectors of one modality, both with at least two rows."""
    distance = float(np.linalg.norm(now.mean_D - before.mean_D))
    error = float(np.sqrt(before.trace / before.count + now.trace / now.count))
    spread = float(np.sqrt(before.trace))
    return Drift(
        side,
        modality,
        now.count,
        distance / error if error else 0.0,
        distance / spread if spread else 0.0,
        before.rank,
        now.rank,
    )


def matrix(column: pa.Array | pa.ChunkedArray) -> Rows:
    """A column of vectors as rows, without a copy where it can be."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    rows_ND: Rows = whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), -1)
    return rows_ND


def raw_rows(
    view: View, column: str = "raw", *, ids: Any = None
) -> Iterator[tuple[list[str], NDArray[np.str_], Rows]]:
    """Ids, modalities and vectors of a store, block by block."""
    for batch in view.read(["id", "modality", column], ids=ids, batch_rows=BATCH):
        if batch.num_rows:
            modality_N = np.array(batch.column("modality").to_pylist(), dtype=str)
            yield batch.column("id").to_pylist(), modality_N, matrix(batch.column(column))


def moments_of(view: View, *, ids: Any = None) -> dict[str, Moments]:
    """Modality -> moments of the raw vectors, each of length 1."""
    found: dict[str, Moments] = {}
    for _, modality_N, rows_ND in raw_rows(view, ids=ids):
        for modality in np.unique(modality_N).tolist():
            found.setdefault(modality, Moments()).update(unit_rows(rows_ND[modality_N == modality]))
    return found
