"""What a router's scores are worth: APGR and CPT as RouteLLM defines them (arXiv:2406.18665), with bootstrap intervals.

A threshold sends to the large model whatever scores at least as high. Ten parts of equal mass give eleven thresholds,
and the small model alone the last point; APGR is the trapezoid under quality over the large model's share, from the
small model's quality (0) to the large one's (1). CPT(x) is the share of calls at which x % of the gap is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PARTS = 10


class Worth(NamedTuple):
    """APGR (1 would be all of the gap at once), and CPT in per cent of calls."""

    apgr: float
    cpt50: float
    cpt80: float


class NoGap(ValueError):
    """The large model is no better than the small one on these prompts: there is nothing that a router could gain."""


def curve(score: Array, small: Array, large: Array, parts: int = PARTS) -> tuple[Array, Array]:
    """Share of the large model, and the quality of all answers at it; both ascending in the share."""
    points = [(0.0, float(small.mean()))]
    for edge in np.quantile(score, np.linspace(0, 1, parts + 1)):
        to_large = score >= edge
        points.append((float(to_large.mean()), float(np.where(to_large, large, small).mean())))
    share, quality = np.array(sorted(points)).T
    return share, quality


def worth(score: Array, small: Array, large: Array) -> Worth:
    """`score`: the higher, the more the large model is needed. Raises NoGap."""
    low, gap = float(small.mean()), float(large.mean() - small.mean())
    if not gap > 0:
        raise NoGap(f"the large model answers {large.mean():.1%} well, the small one {low:.1%}")
    share, quality = curve(score, small, large)
    area = (float(np.sum(np.diff(share) * (quality[1:] + quality[:-1]) / 2)) - low) / gap
    calls = [100 * float(np.interp(low + part * gap, quality, share)) for part in (0.5, 0.8)]
    return Worth(area, calls[0], calls[1])


def intervals(score: Array, small: Array, large: Array, draws: int, seed: int) -> list[tuple[float, float]]:
    """95 % bootstrap intervals over prompts, of each figure of `Worth`; draws without a gap are left out."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = random.integers(len(score), size=len(score))
        if large[rows].mean() > small[rows].mean():
            found.append(worth(score[rows], small[rows], large[rows]))
    if not found:
        return [(float("nan"), float("nan"))] * 3
    low, high = np.quantile(np.array(found), (0.025, 0.975), axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
