"""Joins what several programs read of one block's keys.

    lse = log2 sum_c 2^lse_c,   o = sum_c o_c 2^(lse_c - lse)         (Flash-Decoding; arXiv 2501.01005, section 2.2)

where chunk c left its normalised output o_c and the base-2 log of its sum of weights; a chunk that saw nothing left
-inf and weighs nothing.
"""

from __future__ import annotations

import torch

from .dispatch import jit, on, power_of_two, tl


def reference_merge(partial: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """partial [chunks, ..., d], lse [chunks, ...] base 2 -> [..., d]; zeros where every chunk saw nothing."""
    most = lse.amax(0, keepdim=True)
    weight = torch.exp2(lse - torch.where(torch.isinf(most), 0.0, most))[..., None]
    total = weight.sum(0)
    return torch.where(total > 0, (partial * weight).sum(0) / total.clamp_min(1e-30), 0.0)


@jit
def _merge_kernel(
    partial_ptr,
    lse_ptr,
    merges_ptr,
    start_ptr,
    out_ptr,
    out_row,
    out_head,
    kv_heads,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    m = tl.program_id(0) % ROWS
    kv = tl.program_id(1)
    merge = merges_ptr + tl.program_id(0) // ROWS * 4
    sequence = tl.load(merge)
    if sequence < 0:
        return
    block, first, count = tl.load(merge + 1), tl.load(merge + 2), tl.load(merge + 3)
    row0 = tl.load(start_ptr + sequence)
    row = (block * BLOCK + m) // GROUP
    if row >= tl.load(start_ptr + sequence + 1) - row0:
        return
    columns = tl.arange(0, WIDTH)
    c = tl.arange(0, CHUNKS)
    best = float("-inf")
    total = 0.0
    acc = tl.zeros([WIDTH], tl.float32)
    for chunk in range(0, count, CHUNKS):
        there = chunk + c < count
        kept = ((first + chunk + c).to(tl.int64) * kv_heads + kv) * ROWS + m
        lse = tl.load(lse_ptr + kept, mask=there, other=float("-inf"))
        inside = there[:, None] & (columns[None, :] < D)
        read = tl.load(partial_ptr + kept[:, None] * D + columns[None, :], mask=inside, other=0.0)
        higher = tl.maximum(best, tl.max(lse, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(lse - base)
        shrink = tl.exp2(best - base)
        acc = acc * shrink + tl.sum(weight[:, None] * read, 0)
        total = total * shrink + tl.sum(weight, 0)
        best = higher
    found = acc / tl.where(total > 0.0, total, 1.0)
    head = kv * GROUP + (block * BLOCK + m) % GROUP
    at = out_ptr + (row0 + row).to(tl.int64) * out_row + head * out_head + columns
    tl.store(at, found.to(out_ptr.dtype.element_ty), mask=columns < D)


def merge_partials(
    partial: torch.Tensor,
    lse: torch.Tensor,
    merges: torch.Tensor,
    q_start: torch.Tensor,
    out: torch.Tensor,
    *,
    block: int,
    group: int,
) -> None:
    """Writes the rows of `out` [rows, heads, d] that several items worked on.

    partial  [slots, kv_heads, rows of a block, d] fp32; lse [slots, kv_heads, rows of a block] fp32, base 2
    merges   [grid, 4] int32: sequence (-1: nothing to do), block, first slot, how many slots
    """
    if not merges.shape[0]:
        return
    kv_heads, rows, d = partial.shape[1:]
    with on(out):
        _merge_kernel[(merges.shape[0] * rows, kv_heads)](
            partial, lse, merges, q_start, out, out.stride(0), out.stride(1), kv_heads,
            ROWS=rows, BLOCK=block, GROUP=group, D=d, WIDTH=power_of_two(d), CHUNKS=16, num_warps=4,
        )  # fmt: skip
