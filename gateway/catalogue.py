"""Who can answer: the configured models, their backends and their health, and what each name means.

A name is a model, a route or an alias of either; it resolves to a ranked list of targets, the rest being fallbacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..backends.base import Backend, Timeouts
from ..protocol.errors import ModelNotFound
from ..protocol.exchange import Target
from ..routing.reasoning import Thinking
from .breaker import Breaker
from .continuation import Style
from .retry import RetryBudget, RetryPolicy
from .slots import Slots
from .waits import Waits


@dataclass(slots=True)
class Served:
    """One target with everything needed to call it. `fallbacks` is the whole list to try after it.

    `slots` None: as many at a time as come; `continues` None: it cannot take up an answer where it was cut; `thinking`
    None: it is not told how much to think.
    """

    target: Target
    backend: Backend
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    fallbacks: tuple[str, ...] = ()
    waits: Waits = field(default_factory=Waits)
    slots: Slots | None = None
    continues: Style | None = None
    thinking: Thinking | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A route: a small and a large model, one of which may be missing."""

    small: str | None
    large: str | None
    fallbacks: tuple[str, ...] = ()

    @property
    def ranked(self) -> tuple[str, ...]:
        """The large model first: nothing is promised about the small one until a router has been calibrated."""
        return tuple(name for name in (self.large, self.small) if name is not None)


class Catalogue:
    """`names` maps every name a client may ask for to the model or route behind it."""

    def __init__(
        self,
        served: Iterable[Served],
        routes: Mapping[str, Pair] | None = None,
        names: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
    ) -> None:
        self._served = {s.target.name: s for s in served}
        self._routes = dict(routes or {})
        own = {name: name for name in (*self._routes, *self._served)}
        self._names = {**own, **(names or {})}
        self._hidden = frozenset(hidden)
        self._resolved = {name: self._rank(meant) for name, meant in self._names.items()}

    def listed(self) -> list[str]:
        """The names that `GET /v1/models` shows, in the order of the configuration."""
        return [name for name, meant in self._names.items() if meant not in self._hidden]

    def meaning(self, name: str) -> str:
        """The model or route behind a name (an alias resolved); the name itself if there is none."""
        return self._names.get(name, name)

    def resolve(self, name: str) -> tuple[Target, ...]:
        """The targets for a name, best first. Raises ModelNotFound, which says what there is."""
        found = self._resolved.get(name)
        if found is None:
            raise ModelNotFound(
                f"the model '{name[:100]}' does not exist here; this gateway serves: {', '.join(self.listed())[:500]}",
                param="model",
            )
        return found

    def pair(self, name: str) -> tuple[str, str] | None:
        """The names of a route's small and large model, or None where there is nothing to choose."""
        route = self._routes.get(self.meaning(name))
        if route is None or route.small is None or route.large is None or route.small == route.large:
            return None
        return route.small, route.large

    def served(self, target: Target) -> Served:
        return self._served[target.name]

    def named(self, name: str) -> Served | None:
        """The model that is configured under this very name."""
        return self._served.get(name)

    def engine(self, name: str | None = None) -> Served | None:
        """The model of that name if it runs on the bundled engine; without a name, the first that does."""
        wanted = (s for s in self._served.values() if s.target.backend == "engine" and name in (None, s.target.name))
        return next(wanted, None)

    def all(self) -> Iterable[Served]:
        return self._served.values()

    def _rank(self, name: str) -> tuple[Target, ...]:
        route = self._routes.get(name)
        candidates = (*route.ranked, *route.fallbacks) if route else (name, *self._served[name].fallbacks)
        return tuple(self._served[candidate].target for candidate in dict.fromkeys(candidates))
