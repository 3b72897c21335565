"""Element-wise functions on a CPU whose bits depend on nothing but the element.

torch computes whole vectors of numbers one way and what is left at the end of a call, or of a thread's share of it,
another: exp2, sigmoid and silu then differ in the last bit. So calls here are small enough for one thread, and made of
whole vectors. Knows numbers only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_LANES = 32  # numbers that the widest loop takes at once
_SERIAL = 32_736  # numbers of a call that torch does not share out among threads: a multiple of _LANES


def exp2_(x: torch.Tensor) -> torch.Tensor:
    """2 to the power of each number of a contiguous float32 tensor, in place; a multiple of 32 numbers.

    `torch.exp` needs no such care, and on CPUs that are not Intel's takes ten times as long.
    """
    assert x.numel() % _LANES == 0
    if x.numel() <= _SERIAL:
        return x.exp2_()
    for piece in torch.split(x.view(-1), _SERIAL):
        piece.exp2_()
    return x


def swish(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, float32 [rows, width]."""
    rows, width = gate.shape
    spare = -width % _LANES
    if spare:
        gate = F.pad(gate, (0, spare))
    each = max(1, _SERIAL // (width + spare))
    if rows <= each:
        out = F.silu(gate)
    elif width + spare <= _SERIAL:
        out = torch.cat([F.silu(part) for part in torch.split(gate, each)])
    else:
        out = torch.cat([F.silu(part) for part in torch.split(gate.reshape(-1), _SERIAL)]).view(rows, -1)
    return (out[:, :width] if spare else out).mul_(up)
