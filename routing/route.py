"""The `route` stage: who should answer?

Until the router is built it knows two answers only, and both are the operator's: `small_only` and `large_only`. For any
other goal the large model answers first, since nothing is known yet about what the small one can do.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange
from .policy import RoutePolicy


class Route:
    name = "route"
    waits = False

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.pair is None:
            exchange.note(self.name, "off", "there is nothing to choose between")
            return
        small, large = exchange.pair
        goal = exchange.policy(RoutePolicy).goal
        if goal == "small_only":
            exchange.targets = tuple(t for t in exchange.targets if t.name != large) or exchange.targets
            exchange.note(self.name, small, "the policy says small_only")
        elif goal == "large_only":
            exchange.note(self.name, large, "the large model, as nothing else was asked for")
        else:
            exchange.note(self.name, large, f"off: no router in this version can hold the policy's {goal}")
