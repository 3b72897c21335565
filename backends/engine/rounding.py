"""Writing a matrix in few bits: a grid for each group of inputs, and every weight at its nearest point.

Round-to-nearest is the baseline that better methods are measured against, and the grid is theirs too. Knows torch;
nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .checkpoint import FourBits

_SHRINKS = tuple(1 - k / 32 for k in range(1, 11))  # of a grid's width; less than two thirds is never best


@dataclass(frozen=True, slots=True)
class Grid:
    """weight = (q - zero) * scale, q from 0 to `top`. `scale` and `zero` float32 [outputs, groups]; zero is whole."""

    scale: torch.Tensor
    zero: torch.Tensor
    top: int


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


def grid_of(weight: torch.Tensor, bits: int, group: int, symmetric: bool = False, shrink: float = 1.0) -> Grid:
    """The grid from the least to the greatest weight of each group, times `shrink`. Symmetric: zero in the middle.

    Zero is always on it, never as q = 0, which GPTQ's files cannot say. Scales are rounded to float16, as files have
    them.
    """
    outputs, inputs = weight.shape
    parts = weight.reshape(outputs, inputs // group, group)
    low, high = parts.amin(-1).clamp(max=0) * shrink, parts.amax(-1).clamp(min=0) * shrink
    top = (1 << bits) - 1
    low = torch.minimum(low, -high / (top - 1))
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = ((high - low) / top).half().float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = torch.full_like(scale, (top + 1) / 2) if symmetric else (-low / scale).round().clamp(1, top)
    return Grid(scale, zero, top)


def fitted_grid(weight: torch.Tensor, matters: torch.Tensor, bits: int, group: int, symmetric: bool = False) -> Grid:
    """Of narrower and narrower grids the one with the least squared error in each group.

    `matters` [inputs] is how much an input's error counts: its mean square. One great weight among small ones, and
    the half of a symmetric grid that a lopsided group has no use for, cost all others their steps.
    """
    best = grid_of(weight, bits, group, symmetric)
    least = _error(weight, best, matters, group)
    for shrink in _SHRINKS:
        grid = grid_of(weight, bits, group, symmetric, shrink)
        error = _error(weight, grid, matters, group)
        better, least = error < least, torch.minimum(error, least)
        scale, zero = torch.where(better, grid.scale, best.scale), torch.where(better, grid.zero, best.zero)
        best = Grid(scale, zero, grid.top)
    return best


def _error(weight: torch.Tensor, grid: Grid, matters: torch.Tensor, group: int) -> torch.Tensor:
    """What rounding to nearest costs: [outputs, groups]."""
    parts = weight.view(len(weight), -1, group)
    return ((_nearest(weight, grid, group).floats().view_as(parts) - parts).square() * matters.view(-1, group)).sum(-1)


def to_nearest(weight: torch.Tensor, bits: int, group: int, symmetric: bool = False) -> Rounded:
    """Every weight at its nearest point of the grid from least to greatest, whatever the others are."""
    return _nearest(weight, grid_of(weight, bits, group, symmetric), group)


def _nearest(weight: torch.Tensor, grid: Grid, group: int) -> Rounded:
    parts = weight.reshape(len(weight), -1, group)
    q = (parts / grid.scale[:, :, None] + grid.zero[:, :, None]).round_().clamp_(0, grid.top)
    return Rounded(q.view(weight.shape).to(torch.uint8), grid, group)
