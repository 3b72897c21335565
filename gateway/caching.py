"""Where the gateway keeps answers, in this process or in the Redis that the configuration names; and the semantic tier,
which is made when a tenant first asks for it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..backends.registry import MissingExtra, open_pair_scorer
from ..cache.audit import Asker
from ..cache.store import Change, Store
from ..cache.store_memory import MemoryStore
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange
from .answer import FORWARDED

if TYPE_CHECKING:
    from ..backends.embed import Embedder
    from ..backends.pair_scorer import PairScorer
    from ..cache.semantic import SemanticTier
    from .config import Config

log = logging.getLogger("trimtab.gateway")


@dataclass(frozen=True, slots=True)
class Cache:
    """A store, and the secret that keys every digest in it."""

    store: Store = field(default_factory=MemoryStore)
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)


def open_cache(config: Config) -> Cache:
    """Connects to nothing yet. Raises ValueError for an address that is none, without repeating it."""
    url = config.store.redis
    if url is None:
        return Cache()
    from ..cache.store_redis import RedisStore

    own = config.store.secret
    # Replicas of one deployment name the store alike, so that they share what it holds; its password is in there too.
    origin = own.get_secret_value() if own is not None else url.get_secret_value()
    secret = hashlib.sha256(b"trimtab cache\0" + origin.encode()).digest()
    return Cache(RedisStore(url.get_secret_value(), secret), secret)


def beside(exchange: Exchange) -> bytes:
    """What a caller said beside the body that changes the answer: wishes of ours, and headers that travel on. Where a
    trace goes does not."""
    facts = exchange.facts
    wishes = {name: facts[name] for name in ("query", "compress", "keep") if name in facts}
    sent = sorted(pair for pair in exchange.headers if pair[0] in FORWARDED and not pair[0].startswith(b"trace"))
    return msgspec.json.encode([wishes, [list(pair) for pair in sent]]) if wishes or sent else b""


class Wordings:
    """The semantic tier, if there is one: numpy, the network and the evidence are loaded with it, and outlive reloads.

    `asker` None: nothing can be answered anew, so nothing that is served is audited.
    """

    def __init__(self, store: Store, asker: Asker | None, wall: Callable[[], float]) -> None:
        self.tier: SemanticTier | None = None
        self._store = store
        self._asker = asker
        self._wall = wall
        self._scorer: PairScorer | None = None
        self._loading: asyncio.Task[None] | None = None

    def adopt(self, embedder: Embedder | None) -> None:
        """The embedder of now; None: no tenant wants the tier, or there is nothing to embed with."""
        if embedder is not None and self.tier is None and self._asker is not None:
            self.tier = self._made(self._asker)
        if self.tier is not None:
            self.tier.embedder = embedder

    def start(self) -> None:
        """Load the network in the background: the first question would not wait for it."""
        if self._scorer is not None and self._loading is None:
            self._loading = asyncio.create_task(self._load(self._scorer), name="trimtab-load-pairs")

    def heard(self, change: Change) -> None:
        if self.tier is not None:
            self.tier.heard(change)

    def verdict(self, whose: str, score: float | None, wrong: bool) -> None:
        if self.tier is not None:
            self.tier.verdict(whose, score, wrong)

    async def close(self) -> None:
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)
        if self.tier is not None:
            await self.tier.auditor.close()
            await self.tier.remember()
        if self._scorer is not None:
            await self._scorer.close()

    def _made(self, asker: Asker) -> SemanticTier | None:
        try:
            self._scorer = open_pair_scorer()
        except MissingExtra as e:
            log.warning("the semantic cache stays off: %s", e)
            return None
        from ..cache.evidence import Ledger as Evidence
        from ..cache.semantic import SemanticTier
        from ..cache.verifier import CalibratedVerifier, shipped

        evidence = Evidence(shipped().prior, self._wall)
        return SemanticTier(self._store, evidence, CalibratedVerifier(self._scorer), asker, self._wall)

    async def _load(self, scorer: PairScorer) -> None:
        from ..cache.vetoes import load

        try:
            await asyncio.to_thread(load)  # the words that vetoes know
            await scorer.start()
        except TrimtabError as e:
            log.warning("the semantic cache cannot compare questions: %s", e)
