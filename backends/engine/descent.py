"""Coordinate descent over a rounded matrix: each weight, and each group's scale, at its best while all others stay.

GPTQ rounds every input once, with the later ones still free; when all are rounded, some would better have gone the
other way (QuantEase, arXiv 2309.01885). The error only falls. Knows torch; nothing of models.
"""

from __future__ import annotations

import torch

from .rounding import Grid, Rounded

_SWEEPS = 2  # a third lowers the error by another percent


def descended(weight: torch.Tensor, moments: torch.Tensor, rounded: Rounded) -> Rounded:
    """`rounded` with less error on inputs of those (damped) second moments; `weight` is [outputs, inputs]."""
    grid, group = rounded.grid, rounded.group
    q, scales, zeros = (t.T.float().contiguous() for t in (rounded.q, grid.scale, grid.zero))
    values = rounded.floats().T.contiguous()
    slope = moments @ (values - weight.T)  # of the squared error, halved: [inputs, outputs]
    for _ in range(_SWEEPS):
        for g in range(len(scales)):
            of = slice(g * group, (g + 1) * group)
            square = moments[of, of]
            before, values[of] = values[of].clone(), _scaled(q[of] - zeros[g], slope[of], square, scales[g])
            here = slope[of] + square @ (values[of] - before)
            for j in range(group):
                i = g * group + j
                best = values[i] - here[j] / square[j, j]
                q[i] = (best / scales[g] + zeros[g]).round_().clamp_(0, grid.top)
                moved = (q[i] - zeros[g]) * scales[g] - values[i]
                here.addr_(square[j], moved)
                values[i] += moved
            slope.addmm_(moments[:, of], values[of] - before)
    return Rounded(q.T.contiguous().to(torch.uint8), Grid(scales.T.contiguous(), grid.zero, grid.top), group)


def _scaled(steps: torch.Tensor, slope: torch.Tensor, square: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A group's values with each output's scale, which is changed in place, at its best: least squares."""
    change = -(steps * slope).sum(0) / ((square @ steps) * steps).sum(0)
    better = (scale + change).half().float()
    # A group that is all zero has no best scale; one that would shrink or grow this much has lost its numbers' digits.
    sound = (better > 0.5 * scale) & (better < 2 * scale)
    scale.copy_(torch.where(sound, better, scale))
    return steps * scale
