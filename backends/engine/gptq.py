"""GPTQ: rounding a matrix so that its products with real inputs change least (arXiv 2210.17323).

Columns are rounded one after another; each one's error is spread over the columns that are still to come, in the
proportions that the inputs' second moments (the Hessian of the squared error) say. Knows torch; nothing of models.
"""

from __future__ import annotations

import torch

from .rounding import Rounded, grid_of

_BLOCK = 128  # columns whose errors are spread at once over all that come after
_DAMP = 0.01  # of the Hessian's mean diagonal, added to it
_MOST_DAMP = 1.0


class Hessian:
    """Second moments of a matrix's inputs: float32 [inputs, inputs], the mean over all rows seen."""

    def __init__(self, inputs: int) -> None:
        self._sum = torch.zeros(inputs, inputs)
        self.rows = 0

    def add(self, x: torch.Tensor) -> None:
        """See the rows x [n, inputs]."""
        self._sum.addmm_(x.T, x)
        self.rows += len(x)

    def mean(self) -> torch.Tensor:
        return self._sum / max(self.rows, 1)


def to_least_error(
    weight: torch.Tensor, moments: torch.Tensor, bits: int, group: int, symmetric: bool = False, sort: bool = True
) -> Rounded:
    """`weight` [outputs, inputs] in few bits, for inputs of those second moments.

    `sort` rounds the inputs that matter most first, while all the others can still make up for them. Groups keep their
    inputs: their grids are set beforehand, so a reader needs no order. Inputs that were always zero change nothing and
    are rounded to nearest.
    """
    work, inputs = weight.clone(), weight.shape[1]
    grid = grid_of(weight, bits, group, symmetric)
    order = torch.argsort(moments.diagonal(), descending=True, stable=True) if sort else torch.arange(inputs)
    spread = _spread(moments[order][:, order])
    q = torch.empty_like(work)
    work = work[:, order]
    places = order.tolist()
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.empty(len(work), end - start)
        for j in range(start, end):
            column, of = work[:, j : j + 1], places[j] // group
            rounded = grid.nearest(column, of)
            q[:, places[j]] = rounded[:, 0]
            error = (column - grid.value(rounded, of)) / spread[j, j]
            work[:, j:end].addmm_(error, spread[j : j + 1, j:end], alpha=-1)
            errors[:, j - start] = error[:, 0]
        work[:, end:].addmm_(errors, spread[start:end, end:], alpha=-1)
    return Rounded(q.to(torch.uint8), grid, group)


def _spread(moments: torch.Tensor) -> torch.Tensor:
    """The upper triangular factor of the inverse: row j says how column j's error is spread over those after it.

    Raises RuntimeError when the moments are no numbers.
    """
    diagonal = moments.diagonal()
    unseen = diagonal == 0
    mean = diagonal.mean().clamp(min=1e-12)
    damp = _DAMP
    while True:
        damped = moments + torch.diag(damp * mean + unseen * mean)
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
            factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
            return factor
        except RuntimeError:  # torch's LinAlgError
            # Too few rows for so many inputs, or sums that lost their last digits: lean more on the diagonal.
            if damp >= _MOST_DAMP or not torch.isfinite(moments).all():
                raise
            damp *= 10
