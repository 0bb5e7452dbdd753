# mypy: ignore-errors
# Triton's language is no Python that a type checker knows: pointers, blocks, constants of compilation.
"""Kernels of the CUDA step: exact top-k, sparse decode, gradient and Adam concept by concept.

Legend of shapes: B rows of a batch, D width, C concepts, K slots of a row, S slots in all, R rows of entries:
the batch's B, and after them the same B again for the auxiliary loss. BLOCK_D is D rounded up to a power of
two.

One program owns one row (select, decode) or one concept (gradient, update), so no sum depends on the order in
which programs run: the same input gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def select_kernel(
    pre, bias, spare, index, value, count, concepts, slots, k,
    GROUPS: tl.constexpr, SPARE: tl.constexpr,
):  # fmt: skip
    """The k largest positive entries of one row of pre + bias, concepts ascending; of equals the first.

    The k-th largest of the maxima of strided groups bounds the k-th largest score from below. What reaches
    the bound goes to `spare` (B, SPARE); its k-th largest is the border. Should more reach it than there is
    room for (many equal scores), the border is found by going over the row itself.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * concepts
    lane = tl.arange(0, GROUPS)
    highest = tl.full((GROUPS,), float("-inf"), tl.float32)
    for first in range(0, concepts, GROUPS):
        here = first + lane < concepts
        score = tl.load(pre + first + lane, here, float("-inf")) + tl.load(bias + first + lane, here, 0.0)
        highest = tl.maximum(highest, score)
    bits = highest.to(tl.int32, bitcast=True)  # positive floats are ordered as their bits are
    low = 1
    for step in tl.static_range(31):
        middle = low + (1 << (30 - step))
        # Bits above those of infinity stand for no number, and a sum beyond 31 bits turns negative.
        reached = tl.sum((bits >= middle).to(tl.int32), 0)
        low = tl.where((middle > 0) & (reached >= k), middle, low)

    found = 0
    for first in range(0, concepts, GROUPS):
        here = first + lane < concepts
        score = tl.load(pre + first + lane, here, float("-inf")) + tl.load(bias + first + lane, here, 0.0)
        hit = (score.to(tl.int32, bitcast=True) >= low) & here
        place = found + tl.cumsum(hit.to(tl.int32), 0) - 1
        tl.store(spare + row * SPARE + place, score, hit & (place < SPARE))
        found += tl.sum(hit.to(tl.int32), 0)
    tl.debug_barrier()

    border = low
    if found > SPARE:
        for halving in range(31):
            middle = border + (1 << (30 - halving))
            reached = 0
            for first in range(0, concepts, GROUPS):
                here = first + lane < concepts
                score = tl.load(pre + first + lane, here, float("-inf")) + tl.load(
                    bias + first + lane, here, 0.0
                )
                reached += tl.sum((score.to(tl.int32, bitcast=True) >= middle).to(tl.int32), 0)
            border = tl.where((middle > 0) & (reached >= k), middle, border)
    else:
        spot = tl.arange(0, SPARE)
        kept = tl.load(spare + row * SPARE + spot, spot < found, 0.0).to(tl.int32, bitcast=True)
        for step in tl.static_range(31):
            middle = border + (1 << (30 - step))
            reached = tl.sum((kept >= middle).to(tl.int32), 0)
            border = tl.where((middle > 0) & (reached >= k), middle, border)

    above = 0
    for first in range(0, concepts, GROUPS):
        here = first + lane < concepts
        score = tl.load(pre + first + lane, here, float("-inf")) + tl.load(bias + first + lane, here, 0.0)
        above += tl.sum((score.to(tl.int32, bitcast=True) > border).to(tl.int32), 0)
    room = k - above
    written = 0
    equal = 0
    for first in range(0, concepts, GROUPS):
        here = first + lane < concepts
        score = tl.load(pre + first + lane, here, float("-inf")) + tl.load(bias + first + lane, here, 0.0)
        key = score.to(tl.int32, bitcast=True)
        tied = ((key == border) & here).to(tl.int32)
        rank = equal + tl.cumsum(tied, 0)
        take = ((key > border) | ((tied > 0) & (rank <= room))) & here
        place = written + tl.cumsum(take.to(tl.int32), 0) - 1
        tl.store(index + row * slots + place, first + lane, take)
        tl.store(value + row * slots + place, score, take)
        equal += tl.sum(tied, 0)
        written += tl.sum(take.to(tl.int32), 0)
    tl.store(count + row, written)


@triton.jit
def decode_kernel(
    base, decoder, scale, penalty, index, value, count, error, square, weight, slope, width, slots,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row: error = base + codes @ decoder, its squared length, and of each code
    weight = scale code, slope = scale <error, concept> + penalty."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_D)
    here = lane < width
    total = tl.load(base + row * width + lane, here, 0.0)
    active = tl.load(count + row)
    counts = tl.load(scale + row)
    for s in range(active):
        concept = tl.load(index + row * slots + s).to(tl.int64)
        total += tl.load(value + row * slots + s) * tl.load(decoder + concept * width + lane, here, 0.0)
    tl.store(error + row * width + lane, total, here)
    tl.store(square + row, tl.sum(total * total, 0))
    for s in range(active):
        concept = tl.load(index + row * slots + s).to(tl.int64)
        along = tl.sum(total * tl.load(decoder + concept * width + lane, here, 0.0), 0)
        tl.store(weight + row * slots + s, counts * tl.load(value + row * slots + s))
        tl.store(slope + row * slots + s, counts * along + penalty)


@triton.jit
def bias_gradient_kernel(offset, slope, gradient):
    """Sum of one concept's slopes."""
    concept = tl.program_id(0)
    total = 0.0
    for s in range(tl.load(offset + concept), tl.load(offset + concept + 1)):
        total += tl.load(slope + s)
    tl.store(gradient + concept, total)


@triton.jit
def _gradients(
    concept, offset, row, weight, slope, centred, error, decoder, rows, width, lane, here,
    TANGENT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of one concept's encoder and decoder row."""
    encoder_D = tl.zeros((BLOCK_D,), tl.float32)
    decoder_D = tl.zeros((BLOCK_D,), tl.float32)
    for s in range(tl.load(offset + concept), tl.load(offset + concept + 1)):
        source = tl.load(row + s).to(tl.int64)
        encoder_D += tl.load(slope + s) * tl.load(centred + (source % rows) * width + lane, here, 0.0)
        decoder_D += tl.load(weight + s) * tl.load(error + source * width + lane, here, 0.0)
    if TANGENT:
        direction_D = tl.load(decoder + concept * width + lane, here, 0.0)
        decoder_D -= tl.sum(decoder_D * direction_D, 0) * direction_D
    return encoder_D, decoder_D


@triton.jit
def squares_kernel(
    certain, offset, row, weight, slope, centred, error, decoder, square, rows, width,
    TANGENT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Squared norm of one concept's gradients; nothing where it is certain that nothing is clipped."""
    if tl.load(certain) != 0:
        return
    concept = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_D)
    here = lane < width
    encoder_D, decoder_D = _gradients(
        concept, offset, row, weight, slope, centred, error, decoder, rows, width, lane, here,
        TANGENT, BLOCK_D,
    )  # fmt: skip
    tl.store(square + concept, tl.sum(encoder_D * encoder_D, 0) + tl.sum(decoder_D * decoder_D, 0))


@triton.jit
def _adam(weight, first, second, at, here, gradient, rate, root, eps, keep1, beta2, keep2):
    """One Adam step of a row: the new weights, moments stored."""
    m = tl.load(first + at, here, 0.0)
    v = tl.load(second + at, here, 0.0)
    m += keep1 * (gradient - m)
    v = v * beta2 + keep2 * gradient * gradient
    tl.store(first + at, m, here)
    tl.store(second + at, v, here)
    return tl.load(weight + at, here, 0.0) - rate * m / (tl.sqrt(v) * root + eps)


@triton.jit
def update_kernel(
    offset, row, weight, slope, centred, error, factor, square,
    encoder, encoder_first, encoder_second, decoder, decoder_first, decoder_second,
    rate, root, eps, keep1, beta2, keep2, rows, width,
    TANGENT: tl.constexpr, NORMALISE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One concept: gradients, clipping, Adam, length of the decoder row; the gradient's squared norm."""
    concept = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_D)
    here = lane < width
    encoder_D, decoder_D = _gradients(
        concept, offset, row, weight, slope, centred, error, decoder, rows, width, lane, here,
        TANGENT, BLOCK_D,
    )  # fmt: skip
    tl.store(square + concept, tl.sum(encoder_D * encoder_D, 0) + tl.sum(decoder_D * decoder_D, 0))
    clip = tl.load(factor)
    at = concept * width + lane
    new = _adam(encoder, encoder_first, encoder_second, at, here, encoder_D * clip,
                rate, root, eps, keep1, beta2, keep2)  # fmt: skip
    tl.store(encoder + at, new, here)
    new = _adam(decoder, decoder_first, decoder_second, at, here, decoder_D * clip,
                rate, root, eps, keep1, beta2, keep2)  # fmt: skip
    if NORMALISE:
        length = tl.sqrt(tl.sum(tl.where(here, new * new, 0.0), 0))
        new = new / tl.where(length > 0, length, 1.0)
    tl.store(decoder + at, new, here)
