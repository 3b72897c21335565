"""In what order waiting requests are taken: shorter answers first, but nobody waits much longer than in plain order.

A priority structure and nothing else: it starts no work and reads no clock. The gateway's admission queue and the
engine's scheduler both use it. Size is whatever unit the caller predicts (seconds of service), the same everywhere.

Each request gets a latest start when it arrives: `BOUND` mean services from then, or, where the work that is ahead of
it already takes longer, that work's own time and `SLACK` of it. A shorter request is taken first only if everything it
overtakes can still make its latest start. While as many wait as there are slots or fewer, plain order holds.
Between tenants, none gets further ahead of another that waits than such a bound, or
three between tenants that ask for about as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

BOUND = 20.0
SLACK = 1.02
CONGESTED = 0.93  # of the longest backlog that was seen lately: what waits are like here anyway
FADING = 0.9995  # of that longest backlog, per arrival
MEAN_OVER = 200.0  # services over which the mean size is taken
EVENED = 50.0  # mean services more than another had, at which a tenant's requests count double
FEWER = 4.0  # times the work that a tenant asks for in a crowd, beside one that it must not hold up
APART = 3.0  # bounds that a tenant may be ahead of another that waits; among equals luck in sizes does as much
LOOKED_AT = 512  # the oldest that are looked through; beyond them plain order holds


@dataclass(slots=True)
class Waiting(Generic[Item]):
    item: Item
    tenant: str
    size: float
    since: float
    latest: float


class SizedQueue(Generic[Item]):
    """`slots`: how many are served at a time."""

    def __init__(self, slots: int = 1, mean_size: float = 0.0, bound: float = BOUND) -> None:
        if slots < 1 or bound < 0:
            raise ValueError("slots must be at least 1 and the bound not below 0")
        self.slots = slots
        self._bound = bound
        self._mean = mean_size
        # A mean that was handed in is worth twenty arrivals.
        self._arrived = 20 if mean_size > 0 else 0
        self._waiting: list[Waiting[Item]] = []
        self._backlog = 0.0
        self._worst = 0.0
        self._served: dict[str, float] = {}
        self._foreseen = self._took = 20.0 * max(mean_size, 1e-9)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def backlog(self) -> float:
        """The predicted services of all that wait, together, as scaled by what services took."""
        return self._backlog

    def push(self, item: Item, size: float, now: float, tenant: str = "") -> None:
        """`size`: the predicted time of service, above 0; `now`: of a clock that never goes back."""
        size = max(size, 1e-9) * self._took / self._foreseen
        self._arrived += 1
        self._mean += (size - self._mean) / min(self._arrived, MEAN_OVER)
        ahead = self._backlog / self.slots
        self._worst = max(self._worst * FADING, ahead)
        allowed = max(self._bound * self._mean, SLACK * ahead, CONGESTED * self._worst)
        if not any(one.tenant == tenant for one in self._waiting):
            # Who comes back gets no credit for having been away.
            floor = min((self._served.get(one.tenant, 0.0) for one in self._waiting), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, 0.0), floor)
        self._waiting.append(Waiting(item, tenant, size, now, now + allowed))
        self._backlog += size

    def pop(self, now: float) -> Item:
        """The next to serve. Raises IndexError where nobody waits."""
        at = self._choice(now)
        taken = self._waiting.pop(at)
        self._backlog = max(0.0, self._backlog - taken.size) if self._waiting else 0.0
        self._served[taken.tenant] = self._served.get(taken.tenant, 0.0) + taken.size
        if not self._waiting:
            self._served.clear()
        return taken.item

    def finished(self, predicted: float, took: float) -> None:
        """What a service took against what was predicted: predictions that are short all along are scaled up."""
        fade = 1 - 1 / MEAN_OVER
        self._foreseen = self._foreseen * fade + max(predicted, 1e-9)
        self._took = self._took * fade + max(took, 1e-9)

    def discard(self, item: Item) -> bool:
        """Takes out one that no longer waits; whether it was there."""
        for at, one in enumerate(self._waiting):
            if one.item is item:
                del self._waiting[at]
                self._backlog = max(0.0, self._backlog - one.size) if self._waiting else 0.0
                return True
        return False

    def _choice(self, now: float) -> int:
        """The cheapest of those that can go first without making anyone they overtake late.

        A tenant that was served more than the others lately has its requests count as longer, in proportion.
        """
        waiting = self._waiting
        if len(waiting) <= self.slots:
            return 0
        extra, behind = self._surcharge(), self._behind()
        best = 0 if behind is None else next(at for at, one in enumerate(waiting) if one.tenant == behind)
        price, starts, slack = float("inf"), now, float("inf")
        for at, one in enumerate(waiting[:LOOKED_AT]):
            asked = one.size * extra.get(one.tenant, 1.0)
            eligible = behind is None or one.tenant == behind
            if eligible and asked < price and (at == 0 or one.size <= slack * self.slots):
                best, price = at, asked
            slack = min(slack, one.latest - starts)
            if slack <= 0:
                break
            starts += one.size / self.slots
        return best

    def _behind(self) -> str | None:
        """The tenant that is to be served now, since another had too much more while both waited.

        That is `bound` mean services beside a crowd of the other's, more between equals: among those the shortest goes
        first, and whose sizes are large falls behind by itself. Who sends a thousand requests makes his own wait for
        one another, and not everybody else for them.
        """
        if len(self._served) < 2:
            return None
        served = {one.tenant: self._served.get(one.tenant, 0.0) for one in self._waiting}
        least, most = min(served, key=served.__getitem__), max(served, key=served.__getitem__)
        ahead = served[most] - served[least]
        if ahead <= self._bound * self._mean:
            return None
        asked = dict.fromkeys(served, 0.0)
        for one in self._waiting:
            asked[one.tenant] += one.size
        crowd = asked[most] > FEWER * asked[least]
        return least if crowd or ahead > APART * self._bound * self._mean else None

    def _surcharge(self) -> dict[str, float]:
        tenants = {one.tenant for one in self._waiting}
        if len(tenants) < 2:
            return {}
        served = {tenant: self._served.get(tenant, 0.0) for tenant in tenants}
        least, unit = min(served.values()), max(self._mean, 1e-9)
        return {tenant: 1.0 + (amount - least) / (EVENED * unit) for tenant, amount in served.items()}
