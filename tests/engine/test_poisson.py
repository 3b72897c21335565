"""Requests at random times: their number and spacing, and what is made of what came back."""

import asyncio
import itertools
import math
import random
import statistics

import pytest

from trimtab.backends.engine.poisson import Visit, arrivals, capacity, offered, summed
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.messages import Usage


class Timed:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


class Stream:
    def __init__(self, blocks):
        self.blocks, self.closed = blocks, False

    async def __aiter__(self):
        for block in self.blocks:
            yield block

    async def aclose(self):
        self.closed = True

    def spent(self):
        return Usage(prompt=3, completion=7)


class Scripted:
    """Refuses every third request; the others get two pieces of text."""

    def __init__(self):
        self.streams, self.open, self.most = [], 0, 0

    async def stream(self, call):
        self.streams.append(Stream([b'{"content":""}', b'{"content":"a"}', b'{"content":"b"}', b"data: [DONE]"]))
        if len(self.streams) % 3 == 0:
            raise Overloaded("full", retry_after=1.0)
        return self.streams[-1]


def test_arrivals_are_as_many_as_the_rate_says_and_as_irregular_as_chance():
    times = list(itertools.islice(arrivals(4.0, random.Random(1)), 4000))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(0.25, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.1)  # an exponential law's mean and deviation are one


async def test_requests_come_when_they_are_due_and_each_is_accounted_for(ask):
    clock, backend, ended = Timed(), Scripted(), []
    calls = [ask() for _ in range(9)]
    load = await offered(backend, calls, 2.0, random.Random(3), clock, clock.sleep, lambda: ended.append(1))
    expected = list(itertools.islice(arrivals(2.0, random.Random(3)), 9))
    assert list(itertools.accumulate(clock.slept)) == pytest.approx(expected)
    assert (load.requests, load.refused, len(ended)) == (9, 3, 9)
    assert load.tokens_s == pytest.approx(6 * 7 / expected[-1])
    assert all(stream.closed for i, stream in enumerate(backend.streams, 1) if i % 3)


async def test_capacity_keeps_so_many_at_work_and_asks_each_once(ask):
    clock, backend = iter(range(10_000)), Scripted()
    found = await capacity(backend, [ask() for _ in range(12)], 4, lambda: float(next(clock)))
    assert len(backend.streams) == 12
    assert found > 0


def test_percentiles_are_of_all_requests_together():
    visits = [Visit(first=i / 1000, gaps=[i / 100], tokens=1) for i in range(1, 101)]
    load = summed([*visits, Visit(refused="overloaded")], 5.0, 10.0)
    assert (load.ttft_p50, load.ttft_p99) == (pytest.approx(50), pytest.approx(99))
    assert (load.itl_p50, load.itl_p99) == (pytest.approx(500), pytest.approx(990))
    assert (load.tokens_s, load.refused) == (10.0, 1)


def test_nothing_answered_is_no_number():
    load = summed([Visit(refused="overloaded")], 5.0, 1.0)
    assert math.isnan(load.ttft_p50)
    assert load.tokens_s == 0
