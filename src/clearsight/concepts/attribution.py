"""How much each concept adds to the similarity of matched images and texts, without a matrix C x C.

Legend of shapes: P pairs, C concepts, D width of activations.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import csr_array

from clearsight.compiled import compiled
from clearsight.concepts.codes import Floats, Ints, Rows

PARTS = 16
"""The pairs are summed in so many parts, whatever the number of threads: the same sums on every machine."""


def attribution(image_codes: csr_array, text_codes: csr_array, dictionary_CD: Rows) -> Floats:
    """Retrieval attribution of each concept, (C,) (Feng et al. 2026, eq. 6, with M = D D^T).

    A = E[z_img * (M z_txt) + z_txt * (M z_img)] over matched rows. Since (M z)_i = <d_i, z D>, it is
    A_i = E[z_img,i <d_i, xhat_txt> + z_txt,i <d_i, xhat_img>] with the bias-free reconstructions xhat: time
    O(P K D), no matrix beyond the dictionary. Its sum is 2 E<xhat_img, xhat_txt>. Any sign; higher: the
    concept raises the similarity of what belongs together more.

    Reconstructions and their products are computed in the dtype of the dictionary, sums over pairs in
    float64. Not computed: the paper prints M = D^T D, which is D x D and cannot act on codes.

    Args:
        image_codes, text_codes: (P, C), canonical, row p of one belongs to row p of the other; P >= 1.
        dictionary_CD: float32 or float64.
    """
    pairs, concepts = image_codes.shape
    kernel = compiled(_add_attribution, any_order=True)
    sums_SC = np.zeros((min(PARTS, pairs), concepts))
    cuts = np.linspace(0, pairs, len(sums_SC) + 1).astype(np.int64)
    sides = [_arrays(codes, dictionary_CD.dtype) for codes in (image_codes, text_codes)]

    def part(number: int) -> None:
        kernel(*sides[0], *sides[1], dictionary_CD, cuts[number], cuts[number + 1], sums_SC[number])

    part(0)  # compiled before the threads start
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(part, range(1, len(sums_SC))))
    return np.asarray(sums_SC.sum(axis=0) / pairs)


def bias_attribution(
    image_codes: csr_array, text_codes: csr_array, dictionary_CD: Rows, bias_D: Rows
) -> Floats:
    """What a reconstruction bias b adds to the attribution: (E[z_img,i] + E[z_txt,i]) <d_i, b>, (C,).

    With it, A_i = E[z_img,i <d_i, xhat_txt + b> + z_txt,i <d_i, xhat_img + b>]: a concept's part in the
    similarity of whole reconstructions. The paper's SAEs have no bias. A centred SAE keeps what all vectors
    share in b, so that without this term a concept along it counts for nothing, and the concepts that tell
    images from texts count against similarity.
    """
    mean_C = sum(
        np.bincount(codes.indices, codes.data, minlength=codes.shape[1]) / codes.shape[0]
        for codes in (image_codes, text_codes)
    )
    along_C = np.einsum("cd,d->c", dictionary_CD, np.asarray(bias_D, dtype=np.float64))
    return np.asarray(mean_C * along_C)


def reconstructed_similarity(image_codes: csr_array, text_codes: csr_array, dictionary_CD: Rows) -> float:
    """E<xhat_img, xhat_txt> over matched rows, bias-free, float64: what half the attributions add up to.

    Computed from the reconstructions alone, a block of rows at a time.
    """
    pairs, width = image_codes.shape[0], dictionary_CD.shape[1]
    step = max(1, (1 << 23) // width)
    total = 0.0
    for start in range(0, pairs, step):
        image_BD = image_codes[start : start + step] @ dictionary_CD
        text_BD = text_codes[start : start + step] @ dictionary_CD
        total += float(np.einsum("bd,bd->b", image_BD, text_BD, dtype=np.float64).sum())
    return float(total / pairs)


def _arrays(codes: csr_array, dtype: np.dtype[np.generic]) -> tuple[Rows, Ints, Ints]:
    return codes.data.astype(dtype, copy=False), codes.indices, codes.indptr


def _add_attribution(
    image_value: Rows,
    image_concept: Ints,
    image_start: Ints,
    text_value: Rows,
    text_concept: Ints,
    text_start: Ints,
    dictionary_CD: Rows,
    first: int,
    last: int,
    sum_C: Floats,
) -> None:
    """Add the attributions of the pairs first..last to `sum_C`: two reconstructions, then K products each."""
    width = dictionary_CD.shape[1]
    zero = dictionary_CD.dtype.type(0)
    image_D = np.empty(width, dictionary_CD.dtype)
    text_D = np.empty(width, dictionary_CD.dtype)
    for pair in range(first, last):
        image_D[:] = zero
        text_D[:] = zero
        for place in range(image_start[pair], image_start[pair + 1]):
            direction_D = dictionary_CD[image_concept[place]]
            for d in range(width):
                image_D[d] += image_value[place] * direction_D[d]
        for place in range(text_start[pair], text_start[pair + 1]):
            direction_D = dictionary_CD[text_concept[place]]
            for d in range(width):
                text_D[d] += text_value[place] * direction_D[d]
        for place in range(image_start[pair], image_start[pair + 1]):
            direction_D = dictionary_CD[image_concept[place]]
            product = zero
            for d in range(width):
                product += direction_D[d] * text_D[d]
            sum_C[image_concept[place]] += np.float64(image_value[place]) * np.float64(product)
        for place in range(text_start[pair], text_start[pair + 1]):
            direction_D = dictionary_CD[text_concept[place]]
            product = zero
            for d in range(width):
                product += direction_D[d] * image_D[d]
            sum_C[text_concept[place]] += np.float64(text_value[place]) * np.float64(product)
