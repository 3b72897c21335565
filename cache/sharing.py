"""Who asks, and who waits for what another one is getting: one flight for each key at a time.

Who finds nothing leads: its answer is recorded as it goes by, kept if it may be, and shared with whoever asks the same
meanwhile. When it fails, the first of those who wait takes its place. Knows no look-up and no header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..protocol.exchange import Exchange
from .finding import Finding
from .flight import Flight, Follower
from .keeper import Keeper
from .key import Place
from .policy import CachePolicy
from .recording import Recorded
from .store import Store
from .wishes import Wishes


class Told(Protocol):
    """The semantic tier, as far as it wants to know what was answered."""

    def answered(self, exchange: Exchange, finding: Finding, recorded: Recorded | None) -> None: ...


class Sharing:
    """`wall` is seconds since the epoch."""

    def __init__(self, store: Store, semantic: Callable[[], Told | None], wall: Callable[[], float]) -> None:
        self._store = store
        self._semantic = semantic
        self._wall = wall
        self._flights: dict[bytes, Flight] = {}

    def join(self, exchange: Exchange, at: Place, policy: CachePolicy, wished: Wishes) -> Follower | None:
        """A share in the answer that somebody with the same request is getting, if somebody is."""
        flight = self._joinable(at)
        if flight is None:
            return None

        def onward() -> Flight | None:
            successor = self._joinable(at)
            if successor is None:
                _asks_itself(exchange, at)
                if wished.write:
                    self.lead(exchange, at, policy, wished, None, shared=True)
            return successor

        return Follower(flight, onward)

    def lead(
        self,
        exchange: Exchange,
        at: Place,
        policy: CachePolicy,
        wished: Wishes,
        finding: Finding | None,
        *,
        shared: bool,
    ) -> None:
        """Record what the exchange is answered. `shared`: whoever asks the same meanwhile may have it."""
        mark = self._store.mark(at.scope.tenant)
        keeper = Keeper(self._store, exchange, at, policy, wished.ttl, finding, mark)

        def landed(recorded: Recorded | None) -> None:
            if self._flights.get(at.key) is flight:
                del self._flights[at.key]
            kept = keeper.keep(recorded, self._wall())
            semantic = self._semantic() if finding is not None else None
            if semantic is not None and finding is not None:
                semantic.answered(exchange, finding, kept)

        flight = Flight(lambda: exchange.receipt.target, landed, mark)
        exchange.recorder = flight
        if shared and self._joinable(at) is None:
            self._flights[at.key] = flight

    def _joinable(self, at: Place) -> Flight | None:
        """The flight that a request of now may share. One that began before something of its owner was deleted is left
        to those who are in it: what is asked after a deletion must not be answered from before it."""
        flight = self._flights.get(at.key)
        if flight is None or not flight.open or flight.mark != self._store.mark(at.scope.tenant):
            return None
        return flight


def _asks_itself(exchange: Exchange, at: Place) -> None:
    """The receipt's line, which said that the request shares an answer."""
    for line in exchange.receipt.lines:
        if line.stage == "recall" and line.entry == at.id:
            line.did, line.entry = "miss", None
            line.reason = "the answer that it was to share failed; it asks itself"
