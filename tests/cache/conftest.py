"""The stores, in this process and in a real Valkey."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from stores import SECRET, Clock, Heard

from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.store_redis import RedisStore

with contextlib.suppress(ImportError):
    import onnxruntime  # noqa: F401 - as in the gateway, before usearch, behind which it crashes (cache/index.py)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[MemoryStore | RedisStore]:
    """Either store, empty and begun; `heard` is what it told."""
    if request.param == "memory":
        made: MemoryStore | RedisStore = MemoryStore(clock, random.Random(7))
    else:
        made = RedisStore(request.getfixturevalue("valkey").url, SECRET, timeout=5.0, clock=clock)
    await made.start(request.getfixturevalue("heard"))
    assert made.healthy
    yield made
    await made.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()
