"""What a router's scores are worth: APGR and CPT as RouteLLM defines them, with bootstrap intervals.

A threshold sends to the large model whatever scores at least as high. Ten parts of equal mass give eleven thresholds,
and the small model alone the last point; APGR is the trapezoid under quality over the large model's share, from the
small model's quality (0) to the large one's (1). CPT(x) is the share of calls at which x % of the gap is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PARTS = 10


class Worth(NamedTuple):
    apgr: float
    cpt50: float
    cpt80: float


def worth(score: Array, small: Array, large: Array) -> Worth:
    """APGR (1 would be all of the gap at once), and CPT in per cent of calls."""
    points = [(0.0, float(small.mean()))]
    for edge in np.quantile(score, np.linspace(0, 1, PARTS + 1)):
        to_large = score >= edge
        points.append((float(to_large.mean()), float(np.where(to_large, large, small).mean())))
    share, quality = np.array(sorted(points)).T
    low, gap = small.mean(), large.mean() - small.mean()
    area = (np.trapezoid(quality, share) - low) / gap
    calls = [100 * float(np.interp(low + part * gap, quality, share)) for part in (0.5, 0.8)]
    return Worth(float(area), calls[0], calls[1])


def intervals(score: Array, small: Array, large: Array, draws: int, seed: int) -> list[tuple[float, float]]:
    """95 % bootstrap intervals over prompts, of each figure of `Worth`."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = random.integers(len(score), size=len(score))
        if large[rows].mean() > small[rows].mean():
            found.append(worth(score[rows], small[rows], large[rows]))
    low, high = np.quantile(np.array(found), (0.025, 0.975), axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def share_of_broken(trial: Callable[[np.random.Generator], bool], draws: int, seed: int) -> float:
    """How often a promise was broken, in per cent."""
    random = np.random.default_rng(seed)
    return 100 * sum(trial(random) for _ in range(draws)) / draws
