"""Is a prompt like those that a calibration was fitted on? By what it is about, and by what it looks like.

One domain is one kind of prompts (a benchmark's, a tenant's); a calibration may have several, and a prompt is in domain
if it is like any of them. Knows no models and no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Domain:
    """`places`: unit vectors among its prompts. `mean`, `spread`: of the features; `whiten` turns standardised ones
    into independent ones. `far`: (vector, form) distances that 1 % of its own prompts exceed."""

    places: Array
    mean: Array
    spread: Array
    whiten: Array
    far: tuple[float, float] = (1.0, 1.0)

    def distances(self, vectors: Array, features: Array) -> NDArray[Any]:
        """(n, 2): one minus the cosine to the nearest place, and Mahalanobis' distance of the features, each figure's
        share of it the mean."""
        standard = (features - self.mean) / self.spread
        form = np.sqrt(np.mean((standard @ self.whiten) ** 2, axis=1))
        return np.stack([1 - cosines(vectors, self.places).max(axis=1), form], axis=1)

    def distance(self, vectors: Array, features: Array) -> NDArray[Any]:
        """(n,): the larger of both in units of what is far; above 1 is out of domain."""
        found: NDArray[Any] = (self.distances(vectors, features) / np.array(self.far)).max(axis=1)
        return found


def cosines(vectors: Array, places: Array) -> NDArray[Any]:
    """(n, places) of unit vectors. On this thread only: for one prompt it takes longer to wake BLAS's others, and on a
    busy machine the slowest of them decides."""
    found: NDArray[Any] = np.einsum("nd,pd->np", vectors, places)
    return found


def distance(domains: Sequence[Domain], vectors: Array, features: Array) -> NDArray[Any]:
    """(n,): to the nearest of the domains."""
    found: NDArray[Any] = np.min([domain.distance(vectors, features) for domain in domains], axis=0)
    return found
