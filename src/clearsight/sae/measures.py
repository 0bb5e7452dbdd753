"""How well an autoencoder gives its rows back, and how sparsely: streamed, float64, split by any labels.

All sums run over rows x, reconstructions y and codes a. m is the mean of the rows of the same split, so that
a split by modality is not flattered by the distance between the modalities.

Legend of shapes: N rows, B rows of a block, D width, C concepts, H bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from clearsight.errors import DataError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = Sequence[str] | NDArray[Any]

EVERYTHING = "all"
"""The name of the split that holds every row."""

BLOCK_ROWS = 4096
DENSITY_EDGES = np.arange(-7, 0.01, 0.25)
"""Quarter decades from one row in ten million to every row."""

_NOISE = 1e-24
"""Variance below this share of the squared lengths is rounding of float64: the rows do not vary."""


class Autoencoder(Protocol):
    """What is measured (`clearsight.sae.SparseAutoencoder` is one)."""

    def encode(self, rows_ND: Any) -> csr_array:
        """Rows to codes (N, C)."""

    def decode(self, codes: csr_array) -> NDArray[np.float32]:
        """Codes to rows (N, D)."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """How one split of rows comes back.

    Attributes:
        rows: how many.
        nmse: sum |x - y|^2 / sum |x - m|^2. The denominator is the variance: 0 is perfect, 1 no better than
            the mean, above 1 worse. NaN where the rows do not vary.
        explained_variance: 1 - nmse: one ratio of sums over all rows and dimensions, not a mean of ratios.
        nmse_length: sum |x - y|^2 / sum |x|^2. The denominator is the squared length, which a large common
            mean flatters; for comparison with figures that were computed so.
        r2_scalar: overcomplete's R2: as explained_variance, but m is one number, the mean of all entries.
        cosine: mean cosine of x and y, -1..1; a row of zeros counts 0.
        l0: mean number of concepts of a row. l1: mean sum |a| of a row.
        shrinkage: sum |y|^2 / sum x.y (Rajamanoharan et al. 2024, gated SAE, eq. 10): the factor by which
            y is longer than the multiple of it that fits best; below 1 it shrinks.
        length_ratio: mean |y| / |x| over rows that are not zero.
        dead: share of concepts that fire on none of these rows, 0..1: depends on how many rows there are.
        rate_C: share of the rows on which each concept fires, 0..1.
    """

    rows: int
    nmse: float
    explained_variance: float
    nmse_length: float
    r2_scalar: float
    cosine: float
    l0: float
    l1: float
    shrinkage: float
    length_ratio: float
    dead: float
    rate_C: Floats

    def density(self, edges_H: Floats = DENSITY_EDGES) -> Ints:
        """How many concepts have log10 of their firing rate in each bin (H - 1,); dead ones in none.

        Bins hold their left edge; the first also holds every lower rate, the last every higher one.
        """
        log_C = np.log10(self.rate_C[self.rate_C > 0])
        inside_C = np.clip(log_C, edges_H[0], edges_H[-1])
        counts_H: Ints = np.histogram(inside_C, bins=edges_H)[0].astype(np.int64)
        return counts_H

    def figures(self) -> dict[str, float]:
        """The numbers by name, without the vector."""
        return {name: value for name, value in vars(self).items() if name != "rate_C"}


class _Sums:
    """What one split needs, whatever the number of its rows."""

    def __init__(self, width: int, concepts: int) -> None:
        self.rows = 0
        self.mean_D = np.zeros(width)
        self.scatter = 0.0
        self.error = self.square = self.square_back = self.inner = 0.0
        self.cosine = self.ratio = self.absolute = 0.0
        self.not_zero = self.codes = 0
        self.fired_C = np.zeros(concepts, dtype=np.int64)

    def add(self, rows_BD: Floats, back_BD: Floats, codes: csr_array) -> None:
        count = len(rows_BD)
        if not count:
            return
        mean_D = rows_BD.mean(axis=0)
        total = self.rows + count
        # Chan, Golub and LeVeque (1983, eq. 2.1): squares about the mean stay exact where the mean is large.
        apart_D = mean_D - self.mean_D
        self.scatter += float(((rows_BD - mean_D) ** 2).sum())
        self.scatter += float(apart_D @ apart_D) * self.rows * count / total
        self.mean_D += apart_D * (count / total)
        self.rows = total
        square_B = np.einsum("bd,bd->b", rows_BD, rows_BD)
        back_B = np.einsum("bd,bd->b", back_BD, back_BD)
        inner_B = np.einsum("bd,bd->b", rows_BD, back_BD)
        self.error += float(((rows_BD - back_BD) ** 2).sum())
        self.square += float(square_B.sum())
        self.square_back += float(back_B.sum())
        self.inner += float(inner_B.sum())
        lengths_B = np.sqrt(square_B) * np.sqrt(back_B)
        self.cosine += float(np.divide(inner_B, lengths_B, out=np.zeros(count), where=lengths_B > 0).sum())
        some_B = square_B > 0
        self.ratio += float(np.sqrt(back_B[some_B] / square_B[some_B]).sum())
        self.not_zero += int(some_B.sum())
        fires = codes.data != 0
        self.codes += int(fires.sum())
        self.absolute += float(np.abs(codes.data, dtype=np.float64).sum())
        self.fired_C += np.bincount(codes.indices[fires], minlength=len(self.fired_C))

    def figures(self) -> Reconstruction:
        varies = self.scatter > _NOISE * self.square
        nmse = self.error / self.scatter if varies else float("nan")
        spread_D = self.mean_D - self.mean_D.mean()
        about_number = self.scatter + self.rows * float(spread_D @ spread_D)
        return Reconstruction(
            rows=self.rows,
            nmse=nmse,
            explained_variance=1 - nmse,
            nmse_length=_ratio(self.error, self.square),
            r2_scalar=1 - _ratio(self.error, about_number),
            cosine=_ratio(self.cosine, self.rows),
            l0=_ratio(self.codes, self.rows),
            l1=_ratio(self.absolute, self.rows),
            shrinkage=_ratio(self.square_back, self.inner),
            length_ratio=_ratio(self.ratio, self.not_zero),
            dead=float((self.fired_C == 0).mean()),
            rate_C=self.fired_C / max(self.rows, 1),
        )


class ReconstructionMeasures:
    """The measures of a stream of blocks: feed it with `update`, read `results` at any time.

    Memory: one float64 vector (D,) and one of counts (C,) a split.

    Args:
        width, concepts: D and C of the autoencoder.
    """

    def __init__(self, width: int, concepts: int) -> None:
        self._shape = (width, concepts)
        self._splits: dict[str, _Sums] = {EVERYTHING: _Sums(width, concepts)}

    def update(
        self,
        rows_BD: NDArray[Any] | Tensor,
        codes: csr_array,
        back_BD: NDArray[Any],
        labels: Labels | Mapping[str, Labels] | None = None,
    ) -> None:
        """Add a block of rows, their codes (B, C) and reconstructions (B, D).

        Args:
            labels: one text a row; or several kinds of them by name, such as modality and token_type, whose
                splits are then called "modality=image" and so on.

        Raises:
            DataError: shapes that do not fit one another or the autoencoder; NaN or infinity.
        """
        rows = _float64(rows_BD)
        back = _float64(back_BD)
        width, concepts = self._shape
        if (
            rows.shape != (len(rows), width)
            or back.shape != rows.shape
            or codes.shape != (len(rows), concepts)
        ):
            raise DataError(
                f"Rows {rows.shape}, codes {codes.shape} and reconstructions {back.shape} do not fit an "
                f"autoencoder of width {width} with {concepts} concepts.",
                do="Give a block of rows with what the autoencoder made of them.",
            )
        if not (np.isfinite(rows).all() and np.isfinite(back).all() and np.isfinite(codes.data).all()):
            raise DataError("A row, code or reconstruction holds NaN or infinity.", do="Leave such rows out.")
        self._splits[EVERYTHING].add(rows, back, codes)
        for split, chosen_B in _splits(labels, len(rows)):
            sums = self._splits.setdefault(split, _Sums(width, concepts))
            sums.add(rows[chosen_B], back[chosen_B], codes[np.flatnonzero(chosen_B)])

    def results(self) -> dict[str, Reconstruction]:
        """ "all", then each split in the order of its name. Raises DataError where there was no row."""
        if not self._splits[EVERYTHING].rows:
            raise DataError("There was no row to measure.", do="Give at least one row.")
        named = sorted(set(self._splits) - {EVERYTHING})
        return {name: self._splits[name].figures() for name in (EVERYTHING, *named)}


def measure_reconstruction(
    sae: Autoencoder,
    rows_ND: NDArray[Any] | Tensor,
    labels: Labels | Mapping[str, Labels] | None = None,
    *,
    block: int = BLOCK_ROWS,
) -> dict[str, Reconstruction]:
    """Encode, decode and measure rows that are at hand, a block at a time.

    Args:
        labels: as in `ReconstructionMeasures.update`.

    Returns:
        "all" and one entry a split.

    Raises:
        DataError: no row, another width than the autoencoder's, NaN or infinity, labels of another length.
        UsageError: a block below 1.
    """
    if block < 1:
        raise UsageError(f"block is {block}.", do="Give at least 1 row.")

    def blocks() -> Iterator[tuple[NDArray[Any] | Tensor, Any]]:
        for start in range(0, len(rows_ND), block):
            part = slice(start, start + block)
            yield rows_ND[part], _part(labels, part, len(rows_ND))

    return measure_stream(sae, blocks())


def measure_stream(
    sae: Autoencoder, blocks: Iterable[tuple[NDArray[Any] | Tensor, Labels | Mapping[str, Labels] | None]]
) -> dict[str, Reconstruction]:
    """Encode, decode and measure (rows_BD, labels) as they come. Raises as `measure_reconstruction` does."""
    measures: ReconstructionMeasures | None = None
    for rows_BD, labels in blocks:
        codes = sae.encode(rows_BD)
        back_BD = sae.decode(codes)
        if measures is None:
            measures = ReconstructionMeasures(back_BD.shape[1], codes.shape[1])
        measures.update(rows_BD, codes, back_BD, labels)
    if measures is None:
        raise DataError("There was no row to measure.", do="Give at least one row.")
    return measures.results()


def _splits(
    labels: Labels | Mapping[str, Labels] | None, count: int
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and rows of each split of a block."""
    kinds = labels if isinstance(labels, Mapping) else {"": labels} if labels is not None else {}
    for kind, texts in kinds.items():
        label_B = np.asarray(texts, dtype=str)
        if label_B.shape != (count,):
            raise DataError(
                f"{len(label_B)} labels do not fit {count} rows.", where=kind or None, do="Give one a row."
            )
        for value in np.unique(label_B):
            name = f"{kind}={value}" if kind else str(value)
            if name == EVERYTHING:
                raise UsageError(f"'{EVERYTHING}' is the split of every row.", do="Call the label otherwise.")
            yield name, label_B == value


def _part(labels: Labels | Mapping[str, Labels] | None, part: slice, count: int) -> Any:
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return {kind: _part(texts, part, count) for kind, texts in labels.items()}
    if len(labels) != count:
        raise DataError(f"{len(labels)} labels do not fit {count} rows.", do="Give one a row.")
    return labels[part]


def _float64(rows: NDArray[Any] | Tensor) -> Floats:
    if isinstance(rows, Tensor):  # bfloat16 has no counterpart in numpy
        return rows.detach().double().cpu().numpy()
    return np.asarray(rows, dtype=np.float64)


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
