"""What every attention kernel does with one tile of keys: read it from pages, fold it into the running result.

The online softmax of FlashAttention (arXiv 2205.14135) in powers of two: with m the best score so far, l the sum of
weights and o the weighted values,

    m' = max(m, s_j),   w_j = 2^(s_j - m'),   l' = l 2^(m - m') + sum w_j,   o' = o 2^(m - m') + sum w_j v_j

Functions of the device only; knows nothing of who sees which key.
"""

from __future__ import annotations

from .dispatch import jit, tl


@jit
def popcount(words):
    """How many of 64 bits are set."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    words = words + (words >> 8)
    words = words + (words >> 16)
    words = words + (words >> 32)
    return words & 0x7F


@jit
def read_tile(ptr, page_stride, slot_stride, page, slot, columns, mask, D: tl.constexpr, WIDTH: tl.constexpr):
    """[TILE, WIDTH] of a store of pages; what is masked is zero, so that a weight of zero times it is zero."""
    at = ptr + page[:, None] * page_stride + slot[:, None] * slot_stride + columns[None, :]
    if D == WIDTH:
        return tl.load(at, mask=mask[:, None], other=0.0)
    return tl.load(at, mask=mask[:, None] & (columns[None, :] < D), other=0.0)


@jit
def fold(
    q, k, v, seen, best, total, acc, inner, outer, k_scale, v_scale,
    CAPPED: tl.constexpr, BY_KEY: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile into the running (best score, sum of weights, weighted values); scores are in base 2."""
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
    if BY_KEY:
        scores *= k_scale[None, :]
    factor = inner
    if CAPPED:
        # tanh by the exponential that the hardware has: -2.885 is -2 log2(e), and 2^64 is infinity enough.
        scores = outer * (2.0 / (1.0 + tl.exp2(tl.minimum(-2.8853900817779268 * inner * scores, 64.0))) - 1.0)
        factor = 1.0
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    # The factor is positive: it can wait until the maximum is known, and becomes one fused multiply and subtract.
    higher = tl.maximum(best, tl.max(scores, 1) * factor)
    base = higher
    if MASKED:
        # A row that has seen nothing yet stays at -inf; 0 in its place makes its weights 0 and not NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores * factor - base[:, None])
    shrink = tl.exp2(best - base)
    total = total * shrink + tl.sum(weights, 1)
    if BY_KEY:
        weights *= v_scale[None, :]
    acc = acc * shrink[:, None] + tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision="ieee")
    return higher, total, acc
