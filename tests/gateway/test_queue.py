"""The queue in front of a model's slots: as a structure, and in a running gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config
from trimtab.gateway.slots import Place, Slots, service
from trimtab.protocol.errors import Overloaded

LONG = 1e9


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def turn() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


# The structure.


@settings(max_examples=80)
@given(
    st.integers(1, 4),
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from(["come", "leave", "end", "resize"]), st.integers(0, 9)), max_size=60),
)
async def test_no_slot_is_lost_and_none_is_given_twice(size: int, most: int, steps: list[tuple[str, int]]) -> None:
    """Whoever comes, leaves while waiting, ends or is refused: all slots are taken, or nobody waits."""
    slots = Slots(size, most, Clock())
    waiting: list[asyncio.Task[Place]] = []
    served: list[Place] = []
    for what, number in steps:
        if what == "come":
            waiting.append(asyncio.ensure_future(slots.take(1.0 + number, f"t{number % 3}", LONG)))
        elif what == "leave" and waiting:
            waiting.pop(number % len(waiting)).cancel()
        elif what == "end" and served:
            place = served.pop(number % len(served))
            place.release()
            place.release()  # changes nothing
        elif what == "resize":
            slots.resize(number % 4 + 1, most)
        if number % 2:  # some steps fall together: a slot is given to somebody who leaves at that moment
            await turn()
        for task in [task for task in waiting if task.done()]:
            waiting.remove(task)
            if not task.cancelled() and task.exception() is None:
                served.append(task.result())
    await turn()
    for task in [task for task in waiting if task.done()]:
        waiting.remove(task)
        if not task.cancelled() and task.exception() is None:
            served.append(task.result())
    assert slots.busy == len(served)
    assert slots.waiting == len(waiting)
    assert not waiting or slots.busy >= slots.size
    for task in waiting:
        task.cancel()
    await turn()
    for place in served:
        place.release()
    assert (slots.busy, slots.waiting) == (0, 0)


async def test_short_answers_go_first_only_where_more_wait_than_slots() -> None:
    clock = Clock()
    slots = Slots(1, 100, clock)
    first = await slots.take(5.0, "a", LONG)
    order: list[float] = []

    async def come(seconds: float) -> None:
        place = await slots.take(seconds, "a", LONG)
        order.append(seconds)
        clock.now += seconds
        place.release()

    tasks = [asyncio.ensure_future(come(seconds)) for seconds in (9.0, 4.0, 1.0, 2.0)]
    await turn()
    first.release()
    await asyncio.gather(*tasks)
    assert order == [1.0, 2.0, 4.0, 9.0]
    slots.resize(4, 100)
    order.clear()
    held = [await slots.take(1.0, "a", LONG) for _ in range(4)]
    tasks = [asyncio.ensure_future(come(seconds)) for seconds in (9.0, 4.0, 1.0)]
    await turn()
    held[0].release()
    await asyncio.gather(*tasks)
    assert order == [9.0, 4.0, 1.0], "three wait for four slots: plain order"


async def test_a_tenant_with_many_requests_does_not_hold_up_another() -> None:
    clock = Clock()
    slots = Slots(1, 1_000, clock)
    first = await slots.take(1.0, "busy", LONG)
    order: list[str] = []

    async def come(tenant: str) -> None:
        place = await slots.take(1.0, tenant, LONG)
        order.append(tenant)
        clock.now += 1.0
        place.release()

    tasks = [asyncio.ensure_future(come("busy")) for _ in range(120)]
    await turn()
    tasks += [asyncio.ensure_future(come("rare")) for _ in range(3)]
    await turn()
    first.release()
    await asyncio.gather(*tasks)
    assert [at for at, tenant in enumerate(order) if tenant == "rare"][-1] < 30


async def test_whoever_waits_too_long_or_comes_too_many_is_told_when_to_come_back() -> None:
    slots = Slots(1, 1)
    held = await slots.take(3.0, "a", LONG)
    with pytest.raises(Overloaded) as late:
        await slots.take(3.0, "a", 0.01)
    waits = asyncio.ensure_future(slots.take(30.0, "a", LONG))
    await turn()
    with pytest.raises(Overloaded) as full:
        await slots.take(3.0, "a", LONG)
    assert full.value.retry_after == 30.0
    assert late.value.retry_after is not None
    assert slots.counts == {"late": 1, "full": 1}
    held.release()
    (await waits).release()


def test_a_longer_answer_takes_longer() -> None:
    assert service(0, 10) < service(4_000, 10) < service(4_000, 1_000)


# In the gateway.


def queued(upstream: FakeServer, slots: int = 1, **model: Any) -> dict[str, Any]:
    return over(upstream, **{"slots": slots, **model})


def client(running: Running, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def slots_of(running: Running, model: str = "m") -> Slots:
    served = running.gateway.live.catalogue.named(model)
    assert served is not None
    assert served.slots is not None
    return served.slots


async def ask(api: openai.AsyncOpenAI, text: str = "hi", **more: Any) -> str:
    raw = await api.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": text}], **more
    )
    return str(raw.headers["x-request-id"])


async def receipt(running: Running, request_id: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.base_url}/receipts/{request_id}", headers=headers) as response,
    ):
        return dict(await response.json())


async def test_no_more_are_answered_at_a_time_than_there_are_slots(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 0.2})
    async with serve(queued(upstream, 2)) as running, client(running) as api:
        asking = [asyncio.ensure_future(ask(api)) for _ in range(6)]
        await until(lambda: slots_of(running).waiting == 4)
        await until(lambda: len(upstream.seen) >= 2)
        assert (len(upstream.seen), slots_of(running).busy) == (2, 2)
        names = await asyncio.gather(*asking)
        told = [await receipt(running, name) for name in names]
        metrics = running.gateway.render_metrics().decode()
    waited = [line for one in told for line in one["lines"] if line["stage"] == "queue"]
    assert len(waited) == 4
    assert all(line["did"] == "waited" and line["ms"] > 10 for line in waited)
    assert 'trimtab_queue_wait_seconds_count{model="m"} 4.0' in metrics
    assert 'trimtab_queue_depth{model="m"} 0.0' in metrics
    assert all(one["outcome"] == "ok" for one in told)


async def test_a_stream_holds_its_slot_to_its_end(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"between_s": 0.01})
    async with serve(queued(upstream)) as running, client(running) as api:
        chunks = await api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        other = asyncio.ensure_future(ask(api))
        await until(lambda: slots_of(running).waiting == 1)
        _ = [chunk async for chunk in chunks]
        await other
        await until(lambda: slots_of(running).busy == 0)
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_waiting_frees_its_place_and_owes_nothing(
    serve: Serve, upstream: FakeServer, stream: bool
) -> None:
    upstream.use({"first_byte_s": 60})
    async with serve(queued(upstream)) as running:
        async with client(running) as api:
            held = asyncio.ensure_future(ask(api))
            await until(lambda: slots_of(running).busy == 1)
            waits = asyncio.ensure_future(ask(api, "second", stream=stream))
            await until(lambda: slots_of(running).waiting == 1)
            waits.cancel()
            await until(lambda: slots_of(running).waiting == 0)
            assert slots_of(running).counts["left"] == 1
            held.cancel()
            await until(lambda: slots_of(running).busy == 0)
        await running.settled()
        with running.gateway.ledger._reading() as db:
            raw = [json.loads(row) for (row,) in db.execute("SELECT receipt FROM receipts")]
        metrics = running.gateway.render_metrics().decode()
    assert sorted(bool(one.get("cost_microusd")) for one in raw) == [False, True]
    assert all(one["outcome"] == "disconnected" for one in raw)
    assert len(upstream.seen) == 1
    assert 'trimtab_queue_unserved_total{model="m",why="left"} 1.0' in metrics


async def test_a_full_queue_says_when_to_come_back_and_a_fallback_answers_first(
    serve: Serve, upstream: FakeServer
) -> None:
    upstream.use({"models": {"m": {"first_byte_s": 60}}})
    config = over(upstream, "m", "other")
    config["models"]["m"] |= {"slots": 1, "max_waiting": 0}
    async with serve(config) as running, client(running) as api:
        held = asyncio.ensure_future(ask(api))
        await until(lambda: slots_of(running).busy == 1)
        with pytest.raises(openai.InternalServerError) as refused:
            await ask(api)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
        held.cancel()
    config["models"]["m"]["fallbacks"] = ["other"]
    async with serve(config) as running, client(running) as api:
        held = asyncio.ensure_future(ask(api))
        await until(lambda: slots_of(running).busy == 1)
        told = await receipt(running, await ask(api))
        assert told["target"] == "other"
        held.cancel()


async def test_waiting_counts_towards_the_callers_patience(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 60})
    async with serve(queued(upstream)) as running, client(running) as api:
        held = asyncio.ensure_future(ask(api))
        await until(lambda: slots_of(running).busy == 1)
        with pytest.raises(openai.InternalServerError) as late:
            await ask(api, extra_headers={"x-trimtab-timeout": "0.1"})
        assert late.value.status_code in (503, 504)
        assert slots_of(running).waiting == 0
        held.cancel()


async def test_a_drain_that_is_over_cuts_who_waits(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 60})
    async with serve(queued(upstream)) as running, client(running) as api:
        asking = [asyncio.ensure_future(ask(api)) for _ in range(2)]
        await until(lambda: slots_of(running).waiting == 1)
        running.gateway.cut()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in outcomes] == [openai.InternalServerError] * 2
        await until(lambda: slots_of(running).busy == slots_of(running).waiting == 0)


async def test_a_reload_changes_the_number_of_slots_under_those_who_wait(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 0.3})
    config = queued(upstream)
    async with serve(config) as running, client(running) as api:
        asking = [asyncio.ensure_future(ask(api)) for _ in range(3)]
        await until(lambda: slots_of(running).waiting == 2)
        wider = queued(upstream, 3)
        wider["ledger"] = {"path": str(running.gateway.ledger.path)}
        await running.gateway.apply(Config.model_validate(wider, context={"environ": {}}))
        assert (slots_of(running).size, slots_of(running).busy, slots_of(running).waiting) == (3, 3, 0)
        await asyncio.gather(*asking)


async def test_short_answers_overtake_long_ones_in_the_gateway(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 60})
    long, short = "Write an essay of 3000 words about Rome.", "Answer in one word: is the sky blue?"
    async with serve(queued(upstream)) as running, client(running) as api, client(running, OTHER_KEY) as other:
        held = asyncio.ensure_future(ask(api))
        await until(lambda: len(upstream.seen) == 1)
        asking = []
        for who, text in [(api, long), (api, long), (other, long), (api, short), (other, short)]:
            asking.append(asyncio.ensure_future(ask(who, text)))
            await until(lambda: slots_of(running).waiting == len(asking))
        upstream.use({})
        held.cancel()
        await asyncio.gather(*asking)
    order = [json.loads(seen.body)["messages"][0]["content"] for seen in list(upstream.seen)[1:]]
    assert order == [short, short, long, long, long]
