"""Who can answer: the configured models, their backends and their health, and what each name a client may ask for means.

A name is a model, a route or an alias of either; it resolves to a ranked list of targets, the rest being fallbacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..backends.base import Backend, Timeouts
from ..protocol.errors import ModelNotFound
from ..protocol.exchange import Target
from .breaker import Breaker
from .retry import RetryBudget, RetryPolicy


@dataclass(slots=True)
class Served:
    """One target with everything needed to call it."""

    target: Target
    backend: Backend
    timeouts: Timeouts = Timeouts()
    retries: RetryPolicy = RetryPolicy()
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    fallbacks: tuple[str, ...] = ()


class Catalogue:
    """`routes` map a name to the ordered names of models; `aliases` map a name to a model or a route."""

    def __init__(
        self,
        served: Iterable[Served],
        routes: Mapping[str, tuple[str, ...]] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._served = {s.target.name: s for s in served}
        self._routes = dict(routes or {})
        self._aliases = dict(aliases or {})
        self._resolved = {name: self._rank(name) for name in self.names()}

    def names(self) -> list[str]:
        """Every name a client may ask for, in the order of the configuration."""
        return [*self._routes, *self._served, *self._aliases]

    def resolve(self, name: str) -> tuple[Target, ...]:
        """The targets for a name, best first. Raises ModelNotFound, which says what there is."""
        found = self._resolved.get(name)
        if found is None:
            raise ModelNotFound(
                f"the model '{name[:100]}' does not exist here; this gateway serves: {', '.join(self.names())[:500]}",
                param="model",
            )
        return found

    def served(self, target: Target) -> Served:
        return self._served[target.name]

    def all(self) -> Iterable[Served]:
        return self._served.values()

    def _rank(self, name: str) -> tuple[Target, ...]:
        name = self._aliases.get(name, name)
        ranked: list[str] = []
        for first in self._routes.get(name, (name,)):
            for candidate in (first, *self._served[first].fallbacks):
                if candidate not in ranked:
                    ranked.append(candidate)
        return tuple(self._served[candidate].target for candidate in ranked)
