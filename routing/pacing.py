"""A day's money for the large model, spent evenly: who gets it, hour by hour.

The share of requests that the large model may answer is what is left of the day's money, over what the requests of the
rest of the day would cost it; `share.py` turns that share into a decision. Overspending is corrected within the day,
and the last cent is never overdrawn on purpose: without money left the small model answers. Pure; the clock and the
costs are handed in. Money is in micro-dollars, time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

DAY_S = 86_400.0
# Rate and cost are averages that forget by this time constant: long enough to smooth an hour, short enough to follow
# the day.
_MEMORY_S = 3_600.0
_FIRST_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """One tenant's day. `began`: its midnight; `spent`: on the large model since; `rate`: requests a second and `cost`:
    what the large model would charge for one, both averages; `seen`: requests since the start, `at`: the last one."""

    began: float
    at: float
    spent: int = 0
    rate: float = 0.0
    cost: float = 0.0
    seen: int = 0

    def arrived(self, now: float, cost: int) -> Pace:
        """After a request that would cost the large model `cost`."""
        day = self if now < self.began + DAY_S else self._next_day(now)
        gap = max(0.0, now - day.at)
        keep = exp(-gap / _MEMORY_S)
        # An exponential average of a point process: each arrival adds 1 / memory.
        rate = day.rate * keep + 1 / _MEMORY_S
        weight = max(1 / (day.seen + 1), 0.01)
        return replace(
            day, at=max(now, day.at), rate=rate, cost=day.cost + weight * (cost - day.cost), seen=day.seen + 1
        )

    def charged(self, cost: int) -> Pace:
        return replace(self, spent=self.spent + cost)

    def share(self, microusd_per_day: int, now: float) -> float:
        """The share of the coming requests that the large model may answer, 0 to 1."""
        left = microusd_per_day - self.spent
        if left <= 0 or left < self.cost:
            return 0.0
        rest = max(1.0, self.began + DAY_S - now)
        if self.seen < _FIRST_REQUESTS or self.cost <= 0:
            return 1.0 if self.cost <= 0 else min(1.0, left / (self.cost * _FIRST_REQUESTS))
        return min(1.0, left / (self._rate(now) * rest * self.cost))

    def _rate(self, now: float) -> float:
        """Requests a second; the average starts from nothing, so it is corrected for how long it has been running."""
        running = max(60.0, now - self.began) if self.seen < 10_000 else _MEMORY_S * 10
        return self.rate * exp(-max(0.0, now - self.at) / _MEMORY_S) / (1 - exp(-running / _MEMORY_S))

    def _next_day(self, now: float) -> Pace:
        days = int((now - self.began) // DAY_S)
        return replace(self, began=self.began + days * DAY_S, spent=0)
