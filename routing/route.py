"""The `route` stage: who should answer?

A pass-through until the router is built: the targets stay in the order the configuration gave them, and for a route
with a small and a large model that is the large one first, since nothing is known yet about what the small one can do.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange


class Route:
    name = "route"

    async def __call__(self, exchange: Exchange) -> None:
        exchange.note(self.name, "off", "no router in this version; the first target answers")
