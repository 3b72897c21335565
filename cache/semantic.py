"""The semantic tier: has another wording of this question been answered, and is the evidence good enough to serve it?

    embed    the question                                                      the shared embedder
    nearest  kept questions of the same family: everything but the words equal cache/index.py
    veto     differences that make them different questions                    cache/vetoes.py
    score    how likely they are one question                                  cache/verifier.py
    bound    the lowest score that keeps the tenant's `max_wrong`              cache/evidence.py

Above the bound the answer is served; below it, it is a draft that somebody else verifies. What the model then says to
the question, or to a sample of those that were served, is compared off the path (cache/audit.py) and is new evidence.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..protocol.embedded import embed_once
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange
from .audit import Asker, Audit, Auditor
from .entry import Entry
from .evidence import Ledger
from .finding import Finding, Outcome
from .freshness import asks_about_now, fresh
from .index import Index, Near
from .key import Place, Scope
from .policy import CachePolicy
from .recording import Recorded
from .said import said
from .store import Change, Store
from .verifier import Pair, Verifier
from .vetoes import each
from .wishes import Wishes

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("trimtab.cache")

NEAREST = 4
LEAST = 0.6  # below this cosine no two questions are one, or a handful in ten thousand
COMPARED = 2  # of those that no veto struck out, the nearest; the third is the right one once in a thousand times
_WEEK = 7 * 86_400.0
_WEEKS = 4  # of evidence that are read again; older ones weigh next to nothing
DRAFT = 0.2  # a score below which an answer is no draft worth verifying


class Embedder(Protocol):
    """Texts in, unit vectors out."""

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> NDArray[np.float32]: ...


class SemanticTier:
    """`wall`: seconds since the epoch. `embedder` None: nothing is looked up, and receipts say so."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        verifier: Verifier,
        asker: Asker,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.embedder: Embedder | None = None
        self.counts: Counter[str] = Counter()
        self.auditor = Auditor(store, asker, self._told, lambda: self.embedder, self.remember)
        self._store = store
        self._ledger = ledger
        self._verifier = verifier
        self._wall = wall
        self._chance = chance
        self._index = Index()
        self._met: set[str] = set()  # owners whose evidence was read from the store
        self._told_at = 0.0

    def heard(self, change: Change) -> None:
        """What came to the store, or went."""
        if change.what == "put":
            entry = change.entry
            if entry is not None and entry.vector is not None and entry.family is not None and entry.question:
                self._index.add(change.owner, entry.family, entry.id, entry.question, entry.vector)
        else:
            self._index.drop(change.owner, change.id)

    async def look(self, exchange: Exchange, at: Place, policy: CachePolicy, wished: Wishes) -> Finding:
        if self.embedder is None:
            return Finding("miss", "no embedder is installed: pip install 'trimtab[embed]'", at)
        vector: NDArray[np.float32] | None = None
        try:
            async with asyncio.timeout(policy.semantic.deadline_ms / 1000):
                vector = asked = await embed_once(exchange, self.embedder, at.question or "")
                return await self._among(at, asked, policy, wished)
        except TimeoutError:
            self.counts["out of time"] += 1
            return Finding("miss", f"longer than {policy.semantic.deadline_ms} ms", at, _packed(vector))
        except TrimtabError as e:
            self.counts["failed"] += 1
            return Finding("miss", e.message, at, _packed(vector))

    async def _among(self, at: Place, vector: NDArray[np.float32], policy: CachePolicy, wished: Wishes) -> Finding:
        packed = _packed(vector)
        if at.family is None or not wished.read:
            return Finding("miss", "the caller asked for a new answer", at, packed)
        near = self._index.nearest(at.family, vector, NEAREST, LEAST)
        left, why = _struck(at.question or "", near)
        await self._recollect(owner(at.scope))
        if not left:
            self._ledger.looked_up(owner(at.scope), None)
            return Finding("miss", why, at, packed)
        scores = await self._verifier.scores([Pair(at.question or "", one.question, one.cosine) for one in left])
        ranked = sorted(zip(scores, left, strict=True), key=lambda pair: -pair[0])
        entry, score = None, 0.0
        for rank, candidate in ranked:
            entry, score = await self._entry(at, candidate.id, policy, wished), rank
            if entry is not None:
                break
        self._ledger.looked_up(owner(at.scope), score if entry is not None else None)
        if entry is None:
            return Finding("miss", "the nearest answer is gone", at, packed)
        return self._judge(at, policy, entry, score, packed)

    def _judge(self, at: Place, policy: CachePolicy, entry: Entry, score: float, packed: bytes | None) -> Finding:
        allowed = self._ledger.lowest(owner(at.scope), policy.semantic.max_wrong)
        if allowed is not None and score >= allowed:
            return Finding("semantic-hit", f"score {score:.3f}, {allowed:.3f} is enough", at, packed, entry, score)
        bound = "no score is enough yet" if allowed is None else f"{allowed:.3f} is needed"
        draft = said(_recorded(entry)) if policy.semantic.drafts and score >= DRAFT else None
        outcome: Outcome = "near" if score >= DRAFT else "miss"
        return Finding(outcome, f"score {score:.3f}, {bound}", at, packed, entry, score, draft)

    async def _entry(self, at: Place, id: str, policy: CachePolicy, wished: Wishes) -> Entry | None:
        """The candidate itself, if it is what the index said and may be served."""
        found = await self._store.fetch(at.scope.tenant, [id])
        if not found or not found[0].related(at):
            return None
        entry = found[0]

        def present() -> bool:
            return asks_about_now(entry.question or "") or asks_about_now(at.question or "")

        return entry if fresh(entry, policy, wished.max_age, self._wall(), present) else None

    # Afterwards: what was right?

    def served(self, exchange: Exchange, finding: Finding) -> None:
        """A sample of what is served is answered anew."""
        policy = exchange.policy(CachePolicy)
        if finding.entry is None or finding.score is None or self._chance() >= policy.semantic.audit:
            return
        self.auditor.again(self._audit(exchange, finding, policy.semantic.audit))

    def answered(self, exchange: Exchange, finding: Finding, recorded: Recorded | None) -> None:
        """A candidate that was not served is judged by what the model said after all; that costs no call."""
        if recorded is None or finding.entry is None or finding.score is None:
            return
        self.auditor.beside(self._audit(exchange, finding, 1.0), recorded)

    def verdict(self, whose: str, score: float | None, wrong: bool, chance: float = 1.0) -> None:
        """New evidence, from an audit or from whoever asked."""
        self.counts["wrong" if wrong else "right"] += 1
        if score is not None:
            self._ledger.judged(whose, score, wrong, chance)

    async def remember(self, after: float = 0.0) -> None:
        """Write new evidence to the store, so that it outlives this process; not again for `after` seconds."""
        now = self._wall()
        if now < self._told_at + after:
            return
        self._told_at = now
        for whose, figures in self._ledger.taken().items():
            await self._store.tally(whose, _week(now), figures)

    async def _recollect(self, whose: str) -> None:
        """What was learnt of an owner before this process began, by its weeks."""
        if whose in self._met:
            return
        self._met.add(whose)
        now = self._wall()
        for weeks in range(_WEEKS):
            at = now - weeks * _WEEK
            figures = await self._store.tallies(whose, _week(at))
            if figures:
                self._ledger.absorb(whose, figures, at)

    def _audit(self, exchange: Exchange, finding: Finding, chance: float) -> Audit:
        entry, score = finding.entry, finding.score
        assert entry is not None
        assert score is not None
        served = finding.outcome == "semantic-hit"
        mark = self._store.mark(entry.tenant)
        return Audit(exchange, finding.at, entry, score, chance, served, finding.vector, mark)

    def _told(self, audit: Audit, wrong: bool) -> None:
        self.verdict(owner(audit.at.scope), audit.score, wrong, audit.chance)


def owner(scope: Scope) -> str:
    """Whose evidence it is. A tenant's name holds no colon."""
    return f"public:{scope.namespace}" if scope.public else scope.tenant


def _struck(question: str, near: list[Near]) -> tuple[list[Near], str]:
    """Those that no veto strikes out, and why there are none."""
    if not near:
        return [], "nothing similar was asked before"
    found = each(question, [one.question for one in near])
    left = [one for one, reason in zip(near, found, strict=True) if reason is None]
    reason = next((reason for reason in found if reason is not None), None)
    return left[:COMPARED], f"the nearest differs: {reason}"


def _week(at: float) -> str:
    return f"evidence-{int(at // _WEEK)}"


def _packed(vector: Any) -> bytes | None:
    return None if vector is None else np.asarray(vector, np.float16).tobytes()


def _recorded(entry: Entry) -> Recorded:
    return Recorded(entry.form, entry.body, entry.target, entry.usage)
