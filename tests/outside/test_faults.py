"""Whatever an upstream does, its client hears the truth: the whole text, or an error; never a cut that looks whole."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_script import TEXT
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.breaker import Breaker
from trimtab.protocol.exchange import Receipt

ASK: list[Any] = [{"role": "user", "content": "Where does the small flap sit?"}]
AUTH = {"authorization": f"Bearer {KEY}"}
SHORT = {"connect_s": 0.5, "first_token_s": 1.0, "idle_s": 0.5, "total_s": 2.0}


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, timeouts=SHORT)) as running:
        yield running


@pytest.fixture
async def client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0, timeout=10) as client:
        yield client


async def streamed(client: openai.AsyncOpenAI, **more: Any) -> str:
    text = ""
    async for chunk in await client.chat.completions.create(model="m", messages=ASK, stream=True, **more):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    return text


def receipts_in(path: Path) -> list[str]:
    """The ids of the receipts in a ledger's file, oldest first."""
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT id FROM receipts ORDER BY id")]


async def last_receipt(running: Running) -> Receipt:
    await running.settled()
    found = await running.gateway.ledger.find(receipts_in(running.gateway.ledger.path)[-1])
    assert found is not None
    return found


async def raw_stream(running: Running, **more: Any) -> tuple[int, dict[str, str], str, Receipt]:
    body = {"model": "m", "messages": ASK, "stream": True, **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running.base_url}/chat/completions", json=body, headers=AUTH) as response,
    ):
        text = await response.text()
        headers = {name.lower(): value for name, value in response.headers.items()}
    await running.settled()
    receipt = await running.gateway.ledger.find(headers["x-request-id"])
    assert receipt is not None
    return response.status, headers, text, receipt


LEGAL: list[dict[str, Any]] = [
    *({"faults": {"garble": [garble]}} for garble in (
        "split_utf8", "crlf", "no_space", "event_fields", "bom", "comments", "no_newline", "no_done", "usage_absent",
        "usage_null", "usage_with_choices", "usage_running",
    )),
    *({"faults": {"wire": wire}} for wire in ("close_delimited", "gzip")),
    {"faults": {"wire": "drip"}, "text": "舵 ↔ 🚢"},
    {"faults": {"garble": ["crlf", "no_space", "bom", "event_fields", "split_utf8", "no_done"]}},
    {"faults": {"garble": ["bom", "crlf", "comments"]}, "cut_bytes": 1},
    {"faults": {"wire": "length_long"}},
    {"faults": {"garble": ["huge_line"]}},
    {"together": 100},
    {"cut_bytes": 7},
]  # fmt: skip


@pytest.mark.parametrize("script", LEGAL, ids=lambda script: json.dumps(script))
async def test_every_legal_spelling_of_a_stream_gives_the_same_text(
    client: openai.AsyncOpenAI, running: Running, upstream: FakeServer, script: dict[str, Any]
) -> None:
    upstream.use(script)
    text = script.get("text", TEXT)
    assert await streamed(client) == text
    assert await streamed(client, stream_options={"include_usage": True}) == text
    receipt = await last_receipt(running)
    assert receipt.outcome == "ok"
    assert receipt.usage is not None
    assert receipt.usage.completion == upstream.records[-1].usage.completion


async def test_the_first_event_after_a_byte_order_mark_is_not_lost(running: Running, upstream: FakeServer) -> None:
    upstream.use({"faults": {"garble": ["bom"]}})
    _, _, text, _ = await raw_stream(running)
    assert text.startswith('data: {"id"')


ILLEGAL: dict[str, tuple[dict[str, Any], str]] = {
    "cut between two events": ({"faults": {"cut_after": 3}}, "upstream_stream_cut"),
    "cut, but for its [DONE]": ({"faults": {"garble": ["no_finish"]}}, "upstream_stream_cut"),
    "no finish and no [DONE]": ({"faults": {"garble": ["no_finish", "no_done"]}}, "upstream_stream_cut"),
    "broken JSON": ({"faults": {"garble": ["broken_json"]}}, "upstream_protocol_error"),
    "broken JSON in one packet": ({"faults": {"garble": ["broken_json"]}, "together": 100}, "upstream_protocol_error"),
    "broken JSON among comments": ({"faults": {"garble": ["broken_json", "comments"]}}, "upstream_protocol_error"),
    "two objects on a line": ({"faults": {"garble": ["two_on_line"]}}, "upstream_protocol_error"),
    "two objects in an event": ({"faults": {"garble": ["two_in_event"]}}, "upstream_protocol_error"),
    "a reset": ({"faults": {"wire": "rst"}}, "upstream_stream_cut"),
    "closed in a chunk": ({"faults": {"wire": "close_mid_chunk"}}, "upstream_stream_cut"),
    "a bad chunk": ({"faults": {"wire": "bad_chunk"}}, "upstream_stream_cut upstream_timeout"),
    "cut, of a promised length": ({"faults": {"wire": "length_long", "cut_after": 3}}, "upstream_stream_cut"),
    "more than its length": ({"faults": {"wire": "length_short"}}, "upstream_stream_cut upstream_protocol_error"),
    "silence": ({"faults": {"hang_after": 3}}, "upstream_timeout"),
    "comments for ever": ({"faults": {"hang_after": 3, "garble": ["comments_forever"]}}, "upstream_timeout"),
    "an error in-band": ({"faults": {"error_after": 3}}, ""),
    "an endless event": ({"faults": {"garble": ["huge_line"]}, "huge_bytes": 6 << 20}, "upstream_protocol_error"),
}


@pytest.mark.parametrize("name", ILLEGAL)
async def test_a_broken_stream_ends_in_an_error_and_never_in_done(
    client: openai.AsyncOpenAI, running: Running, upstream: FakeServer, name: str
) -> None:
    script, code = ILLEGAL[name]
    upstream.use(script)
    status, headers, text, receipt = await raw_stream(running)
    assert "[DONE]" not in text
    if status == 200:
        error = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
        assert receipt.outcome == "cut"
    else:
        error = json.loads(text)["error"]
        assert headers["x-trimtab-error-source"] == "upstream"
        assert receipt.outcome == "error"
    assert error["source"] == "upstream"
    assert error["code"] in (code.split() or [None])
    assert receipt.error
    with pytest.raises(openai.APIError):
        await streamed(client)
    await upstream.idle()


@pytest.mark.parametrize(
    "script",
    [
        *({"faults": {"wire": wire, "wire_after": 1}} for wire in ("rst", "close_mid_chunk", "length_long")),
        {"faults": {"wire": "length_short"}},
        {"faults": {"cut_after": 1}},
        {"faults": {"wire": "html"}},
    ],
    ids=lambda script: json.dumps(script),
)  # fmt: skip
async def test_a_broken_whole_answer_is_a_502(
    client: openai.AsyncOpenAI, running: Running, upstream: FakeServer, script: dict[str, Any]
) -> None:
    upstream.use(script)
    with pytest.raises(openai.InternalServerError) as error:
        await client.chat.completions.create(model="m", messages=ASK)
    assert error.value.status_code == 502
    assert error.value.body["source"] == "upstream"  # type: ignore[index]
    assert (await last_receipt(running)).outcome == "error"


TIMEOUTS: dict[str, tuple[dict[str, Any], bool]] = {
    "first_token": ({"faults": {"silent": True}}, True),
    "first_token, after its status": ({"first_byte_s": 30}, True),
    "first_token, with comments": ({"faults": {"garble": ["comments_forever"]}}, True),
    "idle": ({"faults": {"hang_after": 2}}, True),
    "total": ({"tokens": 1000, "between_s": 0.05}, True),
    "total, whole": ({"faults": {"silent": True}}, False),
    "idle, half": ({"faults": {"hang_after": 1}}, False),
}


@pytest.mark.parametrize("name", TIMEOUTS)
async def test_a_timeout_says_which_one_and_how_long(running: Running, upstream: FakeServer, name: str) -> None:
    script, stream = TIMEOUTS[name]
    which = name.split(",")[0]
    upstream.use(script)
    began = time.monotonic()
    status, _, text, receipt = await raw_stream(running, stream=stream)
    seconds = SHORT[f"{which}_s"]
    assert time.monotonic() - began > seconds * 0.9
    error = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert error["code"] == "upstream_timeout"
    assert f"the {which} timeout after {seconds:g} s" in error["message"]
    assert status == (200 if stream and which in ("idle", "total") else 504)
    assert receipt.status == 504
    await upstream.idle(2)
    assert upstream.seen[-1].gone_at is not None, "the upstream works for nobody"


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port of loopback where a connection is neither made nor refused."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_connect_timeout(serve: Serve, upstream: FakeServer, full_backlog: int, stream: bool) -> None:
    config = over(upstream, base_url=f"http://127.0.0.1:{full_backlog}/v1", timeouts=SHORT)
    async with serve(config) as running:
        status, headers, text, receipt = await raw_stream(running, stream=stream)
    assert status == 504
    assert "the connect timeout after 0.5 s" in json.loads(text)["error"]["message"]
    assert headers["x-should-retry"] == "true"
    assert receipt.attempts == 1


async def test_comments_as_fast_as_they_come_are_not_hoarded(running: Running) -> None:
    """An upstream that sends comments only, at full speed, before its first event."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        try:
            while True:
                writer.write(b": x\n\n" * 10_000)
                sent += 50_000
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    backend = running.gateway._backends["m"][1].backend
    from yarl import URL

    backend._urls["chat"] = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions")  # type: ignore[attr-defined]
    async with server:
        status, _, text, _ = await raw_stream(running)
    assert status in (502, 504)
    assert json.loads(text)["error"]["source"] == "upstream"
    assert sent < 32 << 20


async def test_retries_come_before_the_first_byte_only(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream, retries={"attempts": 3}, timeouts=SHORT)) as running:
        for script, stream, calls, status in (
            ({"faults": {"status": 500, "first": 1}}, True, 2, 200),
            ({"faults": {"status": 429, "retry_after": 0.1, "first": 1}}, False, 2, 200),
            ({"faults": {"refuse": True, "first": 1}}, False, 2, 200),
            ({"faults": {"cut_after": 0, "first": 1}}, True, 2, 200),
            ({"faults": {"cut_after": 3}}, True, 1, 200),
            ({"faults": {"status": 400}}, False, 1, 400),
            ({"faults": {"status": 401}}, False, 1, 502),
            ({"faults": {"silent": True}}, True, 1, 504),
        ):
            upstream.use({})
            for _ in range(15):  # earn retries, and let the breaker see good days
                assert (await raw_stream(running))[0] == 200
            upstream.records.clear()
            served = running.gateway._backends["m"][1]
            faults = dict(script["faults"])
            if "first" in faults:
                faults["first"] = upstream.counts.calls + 1
            upstream.use({"faults": faults})
            got, headers, _, receipt = await raw_stream(running, stream=stream)
            assert (got, len(upstream.records), receipt.attempts) == (status, calls, calls), script
            assert headers["x-trimtab-attempts"] == str(calls)
            assert len(receipt.retries) == (calls - 1 if got == 200 and calls > 1 else len(receipt.retries))
            served.breaker._recent.clear()


async def test_retry_after_is_waited_for_up_to_a_bound(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream, retries={"attempts": 2})) as running:
        upstream.use({"faults": {"status": 429, "retry_after": 1, "first": 1}})
        status, _, _, _ = await raw_stream(running, stream=False)
        assert status == 200
        first, second = upstream.seen
        assert second.at - first.at >= 0.99
        upstream.use({"faults": {"status": 429, "retry_after": 60}})
        status, headers, _, receipt = await raw_stream(running, stream=False)
        assert status == 429
        assert headers["retry-after"] == "60"
        assert receipt.attempts == 1


async def test_retries_of_an_outage_stay_within_their_budget(serve: Serve, upstream: FakeServer) -> None:
    """100 requests in a total outage: the first three may retry, then one in five."""
    upstream.use({"faults": {"status": 429}})
    async with serve(over(upstream, retries={"attempts": 2})) as running:
        for served in (running.gateway._backends["m"][1],):
            object.__setattr__(served.retries, "base", 0.001)
        await asyncio.gather(*(raw_stream(running, stream=False) for _ in range(100)))
    assert 103 <= upstream.counts.calls <= 124


async def test_a_fallback_answers_when_the_first_is_down(serve: Serve, upstream: FakeServer) -> None:
    async with FakeServer({"text": "from the second"}) as second:
        config = over(upstream)
        config["models"]["m"]["fallbacks"] = ["spare"]
        config["models"]["spare"] = {**over(second, "spare")["models"]["spare"]}
        async with serve(config) as running:
            for faults in ({"status": 500}, {"refuse": True}, {"status": 429, "retry_after": 60}, {"cut_after": 0}):
                upstream.use({"faults": faults})
                status, headers, text, receipt = await raw_stream(running)
                assert status == 200
                assert "second" in text
                assert headers["x-trimtab-model"] == "spare"
                assert headers["x-trimtab-attempts"] == "2"
                assert receipt.target == "spare"
            upstream.use({"faults": {"status": 400}})
            assert (await raw_stream(running))[0] == 400, "a client's own mistake is no reason to ask another"
            upstream.use({"faults": {"cut_after": 3}})
            _, _, text, receipt = await raw_stream(running)
            assert "second" not in text, "two answers are never spliced"
            assert receipt.outcome == "cut"


@pytest.fixture
def quick_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breakers that rest for 0.3 s."""
    made = Breaker.__init__

    def short(self: Breaker) -> None:
        made(self, first_pause=0.3)

    monkeypatch.setattr(Breaker, "__init__", short)


@pytest.mark.usefixtures("quick_breaker")
async def test_the_breaker_opens_after_five_and_one_probe_closes_it(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream)) as running:
        upstream.use({"faults": {"status": 500}})
        for _ in range(5):
            assert (await raw_stream(running, stream=False))[0] == 500
        assert len(upstream.seen) == 5
        status, headers, text, _ = await raw_stream(running, stream=False)
        assert status == 503
        assert json.loads(text)["error"]["code"] == "upstream_unavailable"
        assert int(headers["retry-after"]) >= 1
        assert len(upstream.seen) == 5, "an open circuit calls nobody"
        await asyncio.sleep(0.35)
        upstream.use({"accept_s": 0.2})
        answers = await asyncio.gather(*(raw_stream(running, stream=False) for _ in range(5)))
        assert sorted(answer[0] for answer in answers) == [200, 503, 503, 503, 503], "half-open lets one through"
        assert (await raw_stream(running, stream=False))[0] == 200


@pytest.mark.usefixtures("quick_breaker")
async def test_cut_streams_and_silent_ones_open_the_breaker_too(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"faults": {"cut_after": 3}})
    async with serve(over(upstream, timeouts=SHORT)) as running:
        for _ in range(5):
            assert (await raw_stream(running))[3].outcome == "cut"
        assert (await raw_stream(running))[0] == 503


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_a_client_that_does_not_read_holds_up_the_upstream_and_is_dropped(
    serve: Serve, upstream: FakeServer
) -> None:
    """50 MB for a client that reads nothing: the upstream waits, the memory stays, and then everything is let go."""
    async with serve(over(upstream, timeouts={"idle_s": 0.5})) as running:
        upstream.use({})
        await raw_stream(running)  # so that every file that stays open is open
        upstream.use({"tokens": 5000, "extra": {"pad": "x" * 10_000}})
        before, files = rss(), len(os.listdir("/proc/self/fd"))
        with closing(socket.socket()) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", running.port))
            body = json.dumps({"model": "m", "messages": ASK, "stream": True}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
            lazy.send(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            async with asyncio.timeout(5):
                while len(upstream.seen) < 2 or upstream.counts.open:
                    await asyncio.sleep(0.02)
            assert upstream.seen[-1].gone_at is not None
            assert rss() - before < 16 << 20
            receipt = await last_receipt(running)
            assert receipt.outcome == "disconnected"
            assert receipt.usage is not None
            assert 0 < receipt.usage.completion < 5000
            await asyncio.sleep(0.1)
            assert len(os.listdir("/proc/self/fd")) <= files + 1, "the connection that nobody reads is still open"


async def test_a_client_that_left_during_admission_is_noticed(
    serve: Serve, upstream: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody watched for it until the stages were done, and then it had happened already."""
    upstream.use({"accept_s": 3})
    async with serve(over(upstream)) as running:
        walk = running.gateway.live.pipeline.walk

        async def slow(exchange: Any) -> None:
            await walk(exchange)
            await asyncio.sleep(0.3)

        monkeypatch.setattr(running.gateway.live.pipeline, "walk", slow)
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = json.dumps({"model": "m", "messages": ASK}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.1)
        writer.close()
        receipt = await asyncio.wait_for(settled_receipt(running), 2)
        assert receipt.outcome == "disconnected"
        assert not upstream.seen or upstream.seen[-1].gone_at is not None


async def settled_receipt(running: Running) -> Receipt:
    await running.settled()
    while not receipts_in(running.gateway.ledger.path):
        await running.settled()
        await asyncio.sleep(0.01)
    return await last_receipt(running)
