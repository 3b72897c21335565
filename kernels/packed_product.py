"""What products x W^T + bias with packed weights share: which arguments they take, and their first block sizes.

Knows no packing: each kernel file checks its own weight.
"""

from __future__ import annotations

import torch

from .dispatch import power_of_two, require, require_floats


def check_input(x: torch.Tensor, columns: int) -> None:
    """Raises ValueError naming x if it is none for a weight of so many columns."""
    require_floats("x", x)
    require(x.ndim == 2, "x", "must be [rows, in]")
    require(x.shape[1] == columns, "x", f"must have the weight's {columns} columns, not {x.shape[1]}")
    require(x.stride(1) == 1, "x", "columns must be contiguous")


def check_output(x: torch.Tensor, rows: int, bias: torch.Tensor | None, out: torch.Tensor | None) -> None:
    """Raises ValueError naming what does not fit a weight of so many rows: its own tensors are checked before."""
    require_floats("bias", bias)
    if bias is not None:
        require(bias.shape == (rows,) and bias.device == x.device, "bias", "must be [out], on x's device")
        require(bias.is_contiguous(), "bias", "must be contiguous")
    if out is not None:
        require(out.shape == (x.shape[0], rows) and out.dtype == x.dtype, "out", "must be [rows, out] like x")
        require(out.device == x.device and out.stride(1) == 1, "out", "must be on x's device, columns contiguous")


def product_blocks(x: torch.Tensor, rows: int) -> dict[str, int]:
    """Block sizes where no table has better ones: as wide as the rows of x; SPLITS 0 is to be chosen."""
    plain = x.dtype == torch.float32  # no tensor core takes it: small tiles, or registers spill
    wide = 16 if plain else min(max(power_of_two(rows), 16), 128)
    return {
        "BLOCK_M": wide,
        "BLOCK_N": 64 if wide < 64 else 128,
        "SPLITS": 0,
        "num_warps": 4 if wide < 128 else 8,
        "num_stages": 2 if plain else 4,
    }
