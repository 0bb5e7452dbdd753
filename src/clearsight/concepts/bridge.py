"""Which concepts tie images to texts: the bridge matrix, reduced to one figure a concept, tile by tile.

Legend of shapes: P pairs, C concepts, D width of activations, A concepts that fire in the pairs, T concepts
of a tile's side, B such blocks of concepts, E their B + 1 edges, S stored values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from scipy.sparse import csr_array

from clearsight.compiled import compiled
from clearsight.concepts.codes import Floats, Ints, Rows
from clearsight.progress import Progress, Silent

Reduction: TypeAlias = Literal["abs", "max", "offdiag", "sum"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
TILE = 2048


def bridge(
    image_codes: csr_array,
    text_codes: csr_array,
    dictionary_CD: Rows,
    *,
    tile: int = TILE,
    progress: Progress | None = None,
) -> dict[Reduction, Floats]:
    """One bridge score a concept, by every reduction, (C,) each (Feng et al. 2026, eq. 5).

    B_ij = E[z_img,i z_txt,j] <d_i, d_j> over matched rows. The paper does not say how the matrix becomes a
    score of a concept; offered are

    * ``abs``: sum of |B| over the concept's row and column (default wherever one is needed);
    * ``max``: the largest |B| of its row and column;
    * ``offdiag``: as ``abs`` without B_ii: ties to other concepts only;
    * ``sum``: signed sum of row and column, which is exactly the retrieval attribution.

    Of B only a tile of T x T exists at a time. Concepts that fire in no pair are left out, the others ordered
    by how much they belong to images or texts, so that tiles without a single co-activation are next to each
    other and cost nothing. Co-activations O(P K^2) and all sums are float64, products of directions are in
    the dtype of the dictionary.

    Args:
        image_codes, text_codes: (P, C), canonical, row p of one belongs to row p of the other; P >= 1.
        dictionary_CD: float32 or float64.
        tile: T.
        progress: told of tiles.
    """
    pairs, concepts = image_codes.shape
    order_A = _by_modality(image_codes, text_codes)
    reduced = _Reduced.zeros(len(order_A))
    if len(order_A):
        starts = np.arange(0, len(order_A), tile)
        image, text = (_Blocks.of(codes, order_A, starts) for codes in (image_codes, text_codes))
        tiles = list(_occupied(image, text, len(starts)))
        progress = progress or Silent()
        progress.start(len(tiles), "bridge scores")
        try:
            for a, b, found in _tiles(tiles, image, text, dictionary_CD, order_A):
                for one in found:
                    reduced.add(one, starts[a], starts[b])
                progress.advance()
        finally:
            progress.close()
    return reduced.scores(order_A, concepts, pairs)


def _tiles(
    tiles: Sequence[tuple[int, int]], image: _Blocks, text: _Blocks, dictionary_CD: Rows, order_A: Ints
) -> Iterator[tuple[int, int, list[tuple[Floats, ...]]]]:
    """What `_add_tile` finds in B_ab and in B_ba, which share one tile of products of directions."""
    kernel: Callable[..., tuple[Floats, ...]] = compiled(_add_tile, any_order=True)
    blocks = np.split(order_A, image.starts[1:])
    side = max(map(len, blocks))
    space = [np.empty((side, side)) for _ in range(2)]
    row, rows_TD = -1, dictionary_CD[:0]
    with ThreadPoolExecutor(2) as threads:
        for a, b in tiles:
            if a != row:
                row, rows_TD = a, dictionary_CD[blocks[a]]
            products_TT = rows_TD @ dictionary_CD[blocks[b]].T
            ways = [(image, text)] if a == b else [(image, text), (text, image)]
            jobs = [
                threads.submit(kernel, *left.tile(a), *right.tile(b), products_TT, room_TT, a == b)
                for (left, right), room_TT in zip(ways, space, strict=False)
            ]
            yield a, b, [job.result() for job in jobs]


def _by_modality(image_codes: csr_array, text_codes: csr_array) -> Ints:
    """Concepts that fire in any pair, from those of images alone to those of texts alone."""
    image_C, text_C = (np.bincount(c.indices, minlength=c.shape[1]) for c in (image_codes, text_codes))
    fires_A = np.flatnonzero(image_C + text_C)
    share_A = text_C[fires_A] / (image_C[fires_A] + text_C[fires_A])
    return np.asarray(fires_A[np.argsort(share_A, kind="stable")], dtype=np.int64)


def _occupied(image: _Blocks, text: _Blocks, blocks: int) -> Iterator[tuple[int, int]]:
    """Tiles on and above the diagonal in which any pair has a co-activation, either way round."""
    image_BP, text_BP = (np.diff(side.start_EP, axis=0) > 0 for side in (image, text))
    for a in range(blocks):
        for b in range(a, blocks):
            if (image_BP[a] & text_BP[b]).any() or (image_BP[b] & text_BP[a]).any():
                yield a, b


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Codes of one side in the order of tiles, and where each pair's values of a tile start."""

    value: Rows
    concept: Ints
    start_EP: Ints
    starts: Ints

    @classmethod
    def of(cls, codes: csr_array, order_A: Ints, starts: Ints) -> _Blocks:
        place_C = np.zeros(codes.shape[1], dtype=codes.indices.dtype)
        place_C[order_A] = np.arange(len(order_A))
        moved = csr_array(
            (codes.data.copy(), place_C[codes.indices], codes.indptr), shape=(codes.shape[0], len(order_A))
        )
        moved.sort_indices()
        # Row by row the concepts ascend, so a tile's values of a pair are one slice.
        row_S = np.repeat(np.arange(codes.shape[0]), np.diff(moved.indptr))
        block_S = np.searchsorted(starts, moved.indices, side="right") - 1
        count = np.bincount(block_S * codes.shape[0] + row_S, minlength=len(starts) * codes.shape[0])
        start_EP = np.empty((len(starts) + 1, codes.shape[0]), dtype=np.int64)
        start_EP[0] = moved.indptr[:-1]
        start_EP[1:] = start_EP[0] + count.reshape(len(starts), -1).cumsum(axis=0)
        return cls(moved.data, moved.indices, start_EP, starts)

    def tile(self, block: int) -> tuple[Rows, Ints, Ints, Ints, int]:
        return (
            self.value,
            self.concept,
            self.start_EP[block],
            self.start_EP[block + 1],
            int(self.starts[block]),
        )


@dataclass(frozen=True, eq=False)
class _Reduced:
    """Sums over rows and columns, in the order of tiles."""

    abs_A: Floats
    max_A: Floats
    sum_A: Floats
    own_A: Floats

    @classmethod
    def zeros(cls, fires: int) -> _Reduced:
        return cls(*(np.zeros(fires) for _ in range(4)))

    def add(self, found: tuple[Floats, ...], row: int, column: int) -> None:
        """Take over what one tile gave: (absolute, largest, signed) by row, the same by column, diagonal."""
        for start, (absolute, largest, signed) in ((row, found[:3]), (column, found[3:6])):
            place = slice(start, start + len(absolute))
            self.abs_A[place] += absolute
            self.sum_A[place] += signed
            np.maximum(self.max_A[place], largest, out=self.max_A[place])
        self.own_A[row : row + len(found[6])] += found[6]

    def scores(self, order_A: Ints, concepts: int, pairs: int) -> dict[Reduction, Floats]:
        by_name: Mapping[Reduction, Floats] = {
            "abs": self.abs_A,
            "max": self.max_A,
            "offdiag": np.maximum(self.abs_A - 2 * np.abs(self.own_A), 0),
            "sum": self.sum_A,
        }
        scores: dict[Reduction, Floats] = {}
        for name in REDUCTIONS:
            scores[name] = np.zeros(concepts)
            scores[name][order_A] = by_name[name] / pairs
        return scores


def _add_tile(
    left_value: Rows,
    left_concept: Ints,
    left_start: Ints,
    left_end: Ints,
    left_first: int,
    right_value: Rows,
    right_concept: Ints,
    right_start: Ints,
    right_end: Ints,
    right_first: int,
    products_TT: Rows,
    space_TT: Floats,
    diagonal: bool,
) -> tuple[Floats, ...]:
    """One tile of sum_pairs(z_left z_right^T) * products, reduced by row, by column, and its diagonal."""
    rows, columns = products_TT.shape
    together_TT = space_TT[:rows, :columns]
    together_TT[:] = 0.0
    for pair in range(len(left_start)):
        for i in range(left_start[pair], left_end[pair]):
            value = np.float64(left_value[i])
            line_T = together_TT[left_concept[i] - left_first]
            for j in range(right_start[pair], right_end[pair]):
                line_T[right_concept[j] - right_first] += value * np.float64(right_value[j])
    row_abs, row_max, row_sum = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    column_abs, column_max, column_sum = np.zeros(columns), np.zeros(columns), np.zeros(columns)
    own = np.zeros(rows if diagonal else 0)
    for i in range(rows):
        total, signed, largest = 0.0, 0.0, 0.0
        for j in range(columns):
            entry = together_TT[i, j] * np.float64(products_TT[i, j])
            size = abs(entry)
            total += size
            signed += entry
            largest = max(largest, size)
            column_abs[j] += size
            column_sum[j] += entry
            column_max[j] = max(column_max[j], size)
        row_abs[i], row_sum[i], row_max[i] = total, signed, largest
        if diagonal:
            own[i] = together_TT[i, i] * np.float64(products_TT[i, i])
    return row_abs, row_max, row_sum, column_abs, column_max, column_sum, own
