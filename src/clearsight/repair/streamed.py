"""Repairs of rows that have no place in memory: fitted block by block, applied as rows are taken.

Legend of shapes: N rows of a block, D width in, E width out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from clearsight.errors import DataError, UsageError
from clearsight.repair.affine import unit_rows
from clearsight.types import Embeddings, RowSource

if TYPE_CHECKING:
    from clearsight.repair.groups import PerGroup

FIT_ROWS = 4096
TILE_ROWS = 512
"""Rows are repaired in tiles that begin at its multiples: a product rounds by its shape, and so a row has the
same bits whatever it is taken with."""


@runtime_checkable
class FitsInBlocks(Protocol):
    def partial_fit(self, X: Any, y: Any = None) -> Any: ...


def fit_in_blocks(whole: PerGroup, parts: Sequence[RowSource]) -> PerGroup:
    """`PerGroup.fit` with one block of rows in memory; statistics agree with it to 1e-10.

    Raises:
        DataError: as `PerGroup.fit`.
        UsageError: the estimator needs all rows at once.
    """
    if not isinstance(whole.estimator, FitsInBlocks):
        raise UsageError(
            f"{type(whole.estimator).__name__} needs all rows at once.",
            do="Fit it on a sample: `repair.fit(rows.take(positions))`.",
        )
    if len({part.width for part in parts}) > 1:
        raise DataError(f"Rows of widths {sorted({part.width for part in parts})} are not one space.")
    repairs: dict[str, Any] = {}
    seen: dict[str, Variety] = {}
    for block in (block for part in parts for block in blocks(part, FIT_ROWS)):
        for group, index_N in whole._groups(block).items():
            rows_ND = block.rows_ND[index_N]
            seen.setdefault(group, Variety(rows_ND)).add(rows_ND)
            repairs.setdefault(group, clone(whole.estimator)).partial_fit(rows_ND)
    if not repairs:
        raise DataError("There are no rows to fit on.")
    for group, variety in seen.items():
        variety.require(group)
    whole.repairs_, whole._digest = repairs, None
    return whole


class Variety:
    """Whether rows seen block by block point in more than one direction."""

    def __init__(self, rows_ND: NDArray[np.float32]) -> None:
        self._first_1D = unit_rows(rows_ND[:1])
        self._count, self._same = 0, True

    def add(self, rows_ND: NDArray[np.float32]) -> None:
        self._count += len(rows_ND)
        self._same = self._same and np.allclose(unit_rows(rows_ND), self._first_1D, rtol=0, atol=1e-7)

    def require(self, group: str) -> None:
        """Raises DataError."""
        if self._count < 2:
            raise DataError(
                f"A repair cannot be fitted on {self._count} row.",
                where=group,
                do="Give at least two rows, or use statistics of another set (fit_on).",
            )
        if self._same:
            raise DataError(
                f"All {self._count} rows have the same direction.", where=group, do="Check what was embedded."
            )


def blocks(source: RowSource, size: int) -> Iterator[Embeddings]:
    """The rows in order, `size` at a time."""
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))


class RepairedRows:
    """A `RowSource` whose rows are repaired as they are taken.

    Args:
        source: rows as they were embedded.
        repair: fitted.

    Raises:
        DataError: the repair does not fit these rows (told by the first of them).
    """

    def __init__(self, source: RowSource, repair: PerGroup) -> None:
        self.source, self.repair = source, repair
        first = repair.transform(source.take(np.arange(min(1, len(source)))))
        self._width, self._origin = first.width, first.origin

    @property
    def ids(self) -> Sequence[str]:
        return self.source.ids

    @property
    def width(self) -> int:
        return self._width

    @property
    def origin(self) -> Mapping[str, Any]:
        return self._origin

    def __len__(self) -> int:
        return len(self.source)

    def take(self, index: NDArray[Any]) -> Embeddings:
        """The rows at `index` (positions), repaired, in that order."""
        at_N = np.asarray(index, dtype=np.int64)
        rows_NE = np.empty((len(at_N), self.width), np.float32)
        for tile in np.unique(at_N // TILE_ROWS):
            start = int(tile) * TILE_ROWS
            whole = self.source.take(np.arange(start, min(start + TILE_ROWS, len(self))))
            here_N = np.flatnonzero(at_N // TILE_ROWS == tile)
            rows_NE[here_N] = self.repair.transform(whole).rows_ND[at_N[here_N] - start]
        taken = self.source.take(at_N)
        return Embeddings(taken.ids, rows_NE, taken.side_N, taken.modality_N, self._origin)
