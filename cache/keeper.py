"""What becomes of an answer that nobody had: it is kept, if it may be, for as long as it may be served."""

from __future__ import annotations

from ..protocol.exchange import Exchange
from ..protocol.messages import Request
from .eligible import about_now
from .entry import Entry
from .finding import Finding
from .key import Place, last_question
from .policy import CachePolicy
from .recording import Recorded, unfit
from .store import Store


class Keeper:
    """Keeps the answer to one request, if it may be kept. `ttl`: how long its caller allows, in seconds."""

    def __init__(
        self,
        store: Store,
        exchange: Exchange,
        at: Place,
        policy: CachePolicy,
        ttl: float | None,
        finding: Finding | None,
    ) -> None:
        self._store = store
        self._exchange = exchange
        self._at = at
        self._policy = policy
        self._ttl = ttl
        self._finding = finding

    def keep(self, recorded: Recorded | None, now: float) -> Recorded | None:
        """The answer again if it is whole, whether or not it may live at all. `now`: seconds since the epoch."""
        if recorded is None:
            return None
        original = self._exchange.original
        if unfit(recorded, original.kind, original.choices) is not None:
            return None
        if self._exchange.targets and recorded.target != self._exchange.targets[0].name:
            return recorded  # a fallback stood in: its answer is not what this model would go on saying
        seconds = self._seconds()
        if seconds >= 1:
            self._store.put(self._entry(recorded, now, seconds), self._policy.max_mb << 20)
        return recorded

    def _seconds(self) -> float:
        """How long the answer may be served."""
        allowed = time_to_live(self._exchange.original, self._policy)
        return allowed if self._ttl is None else min(allowed, self._ttl)

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


_READ = 2_000  # characters at either end of a question that are looked at: between them stand documents


def _ends(question: str) -> str:
    return f"{question[:_READ]}\n{question[-_READ:]}"


def time_to_live(request: Request, policy: CachePolicy) -> float:
    """Seconds that an answer may be served: fewer for a question about the present."""
    question = last_question(request.get("messages")) if request.kind == "chat" else None
    if question is not None and about_now(question if len(question) <= 2 * _READ else _ends(question)):
        return min(policy.ttl_s, policy.time_ttl_s)
    return policy.ttl_s
