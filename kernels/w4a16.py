"""A 16-bit input times a matrix of 4-bit weights.

    y[m, n] = sum_g scale[g, n] * (sum_{k in g} x[m, k] q[n, k] - zero[g, n] * sum_{k in g} x[m, k]) + bias[n]

Weights are four times smaller than bfloat16, and with few rows reading them is all the time there is (Frantar et al.,
"MARLIN", arXiv 2408.11743). Three choices follow:

- The product is computed transposed, out^T = W x^T: the weights are the tensor core's left operand, which may come
  straight from registers, where they have just been unpacked; and few rows of x fill its short side, not its long one.
- Codes are exact in 16 bits, so with few rows the scale is applied once to a group's sum in float32 (above). With many
  rows (SCALE_FIRST) that would cost more than the weights do: there each weight is scaled before it is multiplied.
- A matrix with little output is split along k (split_k.py), and the parts are added in one order.

From DENSE_FROM rows on, arithmetic bounds it: the weights are written out once and the library's product does the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .dispatch import blocks, jit, multiprocessors, on, require, tl, tuned, use_triton
from .int4_weight import SPAN, Int4Weight, dense
from .packed_product import check_input, check_output, product_blocks
from .split_k import add_parts, splits_for

_SYMMETRIC, _ZEROS, _OFFSETS = 0, 1, 2


def reference_w4a16(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """In plain torch, in float64 when x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = F.linear(x.to(wide), dense(weight, wide), None if bias is None else bias.to(wide))
    return y.to(x.dtype)


@jit
def _unpack(words, dtype: tl.constexpr, CENTER: tl.constexpr, ASM: tl.constexpr):
    """The four planes of a tile of words, less CENTER, each a tile of `dtype`: whole numbers, exact in 16 bits."""
    if ASM != "":
        # Codes become numbers by being the last bits of 128 (bfloat16) or 1024 (float16), two at a time.
        a, b, c, d = tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r", [words], (dtype.value, dtype.value, dtype.value, dtype.value), True, 2  # pyright: ignore
        )  # fmt: skip
    else:
        a = ((words & 15) - CENTER).to(dtype)
        b = (((words >> 4) & 15) - CENTER).to(dtype)
        c = (((words >> 8) & 15) - CENTER).to(dtype)
        d = (((words >> 12) & 15) - CENTER).to(dtype)
    return a, b, c, d


@jit
def _levels(group_at, groups, n, N, scales_ptr, zeros_ptr, KIND: tl.constexpr):
    """One group's scale, and its zero or offset, for each row of weights: float32 [BLOCK_N] each; 0 outside."""
    inside = (n < N) & (n * 0 + group_at < groups)  # in an interpreter a comparison of plain numbers is no mask
    scale = tl.load(scales_ptr + group_at * N + n, mask=inside, other=0.0).to(tl.float32)
    level = scale
    if KIND != 0:
        level = tl.load(zeros_ptr + group_at * N + n, mask=inside, other=0.0).to(tl.float32)
    return scale, level


@jit
def _span_levels(span, spans, n, N, scales_ptr, zeros_ptr, GROUP: tl.constexpr, KIND: tl.constexpr):
    """The levels of a span's four planes; planes of one group share them."""
    at = span * (128 // GROUP)
    groups = spans * (128 // GROUP)
    s0, z0 = _levels(at, groups, n, N, scales_ptr, zeros_ptr, KIND)
    s1, z1, s2, z2, s3, z3 = s0, z0, s0, z0, s0, z0
    if GROUP == 64:
        s2, z2 = _levels(at + 1, groups, n, N, scales_ptr, zeros_ptr, KIND)
        s3, z3 = s2, z2
    elif GROUP == 32:
        s1, z1 = _levels(at + 1, groups, n, N, scales_ptr, zeros_ptr, KIND)
        s2, z2 = _levels(at + 2, groups, n, N, scales_ptr, zeros_ptr, KIND)
        s3, z3 = _levels(at + 3, groups, n, N, scales_ptr, zeros_ptr, KIND)
    return s0, z0, s1, z1, s2, z2, s3, z3


@jit
def _add_plane(
    total, part, w, scale, level, plane_at, x_ptr, x_stride, m, rows, columns,
    KIND: tl.constexpr, SCALE_FIRST: tl.constexpr, EVEN: tl.constexpr, ENDS: tl.constexpr,
):  # fmt: skip
    """Adds one plane's product to `part`, a group's sum; at the group's end, `part` times its scale to `total`."""
    k = plane_at * 32 + tl.arange(0, 32)
    inside = (m < rows)[None, :]
    if not EVEN:
        inside &= (k < columns)[:, None]
    x = tl.load(x_ptr + m.to(tl.int64)[None, :] * x_stride + k[:, None], mask=inside, other=0.0)
    if KIND == 1:
        w -= level.to(w.dtype)[:, None]
    if SCALE_FIRST:
        w = w.to(tl.float32) * scale[:, None]
        if KIND == 2:
            w += level[:, None]
        total = tl.dot(w.to(x.dtype), x, total, input_precision="ieee")
    else:
        part = tl.dot(w, x, part, input_precision="ieee")
        if KIND == 2:
            # The sum of x, by the tensor core, which has time to spare: a reduction over threads would need barriers.
            total += tl.dot(tl.full(w.shape, 1.0, w.dtype), x, input_precision="ieee") * level[:, None]
        if ENDS:
            total += part * scale[:, None]
            part = tl.zeros_like(part)
    return total, part


@jit
def _w4a16_kernel(
    x_ptr,
    x_stride,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    out_ptr,
    out_stride,
    rows,
    N,
    columns,
    spans,
    spans_each,
    GROUP: tl.constexpr,
    KIND: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALE_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    total = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    first = split * spans_each
    # A step's scales are fetched a step ahead, like its codes: waiting for them would cost a trip to memory each step.
    t0, y0, t1, y1, t2, y2, t3, y3 = _span_levels(first, spans, n, N, scales_ptr, zeros_ptr, GROUP, KIND)
    for span in range(first, tl.minimum(first + spans_each, spans)):
        s0, z0, s1, z1, s2, z2, s3, z3 = t0, y0, t1, y1, t2, y2, t3, y3
        t0, y0, t1, y1, t2, y2, t3, y3 = _span_levels(span + 1, spans, n, N, scales_ptr, zeros_ptr, GROUP, KIND)
        at = (n.to(tl.int64) + span * N)[:, None] * 32 + tl.arange(0, 32)[None, :]
        words = tl.load(codes_ptr + at) if EVEN else tl.load(codes_ptr + at, mask=(n < N)[:, None], other=0)
        a, b, c, d = _unpack(words, dtype, 8 if KIND == 0 else 0, ASM)
        part = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
        plane = span * 4
        total, part = _add_plane(
            total, part, a, s0, z0, plane, x_ptr, x_stride, m, rows, columns, KIND, SCALE_FIRST, EVEN, GROUP == 32
        )
        total, part = _add_plane(
            total, part, b, s1, z1, plane + 1, x_ptr, x_stride, m, rows, columns, KIND, SCALE_FIRST, EVEN, GROUP <= 64
        )
        total, part = _add_plane(
            total, part, c, s2, z2, plane + 2, x_ptr, x_stride, m, rows, columns, KIND, SCALE_FIRST, EVEN, GROUP == 32
        )
        total, part = _add_plane(
            total, part, d, s3, z3, plane + 3, x_ptr, x_stride, m, rows, columns, KIND, SCALE_FIRST, EVEN, True
        )
    inside = (n < N)[:, None] & (m < rows)[None, :]
    row = m.to(tl.int64)
    if SPLIT:
        row += split * rows
    elif HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    tl.store(out_ptr + row[None, :] * out_stride + n[:, None], total.to(out_ptr.dtype.element_ty), mask=inside)


def w4a16(
    x: torch.Tensor,
    weight: Int4Weight,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    invariant: bool = False,
) -> torch.Tensor:
    """x W^T + bias.

    x          [rows, in], float16, bfloat16 or float32; rows may be strided, columns are contiguous
    weight     [out, in] of 4 bits
    bias       [out], any floating dtype
    out        [rows, out] of x's dtype; made when not given
    invariant  a row's bits are the same whatever rows stand beside it: neither split nor scaling looks at the rows
    """
    _check(x, weight, bias, out)
    y = torch.empty(x.shape[0], weight.rows, dtype=x.dtype, device=x.device) if out is None else out
    if not use_triton(x):
        return y.copy_(reference_w4a16(x, weight, bias))
    if x.shape[0] == 0:
        return y
    if weight.order is not None:
        x = x[:, weight.order]
    choice = _choice(x, weight, invariant)
    dense_from, splits = choice.pop("DENSE_FROM"), choice.pop("SPLITS")
    if x.shape[0] >= dense_from and not invariant:
        values = dequantize(weight, x.dtype)
        return y.copy_(F.linear(x, values, None if bias is None else bias.to(x.dtype)))
    _launch(x, weight, bias, y, splits, choice)
    return y


def _choice(x: torch.Tensor, weight: Int4Weight, invariant: bool) -> dict[str, int]:
    """The shape of the launch. Without a table: as wide as the rows, and split until the chip is full."""
    rows = 1 if invariant else x.shape[0]
    spans = weight.codes.shape[0]
    first = product_blocks(x, rows)
    defaults = {**first, "SCALE_FIRST": int(first["BLOCK_M"] >= 64), "ASM": int(x.is_cuda), "DENSE_FROM": 1024}
    sizes = {"rows": rows, "out": weight.rows, "columns": weight.columns, "group": weight.group, "bits": 8 * x.itemsize}
    choice = tuned("w4a16", x.device, defaults, **sizes)
    if not choice["SPLITS"]:
        tiles = blocks(rows, choice["BLOCK_M"]) * blocks(weight.rows, choice["BLOCK_N"])
        choice["SPLITS"] = splits_for(tiles, spans, multiprocessors(x.device))
    return choice


def _unpacking(dtype: torch.dtype, kind: int) -> str:
    """PTX for `_unpack`, two words at a time; `lop3 0xEA` is (a & b) | c.
    Empty for float32, where there is no such trick."""
    if dtype not in (torch.float16, torch.bfloat16):
        return ""
    base, name = (0x6400, "f16x2") if dtype == torch.float16 else (0x4300, "bf16x2")
    less = base + (8 if kind == _SYMMETRIC else 0)
    planes = [
        f"shr.u32 t, $4, {4 * plane}; lop3.b32 t, t, 0x000F000F, {base * 0x10001:#x}, 0xEA; sub.{name} ${plane}, t, c;"
        for plane in range(4)
    ]
    return "{ .reg .b32 t, c; mov.b32 c, " + f"{less * 0x10001:#x}; " + " ".join(planes) + " }"


def _launch(
    x: torch.Tensor,
    weight: Int4Weight,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    splits: int,
    choice: dict[str, int],
) -> None:
    rows, n = y.shape
    spans = weight.codes.shape[0]
    each = blocks(spans, splits)
    splits = blocks(spans, each)
    parts = torch.empty(splits, rows, n, dtype=torch.float32, device=x.device) if splits > 1 else None
    target = y if parts is None else parts[0]
    kind = _ZEROS if weight.zeros is not None else _OFFSETS if weight.offsets is not None else _SYMMETRIC
    with on(x):
        _w4a16_kernel[(blocks(rows, choice["BLOCK_M"]), blocks(n, choice["BLOCK_N"]), splits)](
            x,
            x.stride(0),
            weight.codes,
            weight.scales,
            weight.offsets if weight.zeros is None else weight.zeros,
            bias,
            target,
            target.stride(0),
            rows,
            n,
            weight.columns,
            spans,
            each,
            GROUP=weight.group,
            KIND=kind,
            HAS_BIAS=bias is not None,
            SPLIT=parts is not None,
            EVEN=whole_blocks(weight, choice["BLOCK_N"]),
            ASM=_unpacking(x.dtype, kind) if choice.pop("ASM") else "",
            **choice,
        )
    if parts is not None:
        add_parts(parts, bias, y)


def whole_blocks(weight: Int4Weight, block: int) -> bool:
    """Whether blocks of so many rows and spans cover the matrix exactly, so that nothing read of it needs a mask."""
    return weight.rows % block == 0 and weight.columns % SPAN == 0


@jit
def _dequantize_kernel(
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    out_ptr,
    N,
    columns,
    GROUP: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    plane_at = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = (n.to(tl.int64) + plane_at // 4 * N)[:, None] * 32 + tl.arange(0, 32)[None, :]
    words = tl.load(codes_ptr + at, mask=(n < N)[:, None], other=0).to(tl.int32)
    scale, level = _levels(plane_at * 32 // GROUP, plane_at + 1, n, N, scales_ptr, zeros_ptr, KIND)
    q = ((words >> plane_at % 4 * 4) & 15).to(tl.float32)
    if KIND == 0:
        w = (q - 8) * scale[:, None]
    elif KIND == 1:
        w = (q - level[:, None]) * scale[:, None]
    else:
        w = q * scale[:, None] + level[:, None]
    k = plane_at * 32 + tl.arange(0, 32)
    inside = (n < N)[:, None] & (k < columns)[None, :]
    tl.store(out_ptr + n.to(tl.int64)[:, None] * columns + k[None, :], w.to(out_ptr.dtype.element_ty), mask=inside)


def dequantize(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """The weights as numbers [out, in], in the order of the codes' columns (act-order is the input's to follow)."""
    out = torch.empty(weight.rows, weight.columns, dtype=dtype, device=weight.codes.device)
    kind = _ZEROS if weight.zeros is not None else _OFFSETS if weight.offsets is not None else _SYMMETRIC
    block = 64
    with on(out):
        _dequantize_kernel[(weight.codes.shape[0] * 4, blocks(weight.rows, block))](
            weight.codes,
            weight.scales,
            weight.offsets if weight.zeros is None else weight.zeros,
            out,
            weight.rows,
            weight.columns,
            GROUP=weight.group,
            KIND=kind,
            BLOCK_N=block,
            num_warps=4,
        )
    return out


def _check(x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None, out: torch.Tensor | None) -> None:
    check_input(x, weight.columns)
    require(weight.codes.device == x.device, "weight", "must be on x's device")
    groups = (weight.codes.shape[0] * SPAN // weight.group, weight.rows)
    require(weight.codes.dtype == torch.int16 and weight.codes.is_contiguous(), "weight", "codes must be as packed")
    for held in (weight.scales, weight.zeros, weight.offsets):
        if held is not None:
            fits = held.shape == groups and held.device == x.device and held.is_contiguous()
            require(fits, "weight", "scales, zeros and offsets must be [groups, out], contiguous, on x's device")
    check_output(x, weight.rows, bias, out)
