"""The exact tier where something goes wrong or changes meanwhile: a sick upstream, a deletion, a shorter life."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config

HEADERS = {"authorization": f"Bearer {KEY}"}
BODY: dict[str, Any] = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "How high is it?"}]}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


class Got:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.cache = headers.get("x-trimtab-cache")


async def ask(session: aiohttp.ClientSession, at: Running, body: Any = BODY, **headers: str) -> Got:
    head = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with session.post(f"{at.base_url}/chat/completions", json=body, headers=head) as response:
        return Got(response.status, response.headers, await response.read())


async def delete(session: aiohttp.ClientSession, at: Running, query: str) -> int:
    async with session.delete(f"{at.base_url}/cache?{query}", headers=HEADERS) as response:
        return int((await response.json())["deleted"])


async def leading(upstream: FakeServer) -> None:
    while not upstream.seen:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("fails", [1, 3])
async def test_a_sick_upstream_is_called_by_one_at_a_time(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, fails: int
) -> None:
    upstream.use({"accept_s": 0.2, "faults": {"status": 500, "first": fails}})
    async with serve(over(upstream, "m")) as running:
        asked = [ask(session, running, {**BODY, "stream": n % 2 == 1}) for n in range(100)]
        got = await asyncio.gather(*asked)
        assert len(upstream.seen) == fails + 1
        assert Counter(one.status == 200 for one in got) == {True: 100 - fails, False: fails}
        assert (await ask(session, running)).cache == "hit"


async def test_an_error_never_says_that_it_is_from_memory(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"accept_s": 0.3, "faults": {"status": 500}})
    async with serve(over(upstream, "m")) as running:
        got = await asyncio.gather(*(ask(session, running, {**BODY, "stream": n % 2 == 1}) for n in range(20)))
        assert len(upstream.seen) == 4
        for one in got:
            assert one.status >= 500
            assert one.cache == "miss"
            assert not {"age", "x-trimtab-cache-id", "x-trimtab-cache-reason"} & {name.lower() for name in one.headers}
        await running.settled()
        ids = [one.headers["x-request-id"] for one in got]
        for receipt in [await running.gateway.ledger.find(id) for id in ids]:
            assert receipt is not None
            assert [line.did for line in receipt.lines if line.stage == "recall"] == ["miss"]
            assert (receipt.cost_microusd, receipt.saved_microusd) == (0, 0)
        verdict = {"request_id": ids[-1], "verdict": "wrong"}
        async with session.post(f"{running.base_url}/feedback", json=verdict, headers=HEADERS) as response:
            assert response.status == 409


@pytest.mark.parametrize("stream", [False, True])
async def test_who_ran_out_of_patience_is_told_no_age(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    upstream.use({"accept_s": 0.6})
    async with serve(over(upstream, "m")) as running:
        first = asyncio.create_task(ask(session, running))
        await leading(upstream)
        late = await ask(session, running, {**BODY, "stream": stream}, x_trimtab_timeout="0.2")
        assert (late.status, late.cache, late.headers.get("age")) == (504, "miss", None)
        assert (await first).status == 200


async def test_patience_of_one_who_asks_is_not_everybodys(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    """Whoever leads with little time left fails alone, however many of them there are."""
    upstream.use({"accept_s": 0.4})
    async with serve(over(upstream, "m")) as running:
        hurried = [ask(session, running, x_trimtab_timeout="0.15") for _ in range(6)]
        first = [asyncio.ensure_future(one) for one in hurried]
        await leading(upstream)
        patient = await ask(session, running)
        assert patient.status == 200
        assert {one.status for one in await asyncio.gather(*first)} == {504}


@pytest.mark.parametrize("query", ["tag=faq", "all=true"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_on_its_way_is_not_kept_when_its_like_is_deleted(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, query: str, stream: bool
) -> None:
    upstream.use({"accept_s": 0.3})
    body = {**BODY, "stream": stream}
    async with serve(over(upstream, "m")) as running:
        first = asyncio.create_task(ask(session, running, body, x_trimtab_tags="faq"))
        await leading(upstream)
        assert await delete(session, running, query) == 0
        after = await ask(session, running, body, x_trimtab_tags="faq")
        assert (after.cache, (await first).status) == ("miss", 200)
        assert len(upstream.seen) == 2
        assert (await ask(session, running, body)).cache == "hit", "the one that was asked afterwards is kept"
        assert await delete(session, running, query) == 1


async def test_a_deletion_of_something_else_leaves_an_answer_on_its_way(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"accept_s": 0.3})
    async with serve(over(upstream, "m")) as running:
        first = asyncio.create_task(ask(session, running))
        await leading(upstream)
        await delete(session, running, "tag=other")
        await first
        assert (await ask(session, running)).cache == "hit"


async def test_a_shorter_life_counts_for_what_is_kept_already(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    now = {**BODY, "messages": [{"role": "user", "content": "What is the weather today?"}]}

    async def apply(running: Running, **cache: int) -> None:
        config["tenants"]["acme"]["policy"] = {"cache": cache}
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))

    async with serve(config) as running:
        await ask(session, running)
        await ask(session, running, now)
        await asyncio.sleep(1.1)
        await apply(running, time_ttl_s=1)
        assert ((await ask(session, running)).cache, (await ask(session, running, now)).cache) == ("hit", "miss")
        await apply(running, ttl_s=1)
        assert (await ask(session, running)).cache == "miss"
        assert (await ask(session, running)).cache == "hit"
