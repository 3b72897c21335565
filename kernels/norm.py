"""Root-mean-square norm of rows, alone or after adding the residual stream.

    h = x + residual                                  (when there is a residual)
    y = h / sqrt(mean(h^2) + eps) * weight

Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467. Sums are in float32 whatever the dtype;
`h` is rounded to x's dtype before it is squared, because that is what the next layer's residual will be.
One program computes one row, held in registers: it reads and writes each number once.
"""

from __future__ import annotations

import torch

from .dispatch import jit, on, power_of_two, require, require_floats, tl, tuned, use_triton


def reference_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, h) in plain torch; in float64 when x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    h = x if residual is None else x + residual
    up = h.to(wide)
    y = up * torch.rsqrt(up.square().mean(-1, keepdim=True) + eps) * weight.to(wide)
    return y.to(x.dtype), h


@jit
def _rms_norm_kernel(
    x_ptr,
    x_stride,
    residual_ptr,
    residual_stride,
    weight_ptr,
    y_ptr,
    y_stride,
    h_ptr,
    h_stride,
    columns,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    h = tl.load(x_ptr + row * x_stride + at, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        h = h.to(tl.float32) + tl.load(residual_ptr + row * residual_stride + at, mask=inside, other=0.0).to(tl.float32)
        h = h.to(x_ptr.dtype.element_ty)
        tl.store(h_ptr + row * h_stride + at, h, mask=inside)
    h = h.to(tl.float32)
    scale = tl.rsqrt(tl.sum(h * h, axis=0) / columns + eps)
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * y_stride + at, (h * scale * weight).to(y_ptr.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The norm of every row.

    x         [rows, columns], float16, bfloat16 or float32; rows may be strided, columns are contiguous
    weight    [columns], any of those dtypes
    residual  [rows, columns] of x's dtype; the sum x + residual is written back into it (it is the residual stream)
    out       [rows, columns] of x's dtype; made when not given. May be x.
    """
    _check(x, weight, residual, out)
    y = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    if not use_triton(x):
        value, h = reference_rms_norm(x, weight, eps, residual)
        if residual is not None:
            residual.copy_(h)
        return y.copy_(value)
    rows, columns = x.shape
    if rows == 0:
        return y
    block = power_of_two(columns)
    with on(x):
        _rms_norm_kernel[(rows,)](
            x,
            x.stride(0),
            residual,
            0 if residual is None else residual.stride(0),
            weight,
            y,
            y.stride(0),
            residual,
            0 if residual is None else residual.stride(0),
            columns,
            eps,
            HAS_RESIDUAL=residual is not None,
            BLOCK=block,
            **tuned("rms_norm", x.device, {"num_warps": min(max(block // 512, 1), 16)}, columns=columns, rows=rows),
        )
    return y


def _check(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor | None) -> None:
    require_floats("x", x)
    require_floats("weight", weight)
    require(x.ndim == 2, "x", "must be [rows, columns]")
    require(0 < x.shape[1] <= 65536, "x", "must have 1 to 65536 columns")
    require(x.stride(1) == 1, "x", "columns must be contiguous")
    require(weight.shape == x.shape[1:] and weight.is_contiguous(), "weight", "must be [columns], contiguous")
    require(weight.device == x.device, "weight", "must be on x's device")
    for name, other in (("residual", residual), ("out", out)):
        if other is not None:
            require(other.shape == x.shape and other.dtype == x.dtype, name, "must have x's shape and dtype")
            require(
                other.device == x.device and other.stride(1) == 1, name, "must be on x's device, columns contiguous"
            )
