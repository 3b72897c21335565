"""Arithmetic over columns with one value a unit, and over the documents that the units stand in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_FAR = 5.0  # deviations


def standard(values: Floats) -> Floats:
    """Mean 0 and deviation 1; all zero where the values do not differ.

    Cut off: among a thousand values a single odd one is thirty deviations away, among those of a usual context five.
    """
    spread = float(values.std())
    return np.clip((values - values.mean()) / spread, -_FAR, _FAR) if spread > 1e-9 else np.zeros_like(values)


def share(found: Floats | NDArray[np.bool_], worth: Floats) -> Floats:
    """The worth of what is found, as a share of all there is: shape (rows,)."""
    return np.asarray((found > 0) @ worth / (worth.sum() + 1e-9), dtype=np.float64)


def best(values: Floats, documents: Indices) -> Floats:
    out = np.full(int(documents.max()) + 1, -np.inf)
    np.maximum.at(out, documents, values)
    return out


def before(rows: Floats, documents: Indices) -> Floats:
    """Each row's predecessor in its document, zero where there is none."""
    out = np.zeros_like(rows)
    out[1:][documents[1:] == documents[:-1]] = rows[:-1][documents[1:] == documents[:-1]]
    return out


def after(rows: Floats, documents: Indices) -> Floats:
    return before(rows[::-1], documents[::-1])[::-1]


def smoothed(values: Floats, documents: Indices) -> Floats:
    """Half a unit's own value, half the mean of its neighbours' in the same document."""
    ones = np.ones_like(values)
    count = before(ones, documents) + after(ones, documents)
    total = before(values, documents) + after(values, documents)
    return np.where(count > 0, (values + total / np.maximum(count, 1)) / 2, values)
