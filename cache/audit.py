"""Was it right? A kept answer beside what the model says to the question itself, compared off the path.

A candidate that was not served costs nothing to judge: the model has just answered. A sample of those that were served
is answered anew, as a request of the same tenant, within its limits and at its cost. One wrong answer is enough to bar
its entry; one that was right becomes an alias: asked in these words again, it is an exact hit. What cannot be told is
no evidence, unless a judge is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..protocol.exchange import Exchange
from .entry import Entry
from .errands import Errands
from .key import Place
from .policy import CachePolicy
from .recording import Recorded
from .said import Verdict, compare, said
from .store import Store

log = logging.getLogger("trimtab.cache")

BARRED_S = 24 * 3600.0
_KEPT_S = 10.0


@dataclass(frozen=True, slots=True)
class Audit:
    """One candidate to be judged. `chance`: how likely just this one was to be; `was_served`: it went out.
    `mark`: what was deleted before it was found (Store.mark)."""

    exchange: Exchange
    at: Place
    entry: Entry
    score: float
    chance: float
    was_served: bool
    vector: bytes | None
    mark: int


class Asker(Protocol):
    """Who can answer anew, and who can judge; at the tenant's cost and within its limits."""

    async def again(self, exchange: Exchange) -> Recorded | None:
        """A new answer to the same request; None where the limits or the model do not allow one."""
        ...

    async def same(self, exchange: Exchange, judge: str, question: str, one: str, other: str) -> bool | None:
        """What the model `judge` thinks; None where it gave no clear answer."""
        ...


class Embedder(Protocol):
    async def embed(self, texts: list[str], *, tenant: str = "") -> Any: ...


class Auditor:
    """Runs audits in the background. `tell` is given each verdict (was it wrong?); `afterwards` follows each audit
    and keeps what was learnt, unless that was done less than so many seconds ago."""

    def __init__(
        self,
        store: Store,
        asker: Asker,
        tell: Callable[[Audit, bool], None],
        embedder: Callable[[], Embedder | None],
        afterwards: Callable[[float], Awaitable[None]],
    ) -> None:
        self._errands = Errands("an audit of the cache", log)
        self.counts = self._errands.counts
        self._store = store
        self._asker = asker
        self._tell = tell
        self._embedder = embedder
        self._afterwards = afterwards

    def again(self, audit: Audit) -> None:
        self._errands.begin(self._audited(audit, None))

    def beside(self, audit: Audit, recorded: Recorded) -> None:
        self._errands.begin(self._audited(audit, recorded))

    async def close(self) -> None:
        await self._errands.close()

    async def idle(self) -> None:
        """Wait until every audit that has begun is over."""
        await self._errands.idle()

    async def _audited(self, audit: Audit, recorded: Recorded | None) -> None:
        """By what the model has `recorded`, or is asked for anew."""
        new = recorded or await self._asker.again(audit.exchange)
        if new is None:
            self.counts["not allowed"] += 1
        else:
            await self._judge(audit, new)
        await self._afterwards(_KEPT_S)

    async def _judge(self, audit: Audit, recorded: Recorded) -> None:
        entry = audit.entry
        kept = said(Recorded(entry.form, entry.body, entry.target, entry.usage))
        new = said(recorded)
        verdict = None if kept is None or new is None else await self._verdict(audit, kept, new)
        self.counts[verdict or "undecided"] += 1
        if verdict is None:
            return
        self._tell(audit, verdict == "different")
        if not audit.was_served:
            return  # nobody got the wrong one, and the right one is kept under its own words
        if verdict == "same":
            self._approve(audit)
            return
        log.warning("the cache served a wrong answer to tenant %r; its entry is barred", entry.tenant)
        for id in (entry.id, entry.alias_of):
            if id is not None:
                await self._store.bar(entry.tenant, id, BARRED_S)

    async def _verdict(self, audit: Audit, kept: str, new: str) -> Verdict | None:
        verdict = compare(kept, new)
        embedder = self._embedder()
        if verdict is None and embedder is not None:
            a, b = await embedder.embed([kept, new], tenant=audit.exchange.tenant.name)
            verdict = compare(kept, new, float(a @ b))
        judge = audit.exchange.policy(CachePolicy).semantic.judge
        if verdict is None and judge is not None:
            question = audit.at.question or ""
            same = await self._asker.same(audit.exchange, judge, question, kept, new)
            verdict = None if same is None else "same" if same else "different"
        return verdict

    def _approve(self, audit: Audit) -> None:
        """The same answer under the words that were just asked, for as long as it has to live."""
        at, entry = audit.at, audit.entry
        alias = msgspec.structs.replace(
            entry, id=at.id, key=at.key, question=at.question, vector=audit.vector, alias_of=entry.alias_of or entry.id
        )
        self._store.put(alias, audit.exchange.policy(CachePolicy).max_mb << 20, audit.mark)
