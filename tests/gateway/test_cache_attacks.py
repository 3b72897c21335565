"""What a hostile reader tried on the exact tier: bodies that say a thing twice, clients that leave, wait or do not
read while others share their answer."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.cache.flight import Flight

BODY: dict[str, Any] = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "How high is it?"}]}
PLAIN = json.dumps(BODY, separators=(",", ":"))
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m", timeouts={"idle_s": 2})) as running:
        yield running


async def ask(session: aiohttp.ClientSession, at: Running, body: Any, **headers: str) -> tuple[int, str, bytes]:
    """The status, what became of it in the cache, the body."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with session.post(f"{at.base_url}/chat/completions", data=data, headers=head) as response:
        return response.status, response.headers.get("x-trimtab-cache", ""), await response.read()


async def alone(at: Running, body: Any) -> asyncio.StreamWriter:
    """A request on a connection of its own, whose answer nobody reads."""
    data = json.dumps(body).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", at.port))
    _, writer = await asyncio.open_connection(sock=sock, limit=1024)
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    await writer.drain()
    return writer


@pytest.mark.parametrize("field", ['"temperature":1,', '"seed":1,"seed":2,', '"se\\u0065d":1,"seed":2,'])
@pytest.mark.parametrize("spaced", [False, True])
async def test_a_field_given_twice_is_answered_and_never_kept(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, field: str, spaced: bool
) -> None:
    twice = "{" + field + PLAIN[1:]
    twice = twice.replace(",", ", ") if spaced else twice
    assert [(await ask(session, running, twice))[:2] for _ in range(2)] == [(200, "bypass")] * 2
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("cache", ['"cache":{"no-store":true},"c\\u0061che":{}', '"cache":1,"cache":{"ttl":60}'])
async def test_wishes_that_are_given_twice_are_refused(
    running: Running, session: aiohttp.ClientSession, cache: str
) -> None:
    status, _, body = await ask(session, running, "{" + cache + "," + PLAIN[1:])
    assert (status, json.loads(body)["error"]["param"]) == (400, "cache")


@pytest.mark.parametrize("wish", ['{"no-store":true,"no-store":false}', '{"no-store":true,"no_cache":1}'])
async def test_a_wish_that_would_be_lost_is_refused(
    running: Running, session: aiohttp.ClientSession, wish: str
) -> None:
    assert (await ask(session, running, f'{{"cache":{wish},' + PLAIN[1:]))[0] == 400


async def test_a_life_longer_than_any_number_is_the_policys(running: Running, session: aiohttp.ClientSession) -> None:
    long = f'{{"cache":{{"ttl":1{"0" * 400}}},' + PLAIN[1:]
    assert [(await ask(session, running, long))[:2] for _ in range(2)] == [(200, "miss"), (200, "hit")]


async def test_a_header_of_many_words_is_read_to_its_end(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    for _ in range(2):
        await ask(session, running, BODY, cache_control=",".join("x" * 20) + ",no-store")
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_who_stops_waiting_for_anothers_answer_owes_nothing(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    upstream.use({"accept_s": 0.5})
    first = asyncio.create_task(ask(session, running, BODY))
    while not upstream.seen:
        await asyncio.sleep(0.01)
    left = await alone(running, {**BODY, "stream": stream})
    await asyncio.sleep(0.2)
    left.close()
    assert (await first)[1] == "miss"
    await running.settled()
    async with session.get(f"{running.base_url}/usage", headers=HEADERS) as response:
        used = await response.json()
    assert (used["requests"], len(upstream.seen)) == (2, 1)
    assert (used["prompt_tokens"], used["completion_tokens"]) == (
        upstream.counts.prompt_tokens,
        upstream.counts.completion_tokens,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_for_anothers_answer_waits_no_longer_than_it_said(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    upstream.use({"accept_s": 1.0})
    first = asyncio.create_task(ask(session, running, BODY))
    while not upstream.seen:
        await asyncio.sleep(0.01)
    status, _, _ = await ask(session, running, {**BODY, "stream": stream}, x_trimtab_timeout="0.2")
    assert (status, first.done()) == (504, False)
    assert (await first)[0] == 200
    assert (await ask(session, running, {**BODY, "stream": stream}, x_trimtab_timeout="0.2"))[:2] == (200, "hit")


async def test_a_client_that_does_not_read_holds_up_nobody_who_shares_its_answer(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": ["y" * 20_000] * 400})
    body = {**BODY, "stream": True}
    asleep = await alone(running, body)
    await asyncio.sleep(0.5)
    assert running.gateway.in_flight == 1, "it is stuck: no buffer holds 8 MB"
    status, cache, answer = await ask(session, running, body)
    assert (status, cache, len(upstream.seen)) == (200, "hit", 1)
    assert answer.endswith(b"data: [DONE]\n\n")
    assert answer.count(b"y" * 20_000) == 400
    asleep.close()


async def test_a_client_that_was_behind_gets_every_byte(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": ["y" * 20_000] * 400})
    body = {**BODY, "stream": True}
    async with session.post(f"{running.base_url}/chat/completions", json=body, headers=HEADERS) as late:
        await asyncio.sleep(0.4)
        _, cache, answer = await ask(session, running, body)
        assert cache == "hit"
        assert await late.read() == answer


async def test_an_answer_that_went_by_is_let_go_without_the_garbage_collector(
    running: Running, session: aiohttp.ClientSession
) -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(6):
            body = {**BODY, "seed": number, "stream": number % 2 == 0}
            await asyncio.gather(ask(session, running, body), ask(session, running, body))
        await running.settled()
        assert sum(type(thing) is Flight for thing in gc.get_objects()) <= 1  # the last may still be on the stack
    finally:
        gc.enable()
