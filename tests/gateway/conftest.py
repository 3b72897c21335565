"""Real Valkey servers for the tests, and both stores of limits behind one virtual clock."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from valkeys import Valkey

from trimtab.gateway.limits import Ask, Reservation
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.limits_lua import SCRIPTS
from trimtab.gateway.limits_redis import RedisLimiter
from trimtab.protocol.exchange import Limits


@pytest.fixture
def own_garbage() -> None:
    """Each collection walks through what the test itself has made, and not through what hundreds before it did."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


NOON = 20_000 * 86_400 + 43_200.0  # noon of some UTC day

# The scripts as they are, but for where the time comes from.
_CLOCKED = {
    name: source.replace("redis.call('TIME')", "redis.call('LRANGE', 'test:clock', 0, -1)")
    for name, source in SCRIPTS.items()
}


class Store:
    """A limiter whose time stands still until `move`. Steps are quarters of a second, which floats hold exactly."""

    limiter: LocalLimiter | RedisLimiter

    async def start(self) -> None:
        await self.limiter.start()

    async def close(self) -> None:
        await self.limiter.close()

    async def reserve(self, limits: Limits, tokens: int = 0, microusd: int = 0, tenant: str = "acme") -> Reservation:
        return await self.limiter.reserve(tenant, limits, Ask(tokens, microusd))

    async def settle(self, reservation: Reservation, tokens: int = 0, microusd: int = 0) -> None:
        self.limiter.settle(reservation, tokens, microusd)
        await self.settled()

    async def settled(self) -> None:
        """Wait until what was posted has arrived."""

    def move(self, seconds: float) -> None: ...


class LocalStore(Store):
    def __init__(self) -> None:
        self.now = NOON
        self.limiter = LocalLimiter(monotonic=lambda: self.now, wall=lambda: self.now)

    def move(self, seconds: float) -> None:
        self.now += seconds


class ValkeyStore(Store):
    def __init__(self, server: Valkey) -> None:
        self.now = NOON
        self._server = server
        # Leases never end here: renewing them follows the real clock, not this one.
        self.limiter = RedisLimiter(server.url, timeout=5, lease=1e6, wall=lambda: self.now, scripts=_CLOCKED)
        self.move(0)

    def move(self, seconds: float) -> None:
        self.now += seconds
        self._server.say("DEL", "test:clock")
        self._server.say("RPUSH", "test:clock", int(self.now), int(self.now % 1 * 1_000_000))

    async def settled(self) -> None:
        assert isinstance(self.limiter, RedisLimiter)
        assert await self.limiter._link.drain(5)


@pytest.fixture
def make_store(valkey: Valkey) -> Callable[[str], Store]:
    """Makes the store of that name, "local" or "valkey", empty and not started."""

    def make(kind: str) -> Store:
        valkey.say("FLUSHALL")
        return LocalStore() if kind == "local" else ValkeyStore(valkey)

    return make


@pytest.fixture(params=["local", "valkey"])
async def store(request: pytest.FixtureRequest, make_store: Callable[[str], Store]) -> AsyncIterator[Store]:
    made = make_store(request.param)
    await made.start()
    assert made.limiter.healthy
    yield made
    await made.close()
