"""Sharing an answer on its way: everybody gets all of it, a failure is nobody else's, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.cache.flight import MOST, Flight, Follower
from trimtab.cache.recording import Recorded
from trimtab.protocol.errors import UpstreamCut
from trimtab.protocol.messages import Usage

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def flight(landed: Callable[[Recorded | None], None] = lambda recorded: None) -> Flight:
    return Flight(lambda: "m", landed)


async def read(follower: Follower) -> bytes | None:
    events = await follower.stream()
    if events is None:
        return None
    read = b""
    try:
        async for block in events:
            read += block
    finally:
        await follower.aclose()
    return read


async def test_a_follower_gets_what_came_before_it_and_what_comes_after() -> None:
    one = flight()
    one.event(EVENT)
    task = asyncio.ensure_future(read(Follower(one)))
    await asyncio.sleep(0)
    one.event(EVENT + DONE)
    one.done("m", Usage(prompt=1, completion=2))
    assert await task == EVENT + EVENT + DONE
    assert not one.shared


async def test_it_lands_once_and_without_done() -> None:
    landed: list[Recorded | None] = []
    one = flight(landed.append)
    one.event(EVENT + DONE)
    one.done("m", None)
    one.done("m", None)
    one.close()
    one.event(EVENT)
    assert landed == [Recorded("stream", EVENT, "m")]


async def test_a_failure_before_anything_came_is_not_shared() -> None:
    one = flight()
    waiting = [asyncio.ensure_future(read(Follower(one))), asyncio.ensure_future(Follower(one).whole())]
    await asyncio.sleep(0)
    assert one.shared
    one.close()
    assert await asyncio.gather(*waiting) == [None, None]
    assert not one.shared


async def test_a_cut_is_a_cut_for_who_has_had_something() -> None:
    one = flight()
    one.event(EVENT)
    task = asyncio.ensure_future(read(Follower(one)))
    await asyncio.sleep(0)
    one.close()
    with pytest.raises(UpstreamCut):
        await task


async def test_the_last_to_leave_ends_it_for_an_asker_who_has_left() -> None:
    left: list[str] = []
    one = flight()
    followers = [Follower(one), Follower(one)]
    tasks = [asyncio.ensure_future(follower.whole()) for follower in followers]
    await asyncio.sleep(0)
    one.unshared(lambda: left.append("alone"))
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert left == []
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert left == ["alone"]


async def test_a_stream_that_is_never_read_can_be_closed() -> None:
    one = flight()
    one.event(EVENT)
    follower = Follower(one)
    assert await follower.stream() is follower
    assert one.shared
    await follower.aclose()
    await follower.aclose()
    assert not one.shared


async def test_what_is_too_large_is_not_held() -> None:
    landed: list[Recorded | None] = []
    one = flight(landed.append)
    block = b"data: " + b"x" * (MOST // 4) + b"\n\n"
    for _ in range(5):
        one.event(block)
    assert landed == [None]
    assert not one.open
    one.done("m", None)
    assert landed == [None]


async def test_whole_answers_are_shared_too() -> None:
    one = flight()
    task = asyncio.ensure_future(Follower(one).whole())
    await asyncio.sleep(0)
    one.done("large", Usage(prompt=1), b'{"choices":[]}')
    answer = await task
    assert answer is not None
    assert answer.body == b'{"choices":[]}'
    assert Follower(one).usage == Usage(prompt=1)
    assert Follower(one).target == "m"


steps = st.lists(st.sampled_from(["event", "join", "leave", "turn"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps, st.booleans())
def test_whoever_follows_gets_everything_or_nothing(what: list[str], fails: bool) -> None:
    async def play() -> None:
        one = flight()
        tasks: list[asyncio.Task[bytes | None]] = []
        sent = b""
        for step in what:
            if step == "event":
                sent += EVENT
                one.event(EVENT)
            elif step == "join":
                tasks.append(asyncio.ensure_future(read(Follower(one))))
            elif step == "leave" and tasks:
                tasks.pop().cancel()
            await asyncio.sleep(0)
        if fails:
            one.close()
        else:
            one.event(DONE)
            one.done("m", None)
        for got in await asyncio.gather(*tasks, return_exceptions=True):
            if fails:
                assert got is None or isinstance(got, UpstreamCut)
            else:
                assert got == sent + DONE
        for _ in range(5):
            await asyncio.sleep(0)
        assert not one.shared

    asyncio.run(play())
