"""For tests of the stores of answers: entries to keep, who listens, and waiting until something is so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from trimtab.cache.entry import Entry
from trimtab.cache.key import Place, Scope, place, with_family
from trimtab.cache.store import Change
from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.store_redis import RedisStore
from trimtab.protocol.messages import Request, Usage

SECRET = b"a secret of the tests, and of nothing else"
MB = 1 << 20


class Clock:
    """A wall clock that a test moves, from the machine's own time on: a server's expiry follows that."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def spot(
    question: str = "What is a trimtab?", tenant: str = "acme", namespace: str = "", public: bool = False
) -> Place:
    """Where a question belongs; its family is that of every other question of the tenant."""
    fields = {"model": "m", "messages": [{"role": "user", "content": question}]}
    request = Request.build("chat", fields)
    scope = Scope("" if public else tenant, b"epoch", namespace, public)
    return with_family(SECRET, place(SECRET, scope, request), request)


def entry(at: Place, now: float, body: bytes = b"{}", life: float = 600.0, **more: Any) -> Entry:
    given: dict[str, Any] = {
        "usage": Usage(10, 20),
        "family": at.family,
        "question": at.question,
        "vector": b"\x00\x3c" * 8,
    }
    return Entry(
        at.id, at.scope.tenant, at.scope.namespace, at.partition, at.key, "chat", "m", "t", "whole", body, now,
        now + life, **{**given, **more},
    )  # fmt: skip


class Heard:
    """A listener that remembers, and what an index would hold after it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.known: set[tuple[str, str]] = set()

    def __call__(self, change: Change) -> None:
        self.changes.append(change)
        if change.what == "put":
            self.known.add((change.owner, change.id))
        else:
            self.known.discard((change.owner, change.id))


async def until(true: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for it; five seconds is what recovery may take."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


async def eventually(attempt: Callable[[], Awaitable[Any]], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not await attempt():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def redis_store(
    url: str, secret: bytes = SECRET, heard: Heard | None = None, timeout: float = 5.0, **more: Any
) -> AsyncIterator[RedisStore]:
    """Patient, so that a machine under load does not look like a store that is down; fault tests pass their own."""
    store = RedisStore(url, secret, timeout=timeout, **more)
    await store.start(heard or Heard())
    try:
        yield store
    finally:
        await store.close()


async def settled(store: MemoryStore | RedisStore) -> None:
    """What was put has arrived."""
    if isinstance(store, RedisStore):
        assert await store.drain(10)
