"""What `length.py` computes of predictions: Kendall's tau, errors, pinball loss, coverage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tau(a: Floats, b: Floats) -> float:
    """Kendall's tau-b; NaN where one side is all the same."""
    upper = np.triu_indices(len(a), 1)
    x = np.sign(a[:, None] - a[None])[upper]
    y = np.sign(b[:, None] - b[None])[upper]
    untied = np.sqrt(float((x != 0).sum()) * float((y != 0).sum()))
    return float((x * y).sum() / untied) if untied else float("nan")


def ordered(tokens: Floats) -> bool:
    """Whether a model's answers have an order to predict: not when most pairs are the same length."""
    known = tokens[np.isfinite(tokens)]
    _, counts = np.unique(known, return_counts=True)
    return bool((counts * (counts - 1)).sum() < 0.5 * len(known) * (len(known) - 1))


def pinball(true: Floats, predicted: Floats, level: float) -> float:
    """Mean pinball loss in tokens."""
    over = true - predicted
    return float(np.maximum(level * over, (level - 1) * over).mean())


def jain(values: Floats) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))
