"""What becomes of an answer that nobody had: it is kept, if it may be, for as long as it may be served."""

from __future__ import annotations

from ..protocol.exchange import Exchange
from .entry import Entry
from .finding import Finding
from .key import Place
from .policy import CachePolicy
from .recording import Recorded, unfit
from .store import Store


class Keeper:
    """Keeps the answer to one request, if it may be kept. `ttl`: how long its caller allows, in seconds; `mark`: what
    was deleted before the request was made (Store.mark)."""

    def __init__(
        self,
        store: Store,
        exchange: Exchange,
        at: Place,
        policy: CachePolicy,
        ttl: float | None,
        finding: Finding | None,
        mark: int,
    ) -> None:
        self._store = store
        self._exchange = exchange
        self._at = at
        self._policy = policy
        self._ttl = ttl
        self._finding = finding
        self._mark = mark

    def keep(self, recorded: Recorded | None, now: float) -> Recorded | None:
        """The answer again if it is whole, whether or not it may live at all. `now`: seconds since the epoch."""
        if recorded is None:
            return None
        original = self._exchange.original
        if unfit(recorded, original.kind, original.choices) is not None:
            return None
        if self._exchange.targets and recorded.target != self._exchange.targets[0].name:
            return recorded  # a fallback stood in: its answer is not what this model would go on saying
        seconds = self._policy.ttl_s if self._ttl is None else min(self._policy.ttl_s, self._ttl)
        if seconds >= 1:
            self._store.put(self._entry(recorded, now, seconds), self._policy.max_mb << 20, self._mark)
        return recorded

    def _entry(self, recorded: Recorded, now: float, seconds: float) -> Entry:
        at, exchange = self._at, self._exchange
        vector = None if self._finding is None else self._finding.vector
        placed = at if self._finding is None or vector is None else self._finding.at
        return Entry(
            id=at.id,
            tenant=at.scope.tenant,
            namespace=at.scope.namespace,
            partition=at.partition,
            key=at.key,
            kind=exchange.original.kind,
            model=exchange.receipt.model,
            target=recorded.target,
            form=recorded.form,
            body=recorded.body,
            made=now,
            expires=now + seconds,
            usage=recorded.usage,
            family=placed.family,
            question=placed.question,
            vector=vector,
            tags=tuple(exchange.receipt.tags),
            sources=tuple(exchange.facts.get("sources", ())),
        )
