"""The router over a running gateway: calibrations of the routes, what is remembered of tenants, and what is done about
it off the path. It outlives configurations, as its memory must; numpy is loaded when a tenant first has a goal.

Audits, day spending and what floors bear are read and worked out behind the requests' back: none waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..backends.embed import Embedder
from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Target
from ..routing.asking import LATER, Decision, State
from ..routing.floor import allowed
from ..routing.learning import Learning
from ..routing.route import FACT, Route
from ..routing.router import Router
from ..routing.standings import Key
from .catalogue import Catalogue
from .config import Config
from .metrics import Metrics
from .route_audits import Good, RouteAudits

if TYPE_CHECKING:
    from ..routing.bound import Bound
    from ..routing.standing import Standing
    from .auditing import Auditing

log = logging.getLogger("trimtab.routing")

_DAY = 86_400.0


class Books(Protocol):
    """What is kept on the disk, or in a store that replicas share."""

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None: ...

    async def tallies(self, owner: str, name: str) -> dict[str, float]: ...


Spent = Callable[[str, Sequence[str], float], Coroutine[Any, Any, int]]


@dataclass(frozen=True)
class Routes:
    """One configuration's routes with a pair: their calibrations, or why there is none; the names of large models."""

    bound: Mapping[str, Bound | str] = field(default_factory=dict)
    large: tuple[str, ...] = ()


def wanted(config: Config) -> bool:
    """Whether any tenant has a goal that prompts are scored for, and a route to follow it on."""
    pairs = any(route.small != route.large for route in config.routes.values())
    return pairs and any(tenant.policy.route.scores for tenant in config.tenants.values())


class Routing:
    """The router's `World`. `spent`: micro-dollars that models cost a tenant since a time, as the ledger has it."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        books: Books,
        spent: Spent,
        auditing: Auditing,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.embedder: Embedder | None = None
        self.learning = Learning()
        self.audits = RouteAudits(auditing, lambda: self.embedder, self._audited, chance)
        self.stage = Route(Router(wall, chance), self, chance)
        self._catalogue = catalogue
        self._books = books
        self._spent = spent
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._routes = Routes()
        self._chores: set[asyncio.Task[None]] = set()
        self._reading: set[tuple[Key, float | None]] = set()

    # Life.

    def routes(self, config: Config) -> Routes:
        """Read the calibrations of a configuration; takes a moment, so not on a loop that serves. Raises ValueError."""
        large = tuple({route.large for route in config.routes.values() if route.small != route.large})
        if not wanted(config):
            return Routes(large=large)
        return Routes(_bound(config), large)

    def adopt(self, routes: Routes, embedder: Embedder | None) -> None:
        """The configuration that these were read for serves from now on."""
        self._routes = routes
        self.embedder = embedder

    async def start(self, config: Config) -> None:
        """Know what was spent today before the first request asks."""
        for name, tenant in config.tenants.items():
            if tenant.policy.route.usd_per_day is not None and self._routes.large:
                money = self.stage.router.money(name)
                money.stale(self._wall())
                money.told(await self._spent(name, self._routes.large, _midnight(self._wall())))

    async def close(self) -> None:
        await self.audits.close()
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until everything that was begun behind requests' backs is over."""
        while self._chores or self.audits.busy:
            await asyncio.gather(*self._chores, return_exceptions=True)
            await self.audits.idle()

    # What the stage asks.

    def route(self, exchange: Exchange) -> str:
        return self._catalogue().meaning(exchange.receipt.model)

    def state(self, target: Target, stream: bool) -> State:
        served = self._catalogue().named(target.name)
        if served is None:  # a reload took it away; whoever began before still may call it
            return State()
        healthy = served.breaker.state(self._clock()) != "open"
        return State(healthy, served.waits.expected(stream))

    def bound(self, route: str) -> Bound | str:
        found = self._routes.bound.get(route, "the route has no calibration")
        if isinstance(found, str) or self.embedder is None or self.embedder.model == found.calibration.embedder:
            return found
        return f"the calibration reads vectors of {found.calibration.embedder}, and others are made here"

    def standing(self, tenant: str, route: str, bound: Bound) -> Standing:
        from ..routing.standing import Standing

        key = Key(tenant, route, bound.digest)
        size = bound.calibration.space.size
        standing = self.stage.router.standings.of(key, lambda: Standing(key, bound.calibration.spread, size))
        if not standing.read:
            self._once((key, None), self._recollect(standing))
        return standing

    def decided(self, decision: Decision) -> None:
        ask = decision.asking
        exchange, policy = ask.exchange, ask.policy
        now = self._wall()
        standing = decision.thought.standing
        if policy.usd_per_day is not None:
            money = self.stage.router.money(exchange.tenant.name)
            if decision.choice.model == ask.names[1]:
                decision.held = ask.candidates[1].cost
                money.hold(decision.held)
            if money.stale(now):
                self._later(self._ask_books(exchange.tenant.name))
        if standing is not None:
            if exchange.receipt.kind not in LATER:
                self.learning.asked(exchange, now)
            if policy.floor is not None and standing.read and standing.audits.borne(policy.floor) is None:
                self._once((standing.key, policy.floor), self._work_out(standing, policy.floor))

    # What became of it.

    def settled(self, exchange: Exchange, outcome: str) -> None:
        """An exchange is over. Never waits and never raises: its client has been answered."""
        decision = exchange.facts.pop(FACT, None)
        if not isinstance(decision, Decision):
            return
        try:
            self._settled(decision, exchange, outcome)
        except Exception:
            log.exception("nothing is learnt from the request %s", exchange.id)

    def _settled(self, decision: Decision, exchange: Exchange, outcome: str) -> None:
        receipt, ask = exchange.receipt, decision.asking
        if ask.policy.usd_per_day is not None:
            charged = receipt.cost_microusd if receipt.target in self._routes.large else 0
            self.stage.router.money(exchange.tenant.name).settle(decision.held, charged)
        if outcome != "ok" or receipt.kind in LATER or exchange.recalled is not None:
            return
        usage = receipt.usage
        if receipt.target in ask.names:
            self.stage.router.settle_pin(decision, receipt.target, 0 if usage is None else usage.total)
            self.learning.answered(decision, receipt.target, receipt.id, self._wall())
            if decision.audit and decision.whole is not None:
                self.audits.begin(decision)

    def said(self, tenant: str, request_id: str, wrong: bool, corrected: bool) -> bool:
        """A caller's word on an answer; whether anything is learnt from it."""
        learnt = self.learning.said(tenant, request_id, wrong, corrected, self._wall())
        self._alarms()
        return learnt

    def measure(self) -> None:
        """Bring the metrics that show a state up to date."""
        now = self._wall()
        for standing in self.stage.router.standings.all():
            key = standing.key
            self._metrics.router(key.tenant, key.route, standing.share.realised, standing.drift.rings(now))
        self._metrics.route_events(self.audits.counts, self.learning.counts)

    # Behind the requests' back.

    async def _audited(self, decision: Decision, good: Good) -> None:
        standing, floor = decision.thought.standing, decision.asking.policy.floor
        if standing is None:
            return
        self.learning.audited(decision, good, self._wall())
        if standing.alarmed:
            await _guarded(standing.forget_audits(self._books))
        await _guarded(standing.remember(self._books))
        if floor is not None:
            await self._work_out(standing, floor)

    async def _work_out(self, standing: Standing, floor: float) -> None:
        """Where the promise holds on the audits of now: tens of milliseconds, which no request waits for."""
        audits = standing.audits
        audits.bear(floor, await asyncio.to_thread(allowed, audits.rows(), floor))

    async def _recollect(self, standing: Standing) -> None:
        try:
            await standing.recollect(self._books, self._wall())
        finally:
            standing.read = True  # what cannot be read is not proven, and is not asked for again with each request

    async def _ask_books(self, tenant: str) -> None:
        spent = await self._spent(tenant, self._routes.large, _midnight(self._wall()))
        self.stage.router.money(tenant).told(spent)

    def _alarms(self) -> None:
        for standing in self.stage.router.standings.all():
            if standing.alarmed:
                standing.alarmed = False
                self._later(standing.forget_audits(self._books))

    def _once(self, what: tuple[Key, float | None], work: Coroutine[Any, Any, None]) -> None:
        """Unless it is being done already."""
        if what in self._reading:
            work.close()
            return
        self._reading.add(what)
        self._later(work).add_done_callback(lambda _: self._reading.discard(what))

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        chore = asyncio.ensure_future(_guarded(work))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except TrimtabError as e:
        log.warning("the router goes without what it wanted to know: %s", e.message)
    except Exception:
        log.exception("the router goes without what it wanted to know")


def _midnight(now: float) -> float:
    return now // _DAY * _DAY


def _bound(config: Config) -> dict[str, Bound | str]:
    """A calibration for each route with a pair. Raises ValueError, naming the file."""
    from ..routing.bound import bind, digest_of, load

    read: dict[Path | None, Any] = {}
    found: dict[str, Bound | str] = {}
    for name, route in config.routes.items():
        if route.small == route.large:
            continue
        path = route.calibration
        try:
            calibration, digest = read[path] = read.get(path) or load(path)
        except ValueError as e:
            raise ValueError(f"the calibration {path}: {e}") from None
        small, large = config.models[route.small], config.models[route.large]
        # What was learnt of another pair, or before one of them was moved, says nothing of this one.
        who = digest_of(digest, route.small, small.epoch, route.large, large.epoch)
        names = [(n, m.upstream_name(n)) for n, m in ((route.small, small), (route.large, large))]
        found[name] = bind(calibration, who, path is not None, names[0], names[1])
    return found
