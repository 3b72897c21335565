"""The `prune` stage: leave out passages and tool results that do not bear on the question.

A pass-through until evidence pruning is built; it says so on every receipt.
"""

from __future__ import annotations

from ..protocol.exchange import Exchange


class Prune:
    name = "prune"
    waits = False

    async def __call__(self, exchange: Exchange) -> None:
        exchange.note(self.name, "off", "no pruning in this version")
