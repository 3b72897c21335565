"""The stages between `admit` and `answer`, with what they share: threads, memories, an embedder, models that sum up.

They are built once and outlive configurations: what was sent before and what became of it must not be forgotten at a
reload, or the next turn of every conversation would begin differently. A reload changes the embedder, if anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..backends.base import Backend
from ..backends.embed import Embedder, EmbedOptions, open_embedder
from ..backends.registry import MissingExtra, open_scorer
from ..cache.audit import Asker
from ..cache.recall import Recall
from ..compression.compress import Compress
from ..compression.pool import Pool
from ..compression.prefix import PrefixMemory
from ..compression.prune import Prune
from ..protocol.exchange import Exchange, Stage
from ..routing.plan import Plan
from ..routing.route import Alone, Route
from ..routing.router import Router
from .caching import Cache, Wordings, beside
from .catalogue import Catalogue
from .config import Config
from .planning import Planning
from .routing import Routing, wanted
from .summarise import Summarise, summariser

if TYPE_CHECKING:
    from ..compression.prose_words import Scored
    from ..compression.surprise import Scorer

log = logging.getLogger("trimtab.gateway")

BARRED_S = 7 * 86_400.0  # how long an answer that somebody called wrong is offered to no other wording


@dataclass(frozen=True, slots=True)
class Pruning:
    """The `prune` stage, and the embedder that was opened for it; None where no tenant asks for what needs one."""

    stage: Prune
    options: EmbedOptions | None = None
    semantic: bool = False
    embedder: Embedder | None = field(default=None, compare=False)

    async def start(self) -> None:
        if self.embedder is not None:
            await self.embedder.start()

    async def close(self) -> None:
        if self.embedder is not None:
            await self.embedder.close()


class Stages:
    """Builds the optimisations. `catalogue` gives the models of now; `clock` is monotonic seconds, `wall` the time."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        cache: Cache | None = None,
        asker: Asker | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        planning: Planning | None = None,
        routing: Routing | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._route = Route(Router(wall, random.random), Alone(), random.random) if routing is None else routing.stage
        self._plan = Plan((planning or Planning()).planner, self._wants_length)
        self._cache = cache or Cache()
        self._clock = clock
        self._wordings = Wordings(self._cache.store, asker, wall)
        self._recall = Recall(self._cache.store, self._cache.secret, lambda: self._wordings.tier, beside, wall)
        self._pool = Pool()
        self._pruning_pool = Pool(name="prune")  # its work may take ten times as long, and must not hold up the rest
        self._pruned = PrefixMemory()
        self._compress = Compress(
            self._pool, clock=clock, summariser=self._summariser, scorer=self.scorer, pruned=self._pruned
        )
        self._readers: dict[str, _Reader] = {}

    def pruning(self, config: Config, before: Pruning | None = None) -> Pruning:
        """The one that there was, if the configuration asks for the same; else a new one, to be started."""
        semantic = any(tenant.policy.cache.semantic.enabled for tenant in config.tenants.values())
        options = config.embedder.resolved() if semantic or _embeds(config) or wanted(config) else None
        if before is not None and (before.options, before.semantic) == (options, semantic):
            return before
        embedder = None if options is None else _opened(options)
        return Pruning(
            Prune(embedder, self._pruning_pool, self._pruned, clock=self._clock), options, semantic, embedder
        )

    def optimisations(self, pruning: Pruning) -> list[Stage]:
        """The stages in their order."""
        return [self._recall, pruning.stage, self._compress, self._plan, self._route]

    def adopt(self, pruning: Pruning) -> None:
        """The configuration that this was made for serves from now on."""
        self._compress.embedder = pruning.embedder
        self._wordings.adopt(pruning.embedder if pruning.semantic else None)
        backends = [served.backend for served in self._catalogue().all()]
        self._readers = {name: reader for name, reader in self._readers.items() if reader.backend in backends}

    async def start(self) -> None:
        """Open the cache's store; one that is away may also come later."""
        await self._cache.store.start(self._wordings.heard)
        self._wordings.start()

    async def close(self) -> None:
        """Wait for the threads, which stop at their deadlines, and for the store to take what it was given."""
        await asyncio.to_thread(self._compress.close)
        await asyncio.to_thread(self._pruning_pool.close)
        await self._wordings.close()
        await self._cache.store.close()

    async def verdict(
        self, tenant: str, entry: str, score: float | None, wrong: bool, namespace: str | None = None
    ) -> None:
        """A tenant's word on an answer that the cache gave it. One that was wrong is gone at once, and offered to no
        other wording for a while. `namespace` is the public one that the entry lies in, if it lies in one."""
        if wrong:
            await self._cache.store.bar(tenant if namespace is None else "", entry, BARRED_S)
            # Praise is no evidence: who gives it was not sampled, and enough of it would loosen the bound.
            self._wordings.verdict(tenant if namespace is None else f"public:{namespace}", score, wrong)

    def _wants_length(self, model: str) -> bool:
        """Whether who answers under this name makes use of a forecast: a queue does, and the bundled engine."""
        served = self._catalogue().named(model)
        return served is not None and (served.slots is not None or served.target.backend == "engine")

    def _summariser(self, exchange: Exchange) -> Summarise | None:
        return summariser(self._catalogue(), exchange, self._clock)

    def scorer(self, name: str | None) -> Scorer | None:
        """The model of that name if it runs on the bundled engine, or the first that does; the same one each time."""
        served = self._catalogue().engine(name)
        if served is None:
            return None
        known = self._readers.get(served.target.name)
        if known is None or known.backend is not served.backend:
            known = self._readers[served.target.name] = _Reader(served.backend)
        return known


class _Reader:
    """A model that says how probable texts are. What it needs is imported with the first of them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._scorer: Scorer | None = None

    async def logprobs(self, text: str, given: str = "") -> Scored:
        scorer = self._scorer
        if scorer is None:
            opened: Scorer = await asyncio.to_thread(open_scorer, self.backend)
            scorer = self._scorer = opened
        return await scorer.logprobs(text, given)


def _embeds(config: Config) -> bool:
    policies = [tenant.policy for tenant in config.tenants.values()]
    pruned = [p.compress for p in policies]
    return any(p.output.skeleton for p in policies) or any(
        p.context.enabled or p.tools.enabled or p.demonstrations.enabled for p in pruned
    )


def _opened(options: EmbedOptions) -> Embedder | None:
    try:
        return open_embedder(options)
    except MissingExtra as e:
        log.warning("compression, the semantic cache and the router go without: %s", e)  # and say so on every receipt
        return None
