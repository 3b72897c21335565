"""What the gateway is made of: `Live`, one configuration put to work, and `Gateway`, which outlives configurations.

A reload builds a new `Live` and swaps one reference: requests in flight keep the one they began with. The ledger, the
limiter and the metrics are the gateway's own and survive. Backends that did not change are carried over, connections,
loaded weights and breakers included.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..backends.base import Backend, Measured
from ..backends.registry import create
from ..cache.store_memory import MemoryStore
from ..cache.wishes import FIELD as CACHE_FIELD
from ..cache.wishes import take
from ..compression.compress import Compress
from ..compression.prune import Prune
from ..protocol.errors import Draining, InvalidKey, Overloaded, TrimtabError
from ..protocol.exchange import Caller, Exchange, Price, Receipt, Stage, Target
from ..protocol.messages import Request
from .admit import Admit
from .answer import Answer
from .auditing import Auditing
from .caching import Cache
from .catalogue import Catalogue, Pair, Served
from .config import Config
from .controls import FIELD, NONE, Controls, read_controls, read_field
from .keys import CREDENTIAL_HEADERS, KeyRing, presented
from .ledger import Ledger
from .limits import Limiter, rate_limit_headers
from .metrics import Metrics
from .model_config import EngineModel, ModelConfig
from .model_facts import model_facts
from .outline import Outlines
from .pipeline import Pipeline
from .planning import Planning, beside
from .retry import RetryPolicy
from .routing import Routing
from .settle import Settle
from .slots import Slots
from .stages import Pruning, Stages
from .wire import Headers, Receive, Scope, read_body

log = logging.getLogger("trimtab.gateway")

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Live:
    """One configuration at work."""

    config: Config
    keys: KeyRing
    catalogue: Catalogue
    admit: Admit
    pipeline: Pipeline
    pruning: Pruning
    answer: Answer
    max_body: int

    def authenticate(self, headers: RawHeaders) -> Caller:
        """Whose key it is. Raises InvalidKey; without any key, the keyless tenant if there is one."""
        key = presented(headers)
        caller = self.keys.find(key)
        if caller is not None:
            return caller
        if key is None:
            raise InvalidKey("no API key was given: send 'Authorization: Bearer <key>'")
        raise InvalidKey("the API key is not known here")

    @property
    def compression(self) -> list[Stage]:
        """The stages that make a request smaller."""
        return [stage for stage in self.pipeline.stages if stage.name in (Prune.name, Compress.name)]

    def price(self, exchange: Exchange) -> Price:
        for target in exchange.targets:
            if target.name == exchange.receipt.target:
                return target.price
        return Price()

    def upstream_model(self, exchange: Exchange) -> str:
        """What whoever answered calls its model."""
        return next((t.upstream_model for t in exchange.targets if t.name == exchange.receipt.target), "")

    def limit_headers(self, exchange: Exchange) -> Headers:
        reservation = exchange.facts.get("reservation")
        return [] if reservation is None else rate_limit_headers(reservation)


class Gateway:
    """The running gateway: started once, reconfigured any number of times, drained once."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        limiter: Limiter,
        metrics: Metrics | None = None,
        cache: Cache | None = None,
        backend: Callable[[ModelConfig], Backend] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = ledger
        self.limiter = limiter
        self.metrics = metrics or Metrics()
        self._backend = backend or _backend
        self._clock = clock
        self._wall = wall
        self._backends: dict[str, tuple[ModelConfig, Served]] = {}
        self._working: set[asyncio.Task[Any]] = set()
        self._retired: set[asyncio.Task[None]] = set()
        self._random = random.Random()  # noqa: S311 - ids need to be unique, not secret: a receipt asks for its tenant
        self._draining = False
        self._cutting = False
        self.in_flight = 0
        self.config_error: str | None = None
        self.planning = Planning(beside(ledger.path))
        self._queues: dict[str, Slots] = {}
        self._settle = Settle(limiter, ledger, self.metrics, clock, self.planning.learn)
        self.cache = cache or Cache()
        auditing = Auditing(self)
        books = ledger if isinstance(self.cache.store, MemoryStore) else self.cache.store
        self.routing = Routing(lambda: self.live.catalogue, books, ledger.spent_on, auditing, self.metrics, clock, wall)
        self._stages = Stages(
            lambda: self.live.catalogue, self.cache, auditing, clock, wall, self.planning, self.routing
        )
        self._config = config
        self.live = self._build(config)
        self._stages.adopt(self.live.pruning)
        self.routing.adopt(self.routing.routes(config), self.live.pruning.embedder)
        self._resize(config)

    # Life: start, reconfigure, drain, close.

    async def start(self) -> None:
        """Open the ledger and the backends. Raises LedgerUnusable, or what a backend's start raises."""
        self.ledger.start()
        await self.limiter.start()
        await self._stages.start()
        await self.planning.start()
        await asyncio.gather(*(self._start(served) for served in self.live.catalogue.all()))
        await self.live.pruning.start()
        await self._restore_spending(self._config)
        await self.routing.start(self._config)

    async def apply(self, config: Config) -> None:
        """Serve by another configuration from now on. If a new backend cannot start, nothing changes."""
        before = dict(self._backends)
        fresh: list[Served] = []
        pruning = self.live.pruning
        try:
            routes = await asyncio.to_thread(self.routing.routes, config)
            live = self._build(config, pruning)
            pruning = live.pruning
            fresh = [s for name, (_, s) in self._backends.items() if name not in before or before[name][1] is not s]
            await asyncio.gather(*(self._start(served) for served in fresh))
            if pruning is not self.live.pruning:
                await pruning.start()
            await self._restore_spending(config)
            await self.routing.start(config)
        except BaseException:
            self._backends = before
            if pruning is not self.live.pruning:
                await pruning.close()
            await asyncio.gather(*(served.backend.close() for served in fresh), return_exceptions=True)
            raise
        outlived = self.live.pruning
        self.live, self._config = live, config
        self._stages.adopt(pruning)
        self.routing.adopt(routes, pruning.embedder)
        self._resize(config)
        if outlived is not pruning:
            await outlived.close()  # a request that still waits for it goes on unpruned
        kept = {id(served.backend) for _, served in self._backends.values()}
        for _, served in before.values():
            if id(served.backend) not in kept:
                self._retire(served)

    async def close(self) -> None:
        """Everything settled and written; every backend closed."""
        retired = list(self._retired)
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        await asyncio.gather(*(served.backend.close() for _, served in self._backends.values()), return_exceptions=True)
        await self.routing.close()
        await self.live.pruning.close()
        await self._stages.close()
        await self.planning.close()
        await self.limiter.close()
        await asyncio.to_thread(self.ledger.close)

    def drain(self) -> None:
        """Take no new work; what is in flight goes on."""
        self._draining = True

    def cut(self) -> None:
        """End what is still in flight: each stream gets an error event and is settled."""
        self._draining = self._cutting = True
        for task in list(self._working):
            task.cancel()

    @property
    def cutting(self) -> bool:
        return self._cutting

    def config_failed(self, error: str | None) -> None:
        """A reload's outcome: the complaint about the file, or None when it is good again."""
        self.config_error = error
        self.metrics.reloads("failed" if error else "applied").inc()

    def draining_error(self) -> TrimtabError:
        return Draining("the gateway is shutting down; try again", retry_after=1)

    # One request: these are called by the endpoint.

    def new_id(self) -> str:
        """A fresh request id, ordered by time so that the ledger's index grows at its end."""
        return f"req_{time.time_ns() // 1_000_000:012x}{self._random.getrandbits(64):016x}"

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def check_open(self) -> None:
        """Raises Draining or Overloaded."""
        if self._draining:
            raise self.draining_error()
        if self.in_flight > self.live.config.server.max_in_flight:
            raise Overloaded("the gateway has as many requests in flight as it accepts; try again", retry_after=1)

    def exchange(
        self,
        request_id: str,
        request: Request,
        caller: Caller,
        headers: RawHeaders,
        started: float,
        *,
        kind: str = "",
        model: str | None = None,
    ) -> Exchange:
        """`kind` and `model` are what the receipt calls it, if not what the request says.

        Raises InvalidRequest for a wrong field `trimtab` or `cache`, which are gone from the request that the exchange
        holds.
        """
        said: dict[str, Any] = {}
        cached: dict[str, Any] = {}
        if FIELD in request.fields:
            request, said = read_field(request)
        if CACHE_FIELD in request.fields:
            request, cached = take(request)
        receipt = Receipt(
            id=request_id,
            tenant=caller.tenant.name,
            at=self._wall(),
            model=request.model if model is None else model,
            kind=kind or request.kind,
            stream=request.stream,
        )
        controls = read_controls(headers)
        user = controls.end_user or request.get("user")
        if isinstance(user, str):
            receipt.end_user = user[:200]
        receipt.tags = list(controls.tags)
        kept = [pair for pair in headers if pair[0] not in CREDENTIAL_HEADERS]
        made = Exchange(request_id, request, request, caller, receipt, kept, started)
        made.facts["controls"] = controls
        if cached:
            made.facts["cache_field"] = cached
        if said or controls is not NONE:
            made.facts |= _wishes(controls, said)
        return made

    def working(self, task: asyncio.Task[Any]) -> None:
        """Remember a request that a drain may have to cut."""
        self._working.add(task)

    def finished(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)

    def settle(self, exchange: Exchange, live: Live, outcome: str, status: int) -> None:
        self._settle(exchange, live.catalogue, outcome, status)
        self.routing.settled(exchange, outcome)

    async def verdict(
        self, tenant: str, entry: str, score: float | None, wrong: bool, namespace: str | None = None
    ) -> None:
        """A tenant's word on an answer from the cache; `namespace` is the public one that the entry lies in, if any."""
        await self._stages.verdict(tenant, entry, score, wrong, namespace)

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        return await read_body(scope, receive, self.live.max_body)

    # Looking in from outside.

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether new work is welcome, and why not. Redis down degrades; a ledger that cannot write is not ready."""
        backends = {served.target.name: served.backend.ready() for served in self.live.catalogue.all()}
        problems = []
        if self._draining:
            problems.append("draining")
        if not self.ledger.accepting:
            problems.append("the ledger cannot be written")
        if not any(backends.values()):
            problems.append("no model is ready yet")
        degraded = [] if self.limiter.healthy else [f"the limit store does not answer: {self.limiter.reason}"]
        if not self.cache.store.healthy:
            degraded.append(f"the cache's store does not answer: {self.cache.store.reason}")
        if not self.ledger.healthy:
            degraded.append("the ledger is behind")
        if self.config_error is not None:
            degraded.append("the configuration file has an error; the last good one serves")
        report = {
            "status": "ready" if not problems else "not ready",
            "version": __version__,
            "problems": problems,
            "degraded": degraded,
            "models": backends,
            "in_flight": self.in_flight,
        }
        return not problems, report

    def render_metrics(self) -> bytes:
        self.refresh_gauges()
        return self.metrics.render()

    def refresh_gauges(self) -> None:
        """Bring the metrics that show a state, rather than count, up to date."""
        now = self._clock()
        self.metrics.in_flight.set(self.in_flight)
        self.metrics.ready.set(1 if self.readiness()[0] else 0)
        self.metrics.ledger_buffered.set(self.ledger.buffered)
        for served in self.live.catalogue.all():
            self.metrics.circuit_open(served.target.name).set(0 if served.breaker.state(now) == "closed" else 1)
            if served.slots is not None:
                self.metrics.queued(served.target.name, served.slots)
            if isinstance(served.backend, Measured):
                self.metrics.measured(served.target.name, served.backend.measures())
        self.metrics.shaped(self.planning.effects)
        self.routing.measure()
        self.metrics.cache_store_up.set(1 if self.cache.store.healthy else 0)
        self.metrics.stored(self.cache.store.counts)

    async def measure_cache(self) -> None:
        """What each tenant holds, where telling it costs nothing: in this process."""
        if isinstance(self.cache.store, MemoryStore):
            for owner in (*self._config.tenants, ""):
                self.metrics.held(owner, await self.cache.store.held(owner))

    # Building.

    def _build(self, config: Config, before: Pruning | None = None) -> Live:
        self._backends = {name: (model, self._served(name, model)) for name, model in config.models.items()}
        catalogue = Catalogue(
            [served for _, served in self._backends.values()],
            {name: Pair(route.small, route.large, route.fallbacks) for name, route in config.routes.items()},
            config.names,
            [name for name, entry in (*config.models.items(), *config.routes.items()) if not entry.listed],
        )
        admit = Admit(catalogue, self.limiter, self.ledger, self.planning.planner)
        pruning = self._stages.pruning(config, before)
        return Live(
            config=config,
            keys=KeyRing(config),
            catalogue=catalogue,
            admit=admit,
            pipeline=Pipeline(admit, self._stages.optimisations(pruning)),
            pruning=pruning,
            answer=Answer(catalogue, Outlines(pruning.embedder)),
            max_body=config.server.max_body_mb << 20,
        )

    def _served(self, name: str, model: ModelConfig) -> Served:
        known = self._backends.get(name)
        if known is not None and known[0] == model:
            return known[1]
        upstream = model.upstream_name(name)
        facts = model_facts(model, upstream)
        target = Target(
            name, model.backend, upstream, model.resolved_price(), facts.longest_answer, model.epoch, facts.context,
            facts.supports,
        )  # fmt: skip
        return Served(
            target,
            self._backend(model),
            model.timeouts.resolved(),
            RetryPolicy(attempts=model.retries.attempts),
            fallbacks=model.fallbacks,
            slots=self._queue(name, model),
            continues="engine" if isinstance(model, EngineModel) else getattr(model, "continues", None),
            thinking=None if model.thinking is None else model.thinking.resolved(),
        )

    def _queue(self, name: str, model: ModelConfig) -> Slots | None:
        """The model's queue, the same one over reloads: who waits goes on waiting."""
        if model.slots is None:
            return None
        known = self._queues.get(name)
        return Slots(model.slots, model.max_waiting, self._clock) if known is None else known

    def _resize(self, config: Config) -> None:
        """The configuration that serves from now on says how many slots there are."""
        queues = {served.target.name: served.slots for served in self.live.catalogue.all()}
        self._queues = {name: queue for name, queue in queues.items() if queue is not None}
        for name, queue in self._queues.items():
            model = config.models[name]
            if model.slots is not None:
                queue.resize(model.slots, model.max_waiting)
        self.planning.only(config.tenants)

    async def _start(self, served: Served) -> None:
        await served.backend.start()

    def _retire(self, served: Served) -> None:
        """Close a backend that no configuration names any more, once its last request has had its time."""

        async def later() -> None:
            try:
                # Whoever began before the reload may still call it: one attempt after another, each with its time.
                while self.in_flight and loop.time() < end:  # noqa: ASYNC110
                    await asyncio.sleep(1)
            finally:
                await served.backend.close()

        loop = asyncio.get_running_loop()
        end = loop.time() + 10 * served.timeouts.total
        task = asyncio.ensure_future(later())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _restore_spending(self, config: Config) -> None:
        """What tenants spent today already, so that a restart is no fresh budget."""
        midnight = self._wall() // 86_400 * 86_400
        for name, tenant in config.tenants.items():
            if tenant.limits.resolved().microusd_per_day is not None:
                self.limiter.preload(name, await self.ledger.spent_since(name, midnight))


def _wishes(controls: Controls, said: dict[str, Any]) -> dict[str, Any]:
    """What the stages are to know of what the caller said; the body outweighs a header, and either may switch off."""
    wishes: dict[str, Any] = {} if controls.query is None else {"query": controls.query}
    wishes |= said
    if not controls.compress or said.get("compress") is False:
        wishes["compress"] = False
    return wishes


def _backend(model: ModelConfig) -> Backend:
    """The backend that a model's section asks for."""
    return create(model.backend, model.backend_options())
