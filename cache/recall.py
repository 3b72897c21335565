"""The `recall` stage: has this been answered before?

An exact repeat is served, or shares the answer that somebody with the same request is getting. Another wording is left
to the semantic tier, which serves, drafts or declines. What finds nothing is recorded as it goes by, and kept if it may
be. The stage waits for a store, never for a model; everything it decides stands on the receipt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from ..protocol.exchange import Exchange, Part
from ..protocol.tokens import estimate
from .eligible import exact, fuzzy
from .entry import Entry
from .finding import Finding, Outcome
from .freshness import fresh, present
from .key import Place, Scope, place, with_family
from .policy import CachePolicy
from .recording import Recorded
from .replay import Replay
from .sharing import Sharing
from .store import Change, Store
from .wishes import Wishes, wishes

log = logging.getLogger("trimtab.cache")


class Semantic(Protocol):
    """The tier that knows wordings."""

    async def look(self, exchange: Exchange, at: Place, policy: CachePolicy, wished: Wishes) -> Finding:
        """Never raises for what it could not find out; waits no longer than the policy's deadline."""
        ...

    def answered(self, exchange: Exchange, finding: Finding, recorded: Recorded | None) -> None:
        """A question that it had looked at was answered by a model (None: not completely). Never waits."""
        ...

    def served(self, exchange: Exchange, finding: Finding) -> None:
        """A `semantic-hit` goes out. Never waits."""
        ...

    def heard(self, change: Change) -> None:
        """Something came to the store, or went."""
        ...


class Recall:
    """`secret` keys every digest; `beside` tells what a caller said beside the body that changes the answer; `wall` is
    seconds since the epoch.
    """

    name = "recall"
    waits = True

    def __init__(
        self,
        store: Store,
        secret: bytes,
        semantic: Callable[[], Semantic | None] = lambda: None,
        beside: Callable[[Exchange], bytes] = lambda exchange: b"",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._secret = secret
        self._semantic = semantic
        self._beside = beside
        self._wall = wall
        self._sharing = Sharing(store, semantic, wall)

    async def __call__(self, exchange: Exchange) -> None:
        policy = exchange.policy(CachePolicy)
        if not policy.on:
            self._say(exchange, "off", "the policy has it off")
            return
        request = exchange.original
        no_exact = exact(request, policy) if policy.exact else "the policy has it off"
        if no_exact is not None and not policy.semantic.enabled:
            self._say(exchange, "bypass", no_exact)
            return
        wished = wishes(exchange.facts.get("cache_field", {}), exchange.headers)
        if wished.neither:
            self._say(exchange, "bypass", "the caller asked for it")
            return
        at = place(self._secret, scope(exchange, policy, wished), request, self._beside(exchange))
        if no_exact is None and wished.read and await self._repeat(exchange, at, policy, wished):
            return
        finding = await self._wording(exchange, at, policy, wished)
        if finding is None and no_exact is not None:
            self._say(exchange, "bypass", no_exact)
            return
        if finding is not None and finding.outcome == "semantic-hit" and finding.entry is not None:
            self._store.used(finding.entry)
            self._serve(exchange, finding.entry, "semantic-hit", finding.reason, finding.score)
            return
        self._record(exchange, at, policy, wished, finding, repeats=no_exact is None)

    # An exact repeat.

    async def _repeat(self, exchange: Exchange, at: Place, policy: CachePolicy, wished: Wishes) -> bool:
        """Whether the request is answered by one that was the same."""
        entry = await self._store.get(at)
        if entry is not None:
            if not entry.belongs(at):  # no store gives another's; if one ever does, nobody sees it
                self._store.counts["mismatched"] += 1
                log.error("the cache's store gave an entry that belongs elsewhere; it was not served")
            elif fresh(entry, policy, wished.max_age, self._wall(), lambda: present(exchange.original)):
                self._store.used(entry)
                self._serve(exchange, entry, "hit", None)
                return True
        exchange.recalled = self._sharing.join(exchange, at, policy, wished)
        if exchange.recalled is None:
            return False
        self._say(exchange, "hit", "shares the answer of the same request at the same moment", at.id)
        return True

    def _serve(
        self, exchange: Exchange, entry: Entry, outcome: Outcome, reason: str | None, score: float | None = None
    ) -> None:
        exchange.recalled = Replay(Recorded(entry.form, entry.body, entry.target, entry.usage))
        exchange.facts["cache_age"] = max(0, int(self._wall() - entry.made))
        exchange.facts["cache_id"] = entry.id
        self._say(exchange, outcome, reason, entry.id, score)

    # Another wording.

    async def _wording(self, exchange: Exchange, at: Place, policy: CachePolicy, wished: Wishes) -> Finding | None:
        """None where the semantic tier has no say."""
        semantic = self._semantic() if policy.semantic.enabled else None
        if semantic is None:
            return None
        placed = with_family(self._secret, at, exchange.original)
        if placed.question is None:
            return None
        if fuzzy(exchange.original, placed.question, policy) is not None:
            return None
        finding = await semantic.look(exchange, placed, policy, wished)
        if finding.outcome == "near" and finding.draft is not None:
            exchange.draft = finding.draft
        if finding.outcome == "semantic-hit":
            semantic.served(exchange, finding)
        return finding

    # Neither: remember what comes.

    def _record(
        self,
        exchange: Exchange,
        at: Place,
        policy: CachePolicy,
        wished: Wishes,
        finding: Finding | None,
        *,
        repeats: bool,
    ) -> None:
        outcome: Outcome = "near" if finding is not None and finding.outcome == "near" else "miss"
        reason = None if finding is None else finding.reason
        if not wished.read:
            outcome, reason = "bypass", "the caller asked for a new answer"
        if not wished.write:
            self._say(exchange, outcome, reason or "and the caller wants nothing kept")
            return
        self._sharing.lead(exchange, at, policy, wished, finding, shared=repeats and wished.read)
        near = None if finding is None or finding.entry is None else finding.entry.id
        self._say(exchange, outcome, reason, near, None if finding is None else finding.score)
        if exchange.draft is not None and outcome == "near":
            exchange.receipt.lines[-1].parts = [Part("drafted", tokens=estimate(exchange.draft))]

    def _say(
        self,
        exchange: Exchange,
        outcome: Outcome,
        reason: str | None,
        entry_id: str | None = None,
        score: float | None = None,
    ) -> None:
        exchange.facts["cache"] = outcome
        if score is not None and reason is not None:
            exchange.facts["cache_reason"] = reason
        exchange.note(self.name, outcome, reason, entry=entry_id, score=score)


def scope(exchange: Exchange, policy: CachePolicy, wished: Wishes) -> Scope:
    """Whose cache: the tenant's own, or a namespace that its operator declared public."""
    tenant = exchange.tenant
    models = b"".join([target.epoch for target in exchange.targets])
    if wished.namespace and wished.namespace in policy.public:
        # The policies' epoch still counts: another tenant's may compress what this one's leaves whole.
        return Scope("", tenant.epoch + models, wished.namespace, public=True)
    return Scope(tenant.name, tenant.epoch + models, wished.namespace)
