"""The `compress` stage: the same request in fewer tokens.

A pass-through until compression is built; it says so on every receipt.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange


class Compress:
    name = "compress"
    waits = False

    async def __call__(self, exchange: Exchange) -> None:
        exchange.note(self.name, "off", "no compression in this version")
