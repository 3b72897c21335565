"""The `settle` stage: what was used, what it cost and saved, and the receipt that says so.

Synchronous: a client that leaves cannot interrupt it, and it costs the event loop a few microseconds. The ledger writes
on its own thread, and a shared limiter settles behind our back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..protocol.exchange import Exchange, Price, Receipt
from ..protocol.messages import Usage
from .catalogue import Catalogue
from .ledger import Ledger
from .limits import Limiter
from .metrics import Metrics


class Settle:
    name = "settle"

    def __init__(
        self,
        limiter: Limiter,
        ledger: Ledger,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        learn: Callable[[Exchange, Catalogue, Usage], None] | None = None,
    ) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._learn = learn

    def __call__(self, exchange: Exchange, catalogue: Catalogue, outcome: str, status: int) -> Receipt:
        """Close the books on an admitted exchange. Calling it twice changes nothing."""
        receipt = exchange.receipt
        if receipt.outcome != "open":
            return receipt
        usage = exchange.spent or Usage()
        price = self._price(exchange, catalogue)
        receipt.outcome = outcome
        receipt.status = status
        receipt.usage = usage
        receipt.priced = price.known or not receipt.attempts  # where nobody was called, nothing is owed
        receipt.cost_microusd = price.of(usage) + charged(exchange)
        receipt.saved_microusd = _saved(exchange, price)
        receipt.total_ms = round((self._clock() - exchange.started) * 1000, 3)
        exchange.note(self.name, "counted" if usage.estimated else "settled", cost_microusd=receipt.cost_microusd)
        reservation = exchange.facts.pop("reservation", None)
        if reservation is not None:
            tokens = usage.total + sum(charge.usage.total for charge in receipt.charges)
            self._limiter.settle(reservation, tokens, receipt.cost_microusd)
        if self._learn is not None and outcome == "ok":
            self._learn(exchange, catalogue, usage)
        self._ledger.record(receipt)
        self._metrics.settled(receipt)
        return receipt

    def _price(self, exchange: Exchange, catalogue: Catalogue) -> Price:
        for target in exchange.targets:
            if target.name == exchange.receipt.target:
                return target.price
        return Price()


def charged(exchange: Exchange) -> int:
    """Micro-dollars of the calls that stages made beside the answer."""
    return sum(charge.microusd for charge in exchange.receipt.charges)


def _saved(exchange: Exchange, price: Price) -> int:
    """What the stages reckoned to save, which was at the first target's price; nothing if nobody answered.

    When another one answered, in the proportion of its price for input to the first one's.
    """
    if exchange.spent is None:
        return 0
    if exchange.recalled is not None:
        return _recalled(exchange, price)
    routed = exchange.receipt.routed
    if routed is not None and routed.large in routed.prices and price.known:
        return _routed(exchange, price, Price(*routed.prices[routed.large], known=True))
    saved = sum(line.saved_microusd or 0 for line in exchange.receipt.lines)
    first = exchange.targets[0].price if exchange.targets else price
    if not saved or price.input == first.input or not exchange.receipt.target:
        return saved
    return saved * price.input // first.input if first.input else 0


def _routed(exchange: Exchange, price: Price, large: Price) -> int:
    """Beside the large model answering everything: it is what the stages before the router reckoned by, and what it
    would have asked for this very answer, less what was asked."""
    usage = exchange.spent or Usage()
    for line in exchange.receipt.lines:
        if line.stage == "route":
            line.saved_microusd = large.of(usage) - price.of(usage)
    return sum(line.saved_microusd or 0 for line in exchange.receipt.lines)


def _recalled(exchange: Exchange, price: Price) -> int:
    """What the answer cost whoever asked for it first, and nobody this time."""
    usage = exchange.recalled.usage if exchange.recalled is not None else None
    saved = price.of(usage) if usage is not None else 0
    for line in exchange.receipt.lines:
        if line.stage == "recall":
            line.saved_microusd = saved
            line.tokens_before, line.tokens_after = (usage.total, 0) if usage is not None else (None, None)
    return saved
