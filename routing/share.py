"""The share of requests that the large model answers, held at what was asked for.

A score goes to the large model if it is above the live quantile of the tenant's recent scores; what was already given
out steers the quantile, so that the share that comes about is the share that was asked for, also while the traffic
changes. Pure bookkeeping of scores; knows no prompts, no clock and no model.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

# The quantile is taken over so many requests: some hours of a busy tenant, little memory, and 1/500 of resolution.
WINDOW = 2_000
# So many requests owed, and this part of the window beside, move the quantile from one end to the other: little enough
# that scores which only rise still keep the share within two points.
_STEER, _STEER_PART = 8, 0.01
# Before so many requests there is no quantile; the scores of the calibration stand in for what was not seen yet.
_KNOWN = 200


class LiveShare:
    """One tenant's route. `seed`: scores of prompts that the calibration was fitted on, as a first idea of the spread;
    they leave as the tenant's own come in."""

    def __init__(self, seed: list[float] | None = None, window: int = WINDOW) -> None:
        seed = sorted(seed or [])
        step = max(1, len(seed) // _KNOWN)
        self._seed = seed[::step][:_KNOWN]
        self._recent: deque[tuple[float | None, bool]] = deque()
        self._sorted: list[float] = []
        self._window = window
        self._large = 0

    def is_large(self, score: float, share: float) -> bool:
        """Whether this request is among the `share` that most needs the large model; counts it as decided so.

        Equal scores are split so that the share still comes about.
        """
        decided = share >= 1 if share <= 0 or share >= 1 else self._decided(score, share)
        self._count(score, decided)
        return decided

    def take_large(self) -> None:
        """Count a request that goes to the large model whatever the share is; the coming ones make up for it."""
        self._large += 1
        self._recent.append((None, True))
        self._trim()

    def take_small(self) -> None:
        """The same for one that the small model has to answer."""
        self._recent.append((None, False))
        self._trim()

    def turned(self, large: bool) -> None:
        """Who answers the request that was counted last, after all: something outweighed the share."""
        if self._recent and self._recent[-1][1] != large:
            self._recent[-1] = (self._recent[-1][0], large)
            self._large += 1 if large else -1

    @property
    def realised(self) -> float | None:
        """The large model's share of the window; None before the first request."""
        return self._large / len(self._recent) if self._recent else None

    def _decided(self, score: float, share: float) -> bool:
        below, upto, of = self._rank(score)
        if not of:
            return True  # nothing to compare with: the large model
        wanted = 1 - min(1.0, max(0.0, share + self._behind(share)))
        if below / of >= wanted:
            return True
        # Ties that straddle the quantile: the part that is still owed.
        return upto / of > wanted and self._behind(share) > 0

    def _behind(self, share: float) -> float:
        """By how much the quantile moves for what is owed to the large model, or was given too much."""
        of = len(self._recent)
        return (share * of - self._large) / (_STEER + _STEER_PART * of)

    def _rank(self, score: float) -> tuple[float, float, float]:
        """How many known scores are below, how many at most as high, and how many there are; the seed's fade."""
        weight = max(0.0, 1 - len(self._sorted) / _KNOWN)
        below = bisect_left(self._sorted, score) + weight * bisect_left(self._seed, score)
        upto = bisect_right(self._sorted, score) + weight * bisect_right(self._seed, score)
        return below, upto, len(self._sorted) + weight * len(self._seed)

    def _count(self, score: float, large: bool) -> None:
        self._recent.append((score, large))
        insort(self._sorted, score)
        self._large += large
        self._trim()

    def _trim(self) -> None:
        if len(self._recent) > self._window:
            old, was_large = self._recent.popleft()
            if old is not None:
                del self._sorted[bisect_left(self._sorted, old)]
            self._large -= was_large
