"""How often a promise is broken over draws of the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def share_of_broken(trial: Callable[[np.random.Generator], bool], draws: int, seed: int) -> float:
    """In per cent."""
    random = np.random.default_rng(seed)
    return 100 * sum(trial(random) for _ in range(draws)) / draws
