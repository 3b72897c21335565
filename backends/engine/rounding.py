"""Writing a matrix in few bits: a grid for each group of inputs, and every weight at its nearest point.

Round-to-nearest is the baseline that better methods are measured against, and the grid is theirs too. Knows torch;
nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .checkpoint import FourBits


@dataclass(frozen=True, slots=True)
class Grid:
    """weight = (q - zero) * scale, q from 0 to `top`. `scale` and `zero` float32 [outputs, groups]; zero is whole."""

    scale: torch.Tensor
    zero: torch.Tensor
    top: int

    def nearest(self, weight: torch.Tensor, group: int | slice = slice(None)) -> torch.Tensor:
        """q of weights [outputs, n], one for each group, or all in `group`."""
        scale, zero = self.scale[:, group], self.zero[:, group]
        if isinstance(group, int):
            scale, zero = scale[:, None], zero[:, None]
        return (weight / scale + zero).round().clamp(0, self.top)

    def value(self, q: torch.Tensor, group: int) -> torch.Tensor:
        """The weights [outputs, n] that q stands for in one group."""
        return (q - self.zero[:, group, None]) * self.scale[:, group, None]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix in few bits: `q` uint8 [outputs, inputs], groups of `group` inputs in their own order."""

    q: torch.Tensor
    grid: Grid
    group: int

    def floats(self) -> torch.Tensor:
        outputs, inputs = self.q.shape
        parts = self.q.float().view(outputs, -1, self.group)
        return ((parts - self.grid.zero[:, :, None]) * self.grid.scale[:, :, None]).view(outputs, inputs)

    def rows(self, start: int, end: int) -> Rounded:
        """Some of the outputs."""
        grid = Grid(self.grid.scale[start:end], self.grid.zero[start:end], self.grid.top)
        return Rounded(self.q[start:end], grid, self.group)

    def four_bits(self) -> FourBits:
        q = self.q.numpy()
        values = np.bitwise_or(q[:, 0::2], q[:, 1::2] << np.uint8(4))
        return FourBits(values, self.grid.scale.numpy(), (-self.grid.zero * self.grid.scale).numpy(), self.group)


def grid_of(weight: torch.Tensor, bits: int, group: int, symmetric: bool = False) -> Grid:
    """The grid from the least to the greatest weight of each group. Symmetric: zero in the middle.

    Zero is always on it, never as q = 0, which GPTQ's files cannot say. Scales are rounded to float16, as files have
    them.
    """
    outputs, inputs = weight.shape
    parts = weight.reshape(outputs, inputs // group, group)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    top = (1 << bits) - 1
    low = torch.minimum(low, -high / (top - 1))
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = ((high - low) / top).half().float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = torch.full_like(scale, (top + 1) / 2) if symmetric else (-low / scale).round().clamp(1, top)
    return Grid(scale, zero, top)


def to_nearest(weight: torch.Tensor, bits: int, group: int, symmetric: bool = False) -> Rounded:
    """Every weight at its nearest point of the grid, whatever the others are."""
    grid = grid_of(weight, bits, group, symmetric)
    outputs, inputs = weight.shape
    parts = weight.reshape(outputs, -1, group)
    q = (parts / grid.scale[:, :, None] + grid.zero[:, :, None]).round().clamp(0, grid.top)
    return Rounded(q.view(outputs, inputs).to(torch.uint8), grid, group)
