"""Limits shared by all replicas, in Redis or Valkey: one script, one step, one clock (the server's).

While the store is away, requests, tokens and concurrency are limited in this process instead; a tenant with a budget
is refused, unless the operator chose otherwise (`when_down="local"`). Settling never waits: it is posted, sent again
after a break, and carried out once. The scripts are in limits_lua.py, the connection's life in cache/link.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..cache.link import Command, Link, LinkDown
from ..cache.redis_wire import Dialler
from ..protocol.errors import StoreUnavailable
from ..protocol.exchange import Limits
from .limits import DAY, SLOT_WAIT, WINDOW, Ask, Refused, Reservation, impossible, refusal, shared_out
from .limits_local import LocalLimiter
from .limits_lua import SCRIPTS

log = logging.getLogger("trimtab.store")

_VERDICTS: dict[str, Refused] = {"1": "money", "2": "requests", "3": "tokens", "4": "concurrency"}
_RENEW_AT_ONCE = 500


class RedisLimiter:
    """`timeout` bounds one exchange with the store, `lease` how long a dead worker's slot stays taken (seconds).

    `replicas`: how many processes share the store; each enforces its part of the limits while the store is away.
    Raises ValueError for an address that is none, without repeating it.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 0.05,
        lease: float = 60.0,
        window: float = WINDOW,
        when_down: Literal["refuse", "local"] = "refuse",
        replicas: int = 1,
        prefix: str = "trimtab:limits",
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        scripts: Mapping[str, str] = SCRIPTS,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._lease = lease
        self._window_ms = int(window * 1000)
        self._when_down = when_down
        self._replicas = replicas
        self._prefix = prefix
        self._wall = wall
        self._local = LocalLimiter(monotonic, wall, window)
        self._keys: dict[str, tuple[str, str]] = {}
        self._floor: dict[str, tuple[int, int]] = {}  # the day and the least that is spent on it, by tenant
        self._owed: defaultdict[str, int] = defaultdict(int)  # spent here while the store was away
        self._live: dict[str, str] = {}  # open reservations in the store: id to tenant
        self._name = os.urandom(6).hex()
        self._number = 0
        self._renewing: asyncio.Task[None] | None = None
        probe = self._command("spend", "", "probe", 0)
        self._link = Link(Dialler(url, scripts, timeout, probe), timeout=timeout, on_up=self._pay)

    @property
    def healthy(self) -> bool:
        return self._link.up

    @property
    def reason(self) -> str | None:
        return self._link.reason

    async def start(self) -> None:
        """Connect if the store is there; it may also come later."""
        if self._renewing is None:
            await self._link.start()
            self._renewing = asyncio.create_task(self._renew(), name="trimtab-lease-renewal")

    async def close(self) -> None:
        """Send what is settled, then hang up."""
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._link.close()

    async def reserve(self, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        if not limits.any:
            return Reservation(tenant, limits)
        never = impossible(limits, ask)
        if never is not None:
            raise never
        strict = limits.microusd_per_day is not None and self._when_down == "refuse"
        if self._link.up or (strict and await self._link.soon()):
            try:
                return await self._with_store(tenant, limits, ask)
            except LinkDown:
                pass
            # A connection that the server closed while it was idle shows only now; nobody should be refused for that.
            if strict and await self._link.soon():
                with contextlib.suppress(LinkDown):
                    return await self._with_store(tenant, limits, ask)
        return self._without_store(tenant, limits, ask, strict)

    def settle(self, reservation: Reservation, tokens: int, microusd: int) -> None:
        if not reservation.open:
            return
        own = reservation.inner
        if isinstance(own, str):
            reservation.open = False
            self._live.pop(own, None)
            self._link.post(self._settle_command(own, reservation.tenant, max(0, tokens), max(0, microusd)))
        elif own is not None:
            self._local.settle(reservation, tokens, microusd)
            if reservation.limits.microusd_per_day is not None and microusd > 0:
                self._owed[reservation.tenant] += microusd
                if self._link.up:
                    self._pay()
        reservation.open = False

    def release(self, reservation: Reservation) -> None:
        self.settle(reservation, 0, 0)

    def preload(self, tenant: str, microusd: int) -> None:
        self._saw(tenant, int(self._wall() // DAY), microusd)

    # With the store.

    async def _with_store(self, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        self._number += 1
        own = f"{self._name}-{self._number:x}"
        undo = self._settle_command(own, tenant, 0, 0, void=True)
        reply = await self._link.ask(self._reserve_command(own, tenant, limits, ask), undo)
        return self._verdict(own, tenant, limits, ask, reply)

    def _reserve_command(self, own: str, tenant: str, limits: Limits, ask: Ask) -> Command:
        most = (limits.requests_per_minute, limits.tokens_per_minute, limits.microusd_per_day, limits.concurrent)
        limit_args = tuple(-1 if limit is None else limit for limit in most)
        return self._command("reserve", tenant, own, ask.tokens, ask.microusd, *limit_args, int(self._lease * 1000))

    def _settle_command(self, own: str, tenant: str, tokens: int, microusd: int, void: bool = False) -> Command:
        return self._command("settle", tenant, own, tokens, microusd, int(void))

    def _command(self, script: str, tenant: str, *args: Any) -> Command:
        keys = self._keys.get(tenant)
        if keys is None:
            # A digest: a tenant's name may hold anything, and braces would move its keys to different servers.
            digest = hashlib.sha256(tenant.encode()).hexdigest()[:24]
            stem = f"{self._prefix}:{{{digest}}}:"
            keys = self._keys[tenant] = (stem + "state", stem + "slots")
        return (script, *keys, *self._floor.get(tenant, (0, 0)), self._window_ms, *args)

    def _verdict(self, own: str, tenant: str, limits: Limits, ask: Ask, reply: Any) -> Reservation:
        echo, verdict, *figures = reply.decode().split(" ")
        if echo != own:  # cannot happen by construction; if it does, nobody may use this answer
            raise StoreUnavailable("the limit store gave an answer to another question", retry_after=1)
        requests, requests_ms, tokens, tokens_ms, spent, held, live, day, midnight_ms, healed = map(int, figures)
        if healed:
            self.counts["healed"] += 1
            log.error("foreign data stood under the limit keys of tenant %r and was removed", tenant)
        self._saw(tenant, day, spent)
        if verdict == "0":
            self._live[own] = tenant
            return Reservation(
                tenant,
                limits,
                ask.tokens,
                ask.microusd,
                requests_left=(limits.requests_per_minute or 0) - requests,
                requests_reset=requests_ms / 1000,
                tokens_left=(limits.tokens_per_minute or 0) - tokens,
                tokens_reset=tokens_ms / 1000,
                inner=own,
            )
        kind = _VERDICTS[verdict]
        used = {"money": spent + held, "requests": requests, "tokens": tokens, "concurrency": live}[kind]
        wait = {"money": midnight_ms, "requests": requests_ms, "tokens": tokens_ms}.get(kind, SLOT_WAIT * 1000) / 1000
        raise refusal(kind, limits, ask, used, wait)

    def _saw(self, tenant: str, day: int, spent: int) -> None:
        """Within a day the sum only grows, so what was seen once is a floor, should the store lose its memory."""
        known_day, known = self._floor.get(tenant, (day, 0))
        self._floor[tenant] = (day, max(spent, known) if known_day == day else spent)

    async def _renew(self) -> None:
        """Keep the slots of long answers. A third of the lease: two renewals may fail."""
        while True:
            await asyncio.sleep(self._lease / 3)
            by_tenant: defaultdict[str, list[str]] = defaultdict(list)
            for own, tenant in self._live.items():
                by_tenant[tenant].append(own)
            for tenant, ids in by_tenant.items():
                for first in range(0, len(ids), _RENEW_AT_ONCE):
                    part = ids[first : first + _RENEW_AT_ONCE]
                    if self._link.up:
                        self._link.post(self._command("renew", tenant, int(self._lease * 1000), *part))

    # Without it.

    def _without_store(self, tenant: str, limits: Limits, ask: Ask, strict: bool) -> Reservation:
        if strict:
            self.counts["refused"] += 1
            text = "the store of limits does not answer, so this key's budget cannot be checked; try again"
            raise StoreUnavailable(text, retry_after=1)
        self.counts["local"] += 1
        day, spent = self._floor.get(tenant, (0, 0))
        if day == int(self._wall() // DAY):
            self._local.preload(tenant, spent)
        return self._local.try_reserve(tenant, shared_out(limits, self._replicas), ask)

    def _pay(self) -> None:
        """Tell the store what was spent without it. Should the answer be lost, it is told twice: the safe side."""
        owed, self._owed = self._owed, defaultdict(int)
        for tenant, microusd in owed.items():
            self._link.post(self._command("spend", tenant, "spend", microusd))
