"""What the concepts' directions are like among themselves, beside the encoder, and under another seed.

Every product of directions is taken a tile at a time: nothing of size C x C is ever held.

Legend of shapes: C concepts, E concepts of another autoencoder, D width, M neighbours kept of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from clearsight.errors import DataError, UsageError
from clearsight.metrics.geometry import effective_rank as rank_of_spectrum

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

TILE = 2048
"""Concepts on either side of a tile: 16 MB of cosines, float32."""

SHARED = 0.7
"""Two seeds share a concept when its matched cosine is at least this (Paulo & Belrose 2025)."""


@dataclass(frozen=True, eq=False)
class Coherence:
    """How near directions of different concepts come.

    Attributes:
        largest: the mutual coherence, max |cos| of two different concepts, 0..1; lower is better spread.
        pair: the two.
        mean: mean over concepts of their largest |cos| to another.
        floor: the Welch bound sqrt((C - D) / (D (C - 1))): no C directions of D dimensions go below it.
        nearest_C: each concept's largest |cos| to another.
    """

    largest: float
    pair: tuple[int, int]
    mean: float
    floor: float
    nearest_C: Singles


@dataclass(frozen=True, eq=False)
class Stability:
    """How far two dictionaries of different seeds hold the same concepts; 1 is all, higher is better.

    Attributes:
        mmcs: mean over the first's concepts of their largest cosine to one of the second's (Sharkey et al.
            2022). mmcs_back: the other way round.
        matched: mean cosine of the one-to-one matching with the largest sum (Hungarian), over the smaller
            side; concepts left alone, and pairs below 0, count 0.
        matched_limit: no matching is better than this: where `exact`, `matched` itself.
        exact: the matching was found among all pairs; otherwise among near neighbours, so that `matched` is a
            lower bound.
        shared: share of the smaller side whose matched cosine is at least the threshold.
        partner_C: each concept's partner in the second dictionary, -1 for none.
        cosine_C: their cosine, 0 for none.
    """

    mmcs: float
    mmcs_back: float
    matched: float
    matched_limit: float
    exact: bool
    shared: float
    partner_C: Ints
    cosine_C: Singles


def coherence(dictionary_CD: NDArray[Any], *, tile: int = TILE) -> Coherence:
    """Mutual coherence of the directions (Donoho & Huo 2001), tile by tile. A row of zeros has cosine 0.

    Raises:
        DataError: fewer than two concepts, NaN or infinity.
    """
    unit_CD = _directions(dictionary_CD, least=2)
    concepts, width = unit_CD.shape
    nearest_C = np.full(concepts, -1, dtype=np.float32)
    largest, pair = -1.0, (0, 1)
    for left, right, cosines in _tiles(unit_CD, unit_CD, tile):
        if right.start < left.start:  # |cos| is symmetric
            continue
        size = np.abs(cosines)
        if left == right:
            np.fill_diagonal(size, -1)
        np.maximum(nearest_C[left], size.max(axis=1), out=nearest_C[left])
        np.maximum(nearest_C[right], size.max(axis=0), out=nearest_C[right])
        if size.max() > largest:
            row, column = divmod(int(size.argmax()), size.shape[1])
            largest, pair = float(size.max()), (left.start + row, right.start + column)
    floor = np.sqrt(max(concepts - width, 0) / (width * (concepts - 1)))
    nearest_C = np.minimum(nearest_C, 1)
    return Coherence(
        min(largest, 1.0), pair, float(nearest_C.mean(dtype=np.float64)), float(floor), nearest_C
    )


def effective_rank(dictionary_CD: NDArray[Any], *, tile: int = TILE) -> float:
    """exp of the entropy of the singular values of the directions over their sum (Roy & Vetterli 2007).

    Range 1..min(C, D), higher uses more dimensions; NaN where every row is zero.

    Raises:
        DataError: no concept, NaN or infinity.
    """
    unit_CD = _directions(dictionary_CD)
    gram_DD = np.zeros((unit_CD.shape[1], unit_CD.shape[1]))
    for start in range(0, len(unit_CD), tile):
        part_CD = unit_CD[start : start + tile].astype(np.float64)
        gram_DD += part_CD.T @ part_CD
    return rank_of_spectrum(np.asarray(np.linalg.eigvalsh(gram_DD), dtype=np.float64))


def encoder_decoder_cosine(encoder_CD: NDArray[Any], decoder_CD: NDArray[Any]) -> Singles:
    """Cosine of each concept's encoder row and decoder row, (C,), -1..1.

    Low where the encoder reads something else than it writes. A row of zeros has cosine 0.

    Raises:
        DataError: shapes that differ, NaN or infinity.
    """
    if np.shape(encoder_CD) != np.shape(decoder_CD):
        raise DataError(
            f"Encoder {np.shape(encoder_CD)} and decoder {np.shape(decoder_CD)} differ.",
            do="Give both as (C, D).",
        )
    cosine_C: Singles = np.einsum("cd,cd->c", _directions(encoder_CD), _directions(decoder_CD))
    return np.clip(cosine_C, -1, 1)


def stability(
    first_CD: NDArray[Any],
    second_ED: NDArray[Any],
    *,
    threshold: float = SHARED,
    exact_to: int = TILE,
    neighbours: int = 32,
    tile: int = TILE,
) -> Stability:
    """Compare the dictionaries of two seeds: MMCS both ways, and the Hungarian matching.

    Up to `exact_to` concepts the matching is found among all pairs. Beyond, only pairs in which one is among
    the `neighbours` nearest of the other are candidates: the sum found is a lower bound of the best, and
    `matched_limit` an upper one, for memory of (C + E) neighbours.

    Raises:
        DataError: widths that differ, no concept, NaN or infinity.
        UsageError: fewer than one neighbour.
    """
    if neighbours < 1 or tile < 1:
        raise UsageError(f"neighbours is {neighbours}, tile is {tile}.", do="Give at least 1 each.")
    first, second = _directions(first_CD), _directions(second_ED)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"One dictionary has width {first.shape[1]}, the other {second.shape[1]}.",
            do="Compare autoencoders of the same layer of the same model.",
        )
    exact = max(len(first), len(second)) <= exact_to
    ahead, back = _Nearest(len(first), neighbours), _Nearest(len(second), neighbours)
    cosines_CE = np.zeros((len(first), len(second)), dtype=np.float32) if exact else None
    for left, right, cosines in _tiles(first, second, tile):
        ahead.offer(left, right.start, cosines)
        back.offer(right, left.start, np.ascontiguousarray(cosines.T))
        if cosines_CE is not None:
            cosines_CE[left, right] = cosines
    partner_C = _hungarian(cosines_CE) if cosines_CE is not None else _among_neighbours(ahead, back)
    has_C = partner_C >= 0
    cosine_C = np.zeros(len(first), dtype=np.float32)
    cosine_C[has_C] = np.einsum("cd,cd->c", first[has_C], second[partner_C[has_C]])
    cosine_C = np.clip(cosine_C, 0, 1)
    smaller = min(len(first), len(second))
    matched = float(cosine_C.sum(dtype=np.float64)) / smaller
    limit = min(_best_sum(ahead.best, smaller), _best_sum(back.best, smaller)) / smaller
    return Stability(
        mmcs=float(ahead.best.mean(dtype=np.float64)),
        mmcs_back=float(back.best.mean(dtype=np.float64)),
        matched=matched,
        matched_limit=matched if exact else max(limit, matched),
        exact=exact,
        shared=float((cosine_C >= threshold).sum()) / smaller,
        partner_C=partner_C,
        cosine_C=cosine_C,
    )


def seed_stability(dictionaries: Sequence[NDArray[Any]], **options: Any) -> dict[tuple[int, int], Stability]:
    """`stability` of every two of several seeds, by their positions.

    Raises:
        UsageError: fewer than two dictionaries. DataError: as `stability`.
    """
    if len(dictionaries) < 2:
        raise UsageError("One dictionary has nothing to be compared with.", do="Give two seeds or more.")
    return {
        (i, j): stability(dictionaries[i], dictionaries[j], **options)
        for i in range(len(dictionaries))
        for j in range(i + 1, len(dictionaries))
    }


class _Nearest:
    """The M largest cosines of each row, gathered tile by tile."""

    def __init__(self, rows: int, kept: int) -> None:
        self.cosine_CM = np.full((rows, kept), -np.inf, dtype=np.float32)
        self.index_CM = np.full((rows, kept), -1, dtype=np.int64)

    def offer(self, rows: slice, first: int, cosines: Singles) -> None:
        """A tile of the rows' cosines; its columns are `first` and the following."""
        kept = self.cosine_CM.shape[1]
        if cosines.shape[1] > kept:
            index = np.argpartition(cosines, -kept, axis=1)[:, -kept:]
            cosines = np.take_along_axis(cosines, index, axis=1)
        else:
            index = np.broadcast_to(np.arange(cosines.shape[1]), cosines.shape)
        both = np.concatenate([self.cosine_CM[rows], cosines], axis=1)
        where = np.concatenate([self.index_CM[rows], index + first], axis=1)
        order = np.argpartition(both, -kept, axis=1)[:, -kept:]
        self.cosine_CM[rows] = np.take_along_axis(both, order, axis=1)
        self.index_CM[rows] = np.take_along_axis(where, order, axis=1)

    @property
    def best(self) -> Singles:
        best_C: Singles = np.clip(self.cosine_CM.max(axis=1), -1, 1)
        return best_C

    def edges(self) -> tuple[Ints, Ints, Floats]:
        """(row, neighbour, cosine) of the positive ones."""
        rows, slots = np.nonzero((self.cosine_CM > 0) & (self.index_CM >= 0))
        return rows, self.index_CM[rows, slots], self.cosine_CM[rows, slots].astype(np.float64)


def _hungarian(cosines_CE: Singles) -> Ints:
    """Partners of the exact matching; a pair that is not above 0 is none."""
    rows, columns = linear_sum_assignment(np.maximum(cosines_CE, 0), maximize=True)
    partner_C = np.full(len(cosines_CE), -1, dtype=np.int64)
    good = cosines_CE[rows, columns] > 0
    partner_C[rows[good]] = columns[good]
    return partner_C


def _among_neighbours(ahead: _Nearest, back: _Nearest) -> Ints:
    """Partners of the best matching among near neighbours; everybody may stay alone, at a cosine of 0."""
    concepts, others = len(ahead.cosine_CM), len(back.cosine_CM)
    row_a, column_a, cosine_a = ahead.edges()
    column_b, row_b, cosine_b = back.edges()
    pair_S, kept_S = np.unique(
        np.concatenate([row_a, row_b]) * others + np.concatenate([column_a, column_b]), return_index=True
    )
    alone = np.arange(concepts)
    # The solver takes a cost of 0 for no edge; 2 - cos is above it. Who stays alone has a column of its own.
    costs = np.concatenate([2 - np.concatenate([cosine_a, cosine_b])[kept_S], np.full(concepts, 2.0)])
    rows = np.concatenate([pair_S // others, alone])
    columns = np.concatenate([pair_S % others, others + alone])
    graph = csr_array((costs, (rows, columns)), shape=(concepts, others + concepts))
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph)
    partner_C = np.full(concepts, -1, dtype=np.int64)
    partner_C[matched_rows] = np.where(matched_columns < others, matched_columns, -1)
    return partner_C


def _best_sum(best_C: Singles, count: int) -> float:
    """Sum of the `count` largest, none below 0."""
    return float(np.sort(np.maximum(best_C, 0))[-count:].sum(dtype=np.float64))


def _tiles(left_CD: Singles, right_ED: Singles, tile: int) -> Iterator[tuple[slice, slice, Singles]]:
    """Row and column slices of the products left @ right.T, and the products."""
    for row in range(0, len(left_CD), tile):
        rows = slice(row, min(row + tile, len(left_CD)))
        for column in range(0, len(right_ED), tile):
            columns = slice(column, min(column + tile, len(right_ED)))
            yield rows, columns, left_CD[rows] @ right_ED[columns].T


def _directions(matrix_CD: NDArray[Any], *, least: int = 1) -> Singles:
    """Rows of length 1, float32, lengths taken in float64; zero rows stay zero."""
    given = np.asarray(matrix_CD)
    if given.ndim != 2 or len(given) < least or not given.shape[1]:
        raise DataError(f"A dictionary of shape {given.shape}.", do=f"Give (C, D), C at least {least}.")
    if not np.isfinite(given).all():
        raise DataError("A dictionary holds NaN or infinity.", do="Train again, or from another checkpoint.")
    unit_CD = np.empty(given.shape, dtype=np.float32)
    for start in range(0, len(given), TILE):
        part_CD = given[start : start + TILE].astype(np.float64)
        length_C1 = np.linalg.norm(part_CD, axis=1, keepdims=True)
        unit_CD[start : start + TILE] = part_CD / np.where(length_C1 > 0, length_C1, 1)
    return unit_CD
