"""The stages between `admit` and `answer`, with what they share: threads, memories, an embedder, models that sum up.

They are built once and outlive configurations: what was sent before and what became of it must not be forgotten at a
reload, or the next turn of every conversation would begin differently. A reload changes the embedder, if anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..backends.embed import Embedder, EmbedOptions, open_embedder
from ..backends.registry import MissingExtra
from ..cache.recall import Recall
from ..compression.compress import Compress
from ..compression.pool import Pool
from ..compression.prune import Prune
from ..protocol.exchange import Exchange, Stage
from ..routing.plan import Plan
from ..routing.route import Route
from .catalogue import Catalogue
from .config import Config
from .summarise import Summarise, summariser

log = logging.getLogger("trimtab.gateway")


@dataclass(frozen=True, slots=True)
class Pruning:
    """The `prune` stage, and the embedder that was opened for it; None where no tenant asks for what needs one."""

    stage: Prune
    options: EmbedOptions | None = None
    embedder: Embedder | None = field(default=None, compare=False)

    async def start(self) -> None:
        if self.embedder is not None:
            await self.embedder.start()

    async def close(self) -> None:
        if self.embedder is not None:
            await self.embedder.close()


class Stages:
    """Builds the optimisations. `catalogue` gives the models of now; `clock` is monotonic seconds."""

    def __init__(self, catalogue: Callable[[], Catalogue], clock: Callable[[], float] = time.monotonic) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._pool = Pool()
        self._compress = Compress(self._pool, clock=clock, summariser=self._summariser)

    def pruning(self, config: Config, before: Pruning | None = None) -> Pruning:
        """The one that there was, if the configuration asks for the same; else a new one, to be started."""
        options = config.embedder.resolved() if _embeds(config) else None
        if before is not None and before.options == options:
            return before
        embedder = None if options is None else _opened(options)
        return Pruning(Prune(embedder, self._pool, clock=self._clock), options, embedder)

    def optimisations(self, pruning: Pruning) -> list[Stage]:
        """The stages in their order."""
        return [Recall(), pruning.stage, self._compress, Plan(), Route()]

    def adopt(self, pruning: Pruning) -> None:
        """The configuration that this was made for serves from now on."""
        self._compress.embedder = pruning.embedder

    def close(self) -> None:
        """Wait for the threads, which stop at their deadlines. Blocks."""
        self._compress.close()

    def _summariser(self, exchange: Exchange) -> Summarise | None:
        return summariser(self._catalogue(), exchange, self._clock)


def _embeds(config: Config) -> bool:
    policies = [tenant.policy.compress for tenant in config.tenants.values()]
    return any(policy.context.enabled or policy.tools.enabled for policy in policies)


def _opened(options: EmbedOptions) -> Embedder | None:
    try:
        return open_embedder(options)
    except MissingExtra as e:
        log.warning("nothing is pruned: %s", e)  # the stage says so on every receipt
        return None
