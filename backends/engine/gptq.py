"""GPTQ: rounding a matrix so that its products with real inputs change least (arXiv 2210.17323).

Columns are rounded one after another; each one's error is spread over the columns that are still to come, in the
proportions that the inputs' second moments (the Hessian of the squared error) say. Knows torch; nothing of models.
"""

from __future__ import annotations

import torch

from .descent import descended
from .linear import swift
from .rounding import Rounded, fitted_grid

_BLOCK = 128  # columns whose errors are spread at once over all that come after
_ROWS = 1024  # gathered before they are multiplied
_LEAST_DAMP = 0.01
_DAMP = 0.4
_MOST_DAMP = 1.0


class Hessian:
    """Second moments of a matrix's inputs: float32 [inputs, inputs], from as many rows as calibration has."""

    def __init__(self, inputs: int) -> None:
        self._sum = torch.zeros(inputs, inputs)
        self._waiting: list[torch.Tensor] = []
        self.rows = 0

    def add(self, x: torch.Tensor) -> None:
        """See the rows x [n, inputs]."""
        self._waiting.append(x)
        self.rows += len(x)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._multiply()

    def mean(self) -> torch.Tensor:
        """Over all rows seen."""
        self._multiply()
        return self._sum / max(self.rows, 1)

    def damped(self) -> torch.Tensor:
        """The mean, with more on its diagonal the fewer rows there were for so many inputs.

        What few rows say of how inputs move together is mostly chance, and errors spread by chance are errors: with
        one row for each input the paper's 1 % of the mean diagonal leaves 1.6 times the error on other texts that
        this leaves, with ten it is enough.
        """
        mean = self.mean()
        damp = min(max(_DAMP * len(mean) / max(self.rows, 1), _LEAST_DAMP), _MOST_DAMP)
        mean.diagonal().add_(damp * mean.diagonal().mean().clamp(min=1e-12))
        return mean

    def _multiply(self) -> None:
        if self._waiting:
            inputs = torch.cat(self._waiting).T.contiguous()
            self._sum += swift("moments", inputs, inputs)
            self._waiting.clear()


def to_least_error(
    weight: torch.Tensor, moments: torch.Tensor, bits: int, group: int, symmetric: bool = False
) -> Rounded:
    """`weight` [outputs, inputs] in few bits, for inputs of those (damped) second moments.

    The inputs that matter most are rounded first, while all the others can still make up for them. Groups keep their
    inputs: their grids are set beforehand, so a reader needs no order.
    """
    grid = fitted_grid(weight, moments.diagonal(), bits, group, symmetric)
    inputs = weight.shape[1]
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    spread = _spread(moments[order][:, order])
    # One input a row from here on, so that what is touched together lies together.
    work, q = weight.T[order].contiguous(), torch.empty(inputs, len(weight))
    scales, zeros = grid.scale.T.contiguous(), grid.zero.T.contiguous()
    errors = torch.empty(_BLOCK, len(weight))
    places = order.tolist()
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        for j in range(start, end):
            scale, zero = scales[places[j] // group], zeros[places[j] // group]
            rounded = (work[j] / scale + zero).round_().clamp_(0, grid.top)
            error = torch.sub(work[j], (rounded - zero) * scale, out=errors[j - start]).div_(spread[j, j])
            work[j + 1 : end].addr_(spread[j, j + 1 : end], error, alpha=-1)
            q[places[j]] = rounded
        work[end:].addmm_(spread[start:end, end:].T, errors[: end - start], alpha=-1)
    return descended(weight, moments, Rounded(q.T.contiguous().to(torch.uint8), grid, group))


def _spread(moments: torch.Tensor) -> torch.Tensor:
    """The upper triangular factor of the inverse: row j says how column j's error is spread over those after it.

    Raises RuntimeError when the moments are no numbers.
    """
    damped, more = moments, _LEAST_DAMP * moments.diagonal().mean()
    while True:
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
            factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
            return factor
        except RuntimeError:  # torch's LinAlgError
            # Sums that lost their last digits: lean more on the diagonal.
            if more > _MOST_DAMP * moments.diagonal().mean() or not torch.isfinite(moments).all():
                raise
            damped = moments + torch.diag(more.expand(len(moments)))
            more = more * 10
