"""One weight matrix and the fastest exact way to multiply by it on this machine.

On a CPU a matrix is kept twice: as the file's own 4-bit blocks for one to four rows (a decoding step reads a quarter of
the bytes), and in oneDNN's bfloat16 layout for more (a prompt). Plain `F.linear` in bfloat16 re-orders the weight at
every call and costs about twice as much. A CPU without AVX-512 bfloat16 computes in float32, a GPU in plain bfloat16.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from .blocks import nibbles
from .gguf import GGUF

Compute = Literal["packed", "bfloat16", "float32"]

_FEW_ROWS = 4  # up to here 4-bit beats bfloat16 (measured on Zen 5 and Sapphire Rapids)
_GROUP = 32  # weights a Q4_0 or Q4_1 block, each with one scale and one offset


def best_compute(device: torch.device) -> Compute:
    """How this machine computes best: a fact of the machine, not of a timing, so that answers repeat."""
    if device.type == "cuda":
        return "bfloat16"
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "packed" if fast else "float32"


class Linear:
    """y = x W^T for one matrix, or several of the same input stacked. `x` and `y` are of `dtype`, rows first."""

    def __init__(self, file: GGUF, names: tuple[str, ...], compute: Compute, device: torch.device) -> None:
        weight = torch.from_numpy(np.concatenate([file.floats(name) for name in names]))
        self.dtype = torch.float32 if compute == "float32" else torch.bfloat16
        self._packed = compute == "packed"
        self._four: tuple[torch.Tensor, torch.Tensor] | None = None
        if self._packed:
            self._four = _four_bits(file, names, weight.shape)
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 64)
        else:
            self._weight = weight.to(device, self.dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._packed:
            return F.linear(x, self._weight)
        if self._four is not None and x.shape[0] <= _FEW_ROWS:
            few: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._four[0], _GROUP, self._four[1])
            return few
        many: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return many


def _four_bits(file: GGUF, names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The file's own 4-bit values and scales in torch's packed layout; None when the file has other blocks."""
    rows, columns = shape
    if rows % 16 or any(file.kind(name) not in ("Q4_0", "Q4_1") for name in names):
        return None
    values, scales = zip(*(_values_and_scales(file, name, columns) for name in names), strict=True)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.cat(values), 1)
    return packed, torch.cat(scales).transpose(0, 1).contiguous().bfloat16()


def _values_and_scales(file: GGUF, name: str, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = file.blocks(name)
    head = 4 if file.kind(name) == "Q4_1" else 2
    values = torch.from_numpy(nibbles(blocks[:, head:])).view(-1, columns).to(torch.int32)
    numbers = torch.from_numpy(blocks[:, :head].copy().view("<f2").astype(np.float32)).view(
        -1, columns // _GROUP, head // 2
    )
    scale = numbers[..., 0]
    # torch computes (value - 8) * scale + offset; Q4_0 is that with no offset, Q4_1 is value * scale + least.
    offset = numbers[..., 1] + 8 * scale if head == 4 else torch.zeros_like(scale)
    return values, torch.stack((scale, offset), dim=-1)
