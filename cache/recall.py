"""The `recall` stage: has this been answered before?

A pass-through until the cache is built; it says so on every receipt.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange


class Recall:
    name = "recall"
    waits = False

    async def __call__(self, exchange: Exchange) -> None:
        exchange.note(self.name, "off", "no cache in this version")
