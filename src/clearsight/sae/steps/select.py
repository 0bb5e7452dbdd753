"""The top-k codes of a block of rows, on a CPU: by float32 scores, or screened by scores in bfloat16.

Legend of shapes: B rows, D width, C concepts, S slots for entries, b rows of a block.

Both give the k largest positive float32 scores of each row. The screen shortens the encoder product where the
CPU knows bfloat16: a concept can be among the k largest only if the upper bound of its score reaches the k-th
largest lower bound; those few are scored again in float32. A row whose bounds leave too many goes through
float32 altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clearsight.sae.steps.screen_kernels import SUM, Halves, round_rows, select_screened
from clearsight.sae.steps.select_kernels import Floats, Longs, Shorts, group_count, select_rows
from clearsight.threads import even_edges, spread

BLOCK_SCORES = 1 << 22
"""Scores computed at a time: 16 MiB stay in the third-level cache until they have been read."""
LEAST_ROWS = 256
"""But not fewer rows than this: a narrower product is slower than the cache misses."""
CANDIDATE_SHARE = 8
"""Up to C / 8 concepts of a row are scored one by one; more are faster as a product."""


@dataclass(frozen=True)
class Slots:
    """Where codes go: row b has index_S, value_S[start_B[b]] on, count_B[b] of them, concepts ascending."""

    start_B: Longs
    count_B: Shorts
    index_S: Shorts
    value_S: Floats

    def part(self, rows: slice) -> Slots:
        return Slots(self.start_B[rows], self.count_B[rows], self.index_S, self.value_S)


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32 (AMX, AVX512-BF16)."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def select(pre_BC: Tensor, bias_C: Tensor, k: int, slots: Slots) -> None:
    """The k largest positive entries of pre + bias in each row; of equal ones the first concepts."""
    pre, bias = pre_BC.numpy(), bias_C.numpy()
    groups = group_count(len(bias), k)

    def work(first: int, last: int) -> None:
        select_rows(
            pre, bias, k, groups, first, last, slots.start_B, slots.index_S, slots.value_S, slots.count_B
        )

    spread(work, even_edges(len(pre)))


class Scratch:
    """Memory for scores that is kept from call to call: fresh pages cost as much as a selection."""

    def __init__(self) -> None:
        self.held: dict[torch.dtype, Tensor] = {}

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        held = self.held.get(dtype)
        if held is None or held.numel() < rows * columns:
            held = self.held[dtype] = torch.empty(rows * columns, dtype=dtype)
        return held[: rows * columns].view(rows, columns)


def select_float(
    row_BD: Tensor,
    encoder_CD: Tensor,
    bias_C: Tensor,
    k: int,
    slots: Slots,
    scratch: Scratch,
    also: Callable[[slice, Tensor], None] | None = None,
) -> None:
    """The k largest positive scores row . encoder + bias of each row, by float32 products of blocks.

    `also` sees every block's rows and scores (b, C), without the bias, while they are there.
    """
    for part in _blocks(len(row_BD), len(encoder_CD)):
        pre_bC = scratch.matrix(part.stop - part.start, len(encoder_CD), torch.float32)
        torch.mm(row_BD[part], encoder_CD.T, out=pre_bC)
        select(pre_bC, bias_C, k, slots.part(part))
        if also is not None:
            also(part, pre_bC)


def select_by_screen(
    row_BD: Tensor, encoder_CD: Tensor, bias_C: Tensor, k: int, slots: Slots, scratch: Scratch
) -> int:
    """What `select_float` gives, screened in bfloat16; returns how many rows fell back to float32."""
    concepts, width = encoder_CD.shape
    encoder, length_C, lost_C = _rounded(encoder_CD, scratch.matrix(concepts, width, torch.bfloat16))
    # The rows' memory is their own: `scratch` holds the encoder in this type.
    rows, length_B, lost_B = _rounded(row_BD, torch.empty(row_BD.shape, dtype=torch.bfloat16))
    near_B = lost_B + np.float32(SUM * width) * (length_B + lost_B)
    far_B = (length_B + lost_B) * np.float32(1 + SUM * width)
    bias, encoder_numpy = bias_C.numpy(), encoder_CD.numpy()
    groups, most = group_count(concepts, k), max(2 * k, concepts // CANDIDATE_SHARE)
    for part in _blocks(len(row_BD), concepts):
        score = torch.mm(rows[part], encoder.T)
        bits, here, block = _bits(score), slots.part(part), row_BD[part].numpy()

        def work(
            first: int,
            last: int,
            bits: Halves = bits,
            here: Slots = here,
            block: Floats = block,
            part: slice = part,
        ) -> None:
            select_screened(
                bits, block, encoder_numpy, bias, near_B[part], far_B[part], length_C, lost_C, k, groups,
                most, first, last, here.start_B, here.index_S, here.value_S, here.count_B,
            )  # fmt: skip

        spread(work, even_edges(len(block)))
    open_B = np.flatnonzero(slots.count_B < 0)
    if len(open_B):
        count = np.empty(len(open_B), np.int32)
        rest = Slots(slots.start_B[open_B], count, slots.index_S, slots.value_S)
        select_float(row_BD[torch.from_numpy(open_B)], encoder_CD, bias_C, k, rest, scratch)
        slots.count_B[open_B] = count
    return len(open_B)


def encode_topk(
    row_BD: Tensor, encoder_CD: Tensor, bias_C: Tensor, k: int, *, screen: bool | None = None
) -> tuple[Longs, Shorts, Floats]:
    """Codes of (centred) rows as the parts of a CSR array: where rows begin (B + 1), concepts and values.

    Equal to topk of relu(rows @ encoder.T + bias) without its zeros, concepts ascending in a row; float32
    tensors on the CPU. `screen`: in bfloat16 first; by default where this CPU is faster so.
    """
    rows, concepts = len(row_BD), len(encoder_CD)
    k = min(k, concepts)
    slots = Slots(
        np.arange(rows, dtype=np.int64) * k,
        np.zeros(rows, np.int32),
        np.empty(rows * k, np.int32),
        np.empty(rows * k, np.float32),
    )
    row_BD, encoder_CD = row_BD.detach().contiguous(), encoder_CD.detach().contiguous()
    chosen = select_by_screen if (multiplies_bfloat16() if screen is None else screen) else select_float
    chosen(row_BD, encoder_CD, bias_C.detach(), k, slots, Scratch())
    used = np.arange(k) < slots.count_B[:, None]
    start = np.concatenate([np.zeros(1, np.int64), slots.count_B.cumsum(dtype=np.int64)])
    return start, slots.index_S.reshape(rows, k)[used], slots.value_S.reshape(rows, k)[used]


def _blocks(rows: int, concepts: int) -> Iterator[slice]:
    size = max(LEAST_ROWS, BLOCK_SCORES // concepts)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def _rounded(row_ND: Tensor, into_ND: Tensor) -> tuple[Tensor, Floats, Floats]:
    """(rows in bfloat16, their lengths, the lengths of what was lost)."""
    length_N, lost_N = np.empty(len(row_ND), np.float32), np.empty(len(row_ND), np.float32)
    rows, bits = row_ND.numpy(), _bits(into_ND)
    spread(lambda first, last: round_rows(rows, first, last, bits, length_N, lost_N), even_edges(len(row_ND)))
    return into_ND, length_N, lost_N


def _bits(halves: Tensor) -> Halves:
    bits: Halves = halves.view(torch.int16).numpy()
    return bits
