"""Cutting a product's inner dimension among programs, and adding up the parts in one order.

A matrix with few rows of output gives too few blocks to fill the chip, so several programs share a block's inner
dimension ("Accelerating a Triton Fused Kernel for W4A16 with SplitK", arXiv 2402.00025). Their sums go to a float32
buffer and are added first to last by a second kernel: no float is ever added atomically, so results repeat bit for bit.
"""

from __future__ import annotations

import torch

from .dispatch import blocks, jit, on, tl

# Programs that an H200's multiprocessor holds at a time, and the least steps that are worth a program of their own.
_RESIDENT = 2
_LEAST_STEPS = 4
_MOST_SPLITS = 16


def splits_for(tiles: int, steps: int, processors: int) -> int:
    """How many programs share the inner dimension of `steps` steps when there are `tiles` blocks of output: enough to
    fill the chip, a power of two, never so many that one has fewer than a few steps."""
    splits = 1
    while tiles * splits * 2 <= processors * _RESIDENT and steps >= _LEAST_STEPS * splits * 2 and splits < _MOST_SPLITS:
        splits *= 2
    return splits


def reference_add_parts(parts: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    total = parts.sum(0)
    return total if bias is None else total + bias.to(total.dtype)


@jit
def _add_parts_kernel(
    parts_ptr,
    bias_ptr,
    out_ptr,
    out_stride,
    rows,
    columns,
    SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for split in range(SPLITS):
        total += tl.load(parts_ptr + (split * rows + row) * columns + at, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_stride + at, total.to(out_ptr.dtype.element_ty), mask=inside)


def add_parts(parts: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """out [rows, columns] = the sum over the first axis of parts [splits, rows, columns] (float32), plus
    bias [columns]."""
    splits, rows, columns = parts.shape
    block = 1024
    with on(parts):
        _add_parts_kernel[(rows, blocks(columns, block))](
            parts,
            bias,
            out,
            out.stride(0),
            rows,
            columns,
            SPLITS=splits,
            HAS_BIAS=bias is not None,
            BLOCK=block,
            num_warps=4,
        )
