"""A backend under requests that come at random times, and how long each of them waits: what a service is like.

Arrivals are a Poisson process: requests of many people who know nothing of one another. They are sent whether or not
earlier ones are answered, so a backend that is too slow is seen to fall behind. Knows the port of backends only.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...protocol.errors import TrimtabError
from ..base import Backend, Call

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Visit:
    """One request, times in seconds: `first` until its first text, `gaps` between one piece of text and the next."""

    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: str | None = None  # the error's code


@dataclass(frozen=True, slots=True)
class Load:
    """What one rate of requests did. `rate` requests a second were offered; times in milliseconds, NaN where no request
    was answered; `ttft` to the first text, `itl` between pieces of text, over all requests together."""

    rate: float
    requests: int
    refused: int
    seconds: float
    tokens_s: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float


async def offered(
    backend: Backend,
    calls: Sequence[Call],
    rate: float,
    chance: random.Random,
    clock: Clock,
    sleep: Sleep = asyncio.sleep,
    done: Callable[[], None] = lambda: None,
) -> Load:
    """Send `calls`, `rate` of them a second on average, and wait for all; `done` is called as each one ends."""
    visits = [Visit() for _ in calls]
    start = clock()
    async with asyncio.TaskGroup() as group:
        for call, visit, at in zip(calls, visits, arrivals(rate, chance), strict=False):
            await sleep(max(0.0, start + at - clock()))
            group.create_task(_visit(backend, call, visit, clock, done))
    return summed(visits, rate, clock() - start)


async def capacity(
    backend: Backend, calls: Sequence[Call], together: int, clock: Clock, done: Callable[[], None] = lambda: None
) -> float:
    """Requests a second when `together` of them are always in work."""
    left, start = iter(calls), clock()

    async def one_after_another() -> None:
        for call in left:
            await _visit(backend, call, Visit(), clock, done)

    async with asyncio.TaskGroup() as group:
        for _ in range(together):
            group.create_task(one_after_another())
    return len(calls) / (clock() - start)


def arrivals(rate: float, chance: random.Random) -> Iterator[float]:
    """Seconds from the beginning, without end."""
    at = 0.0
    while True:
        yield at
        at += chance.expovariate(rate)


def summed(visits: Sequence[Visit], rate: float, seconds: float) -> Load:
    first = sorted(v.first for v in visits if v.first is not None)
    gaps = sorted(gap for v in visits for gap in v.gaps)
    return Load(
        rate,
        len(visits),
        sum(v.refused is not None for v in visits),
        seconds,
        sum(v.tokens for v in visits) / seconds if seconds > 0 else math.nan,
        *(1000 * _quantile(values, q) for values in (first, gaps) for q in (0.5, 0.99)),
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The least value that a share `q` of them does not exceed; NaN of nothing."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


async def _visit(backend: Backend, call: Call, visit: Visit, clock: Clock, done: Callable[[], None]) -> None:
    asked = before = clock()
    try:
        stream = await backend.stream(call)
        try:
            async for block in stream:
                if b'"content":"' not in block or b'"content":""' in block:
                    continue  # the role, the reason or the bill
                now = clock()
                if visit.first is None:
                    visit.first = now - asked
                else:
                    visit.gaps.append(now - before)
                before = now
        finally:
            await stream.aclose()
            used = stream.spent()
            visit.tokens = used.completion if used is not None else len(visit.gaps) + 1
    except TrimtabError as e:
        visit.refused = e.code
    finally:
        done()
