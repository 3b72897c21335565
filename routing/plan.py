"""The `plan` stage: how long will the answer be?

A pass-through until the length planner is built; it says so on every receipt.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange


class Plan:
    name = "plan"
    waits = False

    async def __call__(self, exchange: Exchange) -> None:
        exchange.note(self.name, "off", "no length planner in this version")
