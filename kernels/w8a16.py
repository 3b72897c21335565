"""A 16-bit input times a matrix of 8-bit weights.

    y[m, n] = sum_g scale[g, n] * sum_{k in g} x[m, k] q[n, k] + bias[n],   q in -127..127

One group a row (per-channel, as in LLM.int8, arXiv 2208.07339) or groups of 32, 64 or 128 columns (GGUF's Q8_0). Codes
are exact in 16 bits, so a group's scale is applied once to its float32 sum. As in w4a16.py the product is computed
transposed, with the weights as the tensor core's left operand, and split along k where there is little output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .dispatch import blocks, jit, multiprocessors, on, require, tl, tuned, use_triton
from .packed_product import check_input, check_output, product_blocks
from .split_k import add_parts, splits_for

_STEP = 128  # columns a step of the kernel reads, where groups are not smaller


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """`codes` int8 [out, in], contiguous; `scales` [groups, out]; `group` columns share a scale, all of them when 0."""

    codes: torch.Tensor
    scales: torch.Tensor
    group: int


def pack_int8(weight: torch.Tensor, group: int = 0) -> Int8Weight:
    """The nearest codes for `weight` [out, in] of a floating dtype, with the scale that makes the largest 127."""
    require(weight.ndim == 2 and weight.is_floating_point(), "weight", "must be [out, in] of a floating dtype")
    rows, columns = weight.shape
    require(group in (0, 32, 64, 128), "group", f"must be 0, 32, 64 or 128, not {group}")
    wide = columns if group == 0 else group
    padded = torch.zeros(rows, blocks(columns, wide) * wide, device=weight.device)
    padded[:, :columns] = weight
    grouped = padded.view(rows, -1, wide)
    scales = grouped.abs().amax(2).clamp_min(1e-12) / 127
    codes = (grouped / scales.unsqueeze(2)).round().to(torch.int8).view(rows, -1)[:, :columns].contiguous()
    return Int8Weight(codes, scales.T.contiguous(), group)


def unpack_int8(weight: Int8Weight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weights as numbers, [out, in]."""
    columns = weight.codes.shape[1]
    scales = weight.scales.T.to(dtype).repeat_interleave(weight.group or columns, 1)[:, :columns]
    return weight.codes.to(dtype) * scales


def reference_w8a16(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """In plain torch, in float64 when x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return F.linear(x.to(wide), unpack_int8(weight, wide), None if bias is None else bias.to(wide)).to(x.dtype)


@jit
def _w8a16_kernel(
    x_ptr,
    x_stride,
    codes_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    out_stride,
    rows,
    N,
    columns,
    steps,
    steps_each,
    GROUPED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    total = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    first = split * steps_each
    after = tl.load(scales_ptr + first * N + n, mask=(n < N) & GROUPED, other=0.0).to(tl.float32)
    for step in range(first, tl.minimum(first + steps_each, steps)):
        k = step * STEP + tl.arange(0, STEP)
        at = n.to(tl.int64)[:, None] * columns + k[None, :]
        q = tl.load(codes_ptr + at, mask=(n < N)[:, None] & (k < columns)[None, :], other=0)
        inside = (k < columns)[:, None] & (m < rows)[None, :]
        x = tl.load(x_ptr + m.to(tl.int64)[None, :] * x_stride + k[:, None], mask=inside, other=0.0)
        if GROUPED:
            scale = after
            ahead = (n < N) & (step + 1 < steps)  # fetched a step before it is wanted, like the codes
            after = tl.load(scales_ptr + (step + 1) * N + n, mask=ahead, other=0.0).to(tl.float32)
            total += tl.dot(q.to(x.dtype), x, input_precision="ieee") * scale[:, None]
        else:
            total = tl.dot(q.to(x.dtype), x, total, input_precision="ieee")
    if not GROUPED:
        total *= tl.load(scales_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    inside = (n < N)[:, None] & (m < rows)[None, :]
    row = m.to(tl.int64)
    if SPLIT:
        row += split * rows
    elif HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    tl.store(out_ptr + row[None, :] * out_stride + n[:, None], total.to(out_ptr.dtype.element_ty), mask=inside)


def w8a16(
    x: torch.Tensor,
    weight: Int8Weight,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    invariant: bool = False,
) -> torch.Tensor:
    """x W^T + bias.

    x          [rows, in], float16, bfloat16 or float32; rows may be strided, columns are contiguous
    weight     [out, in] of 8 bits
    bias       [out], any floating dtype
    out        [rows, out] of x's dtype; made when not given
    invariant  a row's bits are the same whatever rows stand beside it: the split does not look at the rows
    """
    _check(x, weight, bias, out)
    n, columns = weight.codes.shape
    y = torch.empty(x.shape[0], n, dtype=x.dtype, device=x.device) if out is None else out
    if not use_triton(x):
        return y.copy_(reference_w8a16(x, weight, bias))
    rows = x.shape[0]
    if rows == 0:
        return y
    step = min(weight.group or _STEP, _STEP)
    steps = blocks(columns, step)
    choice = _choice(x, n, steps, 1 if invariant else rows)
    each = blocks(steps, choice.pop("SPLITS"))
    splits = blocks(steps, each)
    parts = torch.empty(splits, rows, n, dtype=torch.float32, device=x.device) if splits > 1 else None
    target = y if parts is None else parts[0]
    with on(x):
        _w8a16_kernel[(blocks(rows, choice["BLOCK_M"]), blocks(n, choice["BLOCK_N"]), splits)](
            x,
            x.stride(0),
            weight.codes,
            weight.scales,
            bias,
            target,
            target.stride(0),
            rows,
            n,
            columns,
            steps,
            each,
            GROUPED=weight.group > 0,
            HAS_BIAS=bias is not None,
            SPLIT=parts is not None,
            STEP=step,
            **choice,
        )
    if parts is not None:
        add_parts(parts, bias, y)
    return y


def _choice(x: torch.Tensor, n: int, steps: int, rows: int) -> dict[str, int]:
    choice = tuned(
        "w8a16", x.device, product_blocks(x, rows), rows=rows, out=n, columns=x.shape[1], bits=8 * x.itemsize
    )
    if not choice["SPLITS"]:
        tiles = blocks(rows, choice["BLOCK_M"]) * blocks(n, choice["BLOCK_N"])
        choice["SPLITS"] = splits_for(tiles, steps, multiprocessors(x.device))
    return choice


def _check(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None, out: torch.Tensor | None) -> None:
    rows, columns = weight.codes.shape
    check_input(x, columns)
    groups = blocks(columns, weight.group) if weight.group else 1
    require(weight.scales.shape == (groups, rows), "weight", "scales must be [groups, out]")
    require(weight.codes.dtype == torch.int8, "weight", "codes must be int8")
    alike = weight.codes.device == weight.scales.device == x.device
    require(alike, "weight", "must be on x's device")
    require(weight.codes.is_contiguous() and weight.scales.is_contiguous(), "weight", "must be contiguous")
    check_output(x, rows, bias, out)
