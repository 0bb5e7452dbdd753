"""Repairs of rows that have no place in memory: fitted block by block, applied as rows are taken.

Legend of shapes: N rows of a block, D width in, E width out.
"""

from __future__ import annotations

from collections import Counter
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


LEAST_TO_RECENTRE = 32
"""Fewer rows than this keep the stored mean: their own would take the signal away with it."""


class RepairedRows:
    """A `RowSource` whose rows are repaired as they are taken.

    Args:
        source: rows as they were embedded.
        repair: fitted.
        recentre: as for `PerGroup.transform`; the rows are read once for it.

    Raises:
        DataError: the repair does not fit these rows (told by the first of them).
    """

    def __init__(self, source: RowSource, repair: PerGroup, *, recentre: bool = False) -> None:
        self.source, self.repair = source, repair
        first = repair.transform(source.take(np.arange(min(1, len(source)))))
        self._width, self._origin = first.width, first.origin
        self._mean: dict[str, NDArray[np.float32]] = {}
        if recentre:
            self._mean = self._means()
            *before, entry = first.origin["repairs"]
            entry = {**entry, "recentred": sorted(self._mean)}
            self._origin = {**first.origin, "repairs": (*before, entry)}

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
        side_N, modality_N = np.empty(len(at_N), "U16"), np.empty(len(at_N), "U16")
        names: list[str] = [""] * len(at_N)
        for tile in np.unique(at_N // TILE_ROWS):
            start = int(tile) * TILE_ROWS
            whole = self.source.take(np.arange(start, min(start + TILE_ROWS, len(self))))
            here_N = np.flatnonzero(at_N // TILE_ROWS == tile)
            inside_N = at_N[here_N] - start
            rows_NE[here_N] = self._repaired(whole)[inside_N]
            side_N[here_N], modality_N[here_N] = whole.side_N[inside_N], whole.modality_N[inside_N]
            for place, row in zip(here_N.tolist(), inside_N.tolist(), strict=True):
                names[place] = whole.ids[row]
        return Embeddings(tuple(names), rows_NE, side_N, modality_N, self._origin)

    def glance(self, index: NDArray[Any]) -> Embeddings:
        """As `take`, reading no other rows; the last bit of a row may differ from `take`'s."""
        block = self.source.take(index)
        return Embeddings(block.ids, self._repaired(block), block.side_N, block.modality_N, self._origin)

    def _repaired(self, block: Embeddings) -> NDArray[np.float32]:
        rows_NE = self.repair.transform(block).rows_ND
        for label, at_N in (labelled(block) if self._mean else {}).items():
            if label in self._mean:
                rows_NE[at_N] -= self._mean[label]
        return rows_NE

    def _means(self) -> dict[str, NDArray[np.float32]]:
        """Of the repaired rows of each label that has enough of them."""
        count: Counter[str] = Counter()
        total: dict[str, NDArray[np.float64]] = {}
        for block in blocks(self.source, FIT_ROWS):
            rows_NE = self.repair.transform(block).rows_ND
            for label, at_N in labelled(block).items():
                count[label] += len(at_N)
                total[label] = total.get(label, 0) + rows_NE[at_N].sum(axis=0, dtype=np.float64)
        enough = sorted(label for label, seen in count.items() if seen >= LEAST_TO_RECENTRE)
        return {label: (total[label] / count[label]).astype(np.float32) for label in enough}


def labelled(embeddings: Embeddings) -> dict[str, NDArray[np.int64]]:
    """ "side/modality" -> positions of its rows."""
    pairs = zip(embeddings.side_N.tolist(), embeddings.modality_N.tolist(), strict=True)
    label_N = np.array([f"{side}/{modality}" for side, modality in pairs], dtype=str)
    return {str(label): np.flatnonzero(label_N == label) for label in np.unique(label_N)}
