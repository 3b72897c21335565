"""What a tenant's large model has cost today: as the books say, and what is on its way into them.

`pacing.py` turns it into a share. What a request will cost is set aside when the large model is chosen and given back
when the books have it, so that many requests at once do not each see the same last dollar. Money is in micro-dollars,
time in seconds since the epoch, days are UTC's. Knows no books: their figure is handed in.
"""

from __future__ import annotations

from dataclasses import replace

from .pacing import DAY_S, Pace

STALE_S = 10.0


class DayMoney:
    def __init__(self, now: float) -> None:
        self._pace = Pace(began=now // DAY_S * DAY_S, at=now)
        self._booked = 0  # as the books said,
        self._since = 0  # and charged here since they were asked,
        self._before = 0  # of which so much before they were asked last
        self._held = 0
        self._asked = float("-inf")

    def stale(self, now: float) -> bool:
        """Whether the books should be asked again; says so once, until it is answered or given up for a while."""
        if now - self._asked < STALE_S and now < self._pace.began + DAY_S:
            return False
        self._asked = now
        self._before = self._since
        return True

    def told(self, spent: int) -> None:
        """What the books say was spent since midnight. What was charged while they were read may count twice, until
        they are asked again: rather too much than too little."""
        self._booked = spent
        self._since -= self._before
        self._before = 0

    def arrived(self, cost: int, now: float) -> None:
        """A request that would cost the large model `cost`."""
        day = self._pace.began
        self._pace = self._pace.arrived(now, cost)
        if self._pace.began != day:
            self._booked = self._since = self._before = 0

    def share(self, per_day: int, now: float) -> float:
        """The share of the coming requests that the large model may answer, 0 to 1."""
        return replace(self._pace, spent=self.spent).share(per_day, now)

    @property
    def spent(self) -> int:
        return self._booked + self._since + self._held

    def hold(self, cost: int) -> None:
        self._held += cost

    def settle(self, held: int, charged: int) -> None:
        """What was set aside is known now; `charged`: what the large model took."""
        self._held -= held
        self._since += charged
