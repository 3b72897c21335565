"""The gated activation of a Llama feed-forward block.

    y = silu(gate) * up,   silu(g) = g / (1 + exp(-g))

Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202. Computed in float32. `gate` and `up` are usually the two
halves of one projection's output, so their rows are strided; each number is read once and written once.
"""

from __future__ import annotations

import torch

from .dispatch import blocks, jit, on, require, require_floats, tl, tuned, use_triton


def reference_swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """In plain torch; in float64 when the inputs are."""
    wide = torch.float64 if gate.dtype == torch.float64 else torch.float32
    return (torch.nn.functional.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype)


@jit
def _swiglu_kernel(
    gate_ptr,
    gate_stride,
    up_ptr,
    up_stride,
    y_ptr,
    y_stride,
    columns,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    gate = tl.load(gate_ptr + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + row * y_stride + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def swiglu(gate: torch.Tensor, up: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """silu(gate) * up.

    gate, up  [rows, columns], float16, bfloat16 or float32, both alike; rows may be strided, columns are contiguous
    out       [rows, columns] of that dtype; made when not given
    """
    _check(gate, up, out)
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) if out is None else out
    if not use_triton(gate):
        return y.copy_(reference_swiglu(gate, up))
    rows, columns = gate.shape
    if rows == 0:
        return y
    choice = tuned("swiglu", gate.device, {"BLOCK": 1024, "num_warps": 4}, columns=columns, rows=rows)
    with on(gate):
        _swiglu_kernel[(rows, blocks(columns, choice["BLOCK"]))](
            gate, gate.stride(0), up, up.stride(0), y, y.stride(0), columns, **choice
        )
    return y


def _check(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor | None) -> None:
    require_floats("gate", gate)
    require(gate.ndim == 2, "gate", "must be [rows, columns]")
    for name, other in (("gate", gate), ("up", up), ("out", out)):
        if other is not None:
            require(other.shape == gate.shape and other.dtype == gate.dtype, name, "must have gate's shape and dtype")
            require(other.device == gate.device, name, "must be on gate's device")
            require(other.shape[1] > 0 and other.stride(1) == 1, name, "columns must be there, and contiguous")
