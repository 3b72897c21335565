"""Who asks and who waits: one at a time, whatever fails, leaves or gives up, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import SECRET, Clock

from trimtab.cache.flight import PATIENCE_S, SUCCESSIONS, Flight, Follower
from trimtab.cache.key import Place, Scope, place
from trimtab.cache.policy import CachePolicy
from trimtab.cache.sharing import Sharing
from trimtab.cache.store import Selection
from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.wishes import NONE, Wishes
from trimtab.protocol.errors import TrimtabError, UpstreamUnreachable
from trimtab.protocol.exchange import Caller, Exchange, Receipt, Tenant
from trimtab.protocol.messages import Request

REQUEST = Request.build("chat", {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "Why?"}]})
AT: Place = place(SECRET, Scope("acme", b"e"), REQUEST)
BODY = b'{"choices":[{"index":0,"message":{"content":"So."},"finish_reason":"stop"}]}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"So."},"finish_reason":"stop"}]}\n\n'


class House:
    """Requests that are the same, and an upstream that fails as often as it is told."""

    def __init__(self, fails: int, error: TrimtabError | None = None) -> None:
        self.store = MemoryStore(Clock(), random.Random(1))
        self.sharing = Sharing(self.store, lambda: None, Clock())
        self.fails = fails
        self.error = error
        self.calls = self.now = self.most = 0

    async def ask(self, *, stream: bool = False, wished: Wishes = NONE) -> bytes:
        """As the endpoint does it: a share if there is one, or a call of its own. Raises what the upstream does."""
        tenant = Tenant("acme")
        exchange = Exchange("r", REQUEST, REQUEST, Caller(tenant), Receipt("r", "acme", 0.0), [], 0.0)
        shared = self.sharing.join(exchange, AT, CachePolicy(), wished)
        try:
            if shared is not None:
                told = await self.told(shared, stream)
                if told is not None:
                    return told
            else:
                self.sharing.lead(exchange, AT, CachePolicy(), wished, None, shared=True)
            return await self.called(exchange.recorder, stream)
        except TrimtabError as e:
            if exchange.recorder is not None:
                exchange.recorder.close(e)
            raise
        finally:
            if exchange.recorder is not None:
                exchange.recorder.close()

    async def told(self, shared: Follower, stream: bool) -> bytes | None:
        if not stream:
            answer = await shared.whole()
            return None if answer is None else answer.body
        events = await shared.stream()
        if events is None:
            return None
        try:
            return b"".join([block async for block in events])
        finally:
            await shared.aclose()

    async def called(self, recorder: object, stream: bool) -> bytes:
        assert recorder is None or isinstance(recorder, Flight)
        self.calls += 1
        number = self.calls
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if number <= self.fails:
                raise self.error or UpstreamUnreachable("nobody is there")
            if recorder is not None and stream:
                recorder.event(EVENT)
                await asyncio.sleep(0)
                recorder.done("", None)
            elif recorder is not None:
                recorder.done("", None, BODY)
        finally:
            self.now -= 1
        return EVENT if stream else BODY


@pytest.mark.parametrize("fails", range(SUCCESSIONS + 1))
async def test_a_hundred_who_wait_call_a_sick_upstream_one_after_another(fails: int) -> None:
    house = House(fails)
    each = [house.ask(stream=n % 3 == 1) for n in range(101)]
    done = await asyncio.gather(*each, return_exceptions=True)
    assert (house.calls, house.most) == (fails + 1, 1)
    assert sum(isinstance(one, UpstreamUnreachable) for one in done) == fails
    assert sum(isinstance(one, bytes) for one in done) == 101 - fails


async def test_who_has_seen_enough_fail_is_told_the_failure() -> None:
    house = House(1_000)
    done = await asyncio.gather(*(house.ask() for _ in range(101)), return_exceptions=True)
    assert house.calls == SUCCESSIONS + 1
    assert all(isinstance(one, UpstreamUnreachable) for one in done)


async def test_who_has_waited_long_waits_for_no_other() -> None:
    clock = Clock()
    flight = Flight(lambda: "m", lambda recorded: None)
    asked: list[str] = []
    follower = Follower(flight, lambda: asked.append("again"), clock)  # type: ignore[func-returns-value]
    task = asyncio.ensure_future(follower.whole())
    await asyncio.sleep(0)
    clock.now += PATIENCE_S
    flight.close(UpstreamUnreachable("nobody is there"))
    with pytest.raises(UpstreamUnreachable):
        await task
    assert not asked


async def test_who_wants_nothing_kept_asks_for_itself_and_holds_up_nobody() -> None:
    house = House(1)
    done = await asyncio.gather(
        house.ask(), house.ask(wished=Wishes(write=False)), house.ask(), house.ask(), return_exceptions=True
    )
    assert house.calls == 3
    assert [isinstance(one, bytes) for one in done] == [False, True, True, True]


async def test_what_is_asked_after_a_deletion_is_not_answered_from_before_it() -> None:
    house = House(0)
    first = asyncio.ensure_future(house.ask())
    await asyncio.sleep(0)
    await house.store.delete(Selection("acme", tag="another"))
    await asyncio.gather(house.ask(), house.ask(), first)
    assert house.calls == 2
    assert await house.store.get(AT) is not None


steps = st.lists(st.sampled_from(["ask", "stream", "leave", "leave last", "turn", "delete"]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(0, 6))
def test_one_at_a_time_and_nobody_for_ever(what: list[str], fails: int) -> None:
    async def play() -> None:
        house = House(fails)
        tasks: list[asyncio.Task[bytes]] = []
        deletions = 0
        act: dict[str, Callable[[], object]] = {
            "ask": lambda: tasks.append(asyncio.ensure_future(house.ask())),
            "stream": lambda: tasks.append(asyncio.ensure_future(house.ask(stream=True))),
            "leave": lambda: tasks and tasks[len(tasks) // 2].cancel(),
            "leave last": lambda: tasks and tasks[-1].cancel(),
        }
        for step in what:
            if step == "delete":
                deletions += 1
                await house.store.delete(Selection("acme", tag="another"))
            elif step in act:
                act[step]()
            else:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            for got in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(got, bytes | TrimtabError | asyncio.CancelledError)
                assert not isinstance(got, bytes) or got in (BODY, EVENT) or b"So." in got
        assert house.most <= 1 + deletions
        assert not house.sharing._flights

    asyncio.run(play())
