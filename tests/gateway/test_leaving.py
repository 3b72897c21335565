"""Clients that leave at an awkward moment: before the upstream is called, before the first byte, and after the last."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
from typing import Any

import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake import FakeBackend, FakeStream
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.http import StrictProtocol
from trimtab.gateway.keys import hash_key
from trimtab.gateway.limits import Ask, Reservation
from trimtab.protocol.exchange import Limits, Receipt

PRICE = {"input": 1_000_000, "output": 1_000_000}  # a dollar a token


async def ask(running: Running, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and read nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}).encode()
    head = f"host: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(data)}"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + data)
    return reader, writer


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def only_receipt(running: Running) -> Receipt:
    await running.settled()
    with running.gateway.ledger._reading() as db:
        (name,) = db.execute("SELECT id FROM receipts").fetchone()
    found = await running.gateway.ledger.find(name)
    assert found is not None
    return found


async def test_leaving_while_the_limits_are_asked_stops_the_request(
    serve: Serve, upstream: FakeServer, monkeypatch: Any
) -> None:
    upstream.use({"first_byte_s": 60})
    config = over(upstream)
    config["tenants"]["acme"]["limits"] = {"concurrent": 5}
    async with serve(config) as running:
        limiter: Any = running.gateway.limiter
        asked, answer = asyncio.Event(), asyncio.Event()
        reserve = limiter.reserve

        async def slowly(tenant: str, limits: Limits, asking: Ask) -> Reservation:
            asked.set()
            await answer.wait()
            made: Reservation = await reserve(tenant, limits, asking)
            return made

        monkeypatch.setattr(limiter, "reserve", slowly)
        _, writer = await ask(running, {})
        await asked.wait()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)  # the gateway's side sees the end of the connection
        answer.set()
        await until(lambda: running.gateway.in_flight == 0)
        assert (await only_receipt(running)).outcome == "disconnected"
        assert limiter.live("acme") == 0


async def test_leaving_before_the_first_byte_pays_for_the_prompt(serve: Serve) -> None:
    """The stream's request asks for usage behind the client's back; the backend knows what it read, to the token."""
    model = {"backend": "fake", "script": {"first_byte_s": 60}, "price": PRICE}
    async with serve({"models": {"m": model}, "tenants": {"acme": {"keys": [hash_key(KEY)]}}}) as running:
        (served,) = running.gateway.live.catalogue.all()
        fake = served.backend
        assert isinstance(fake, FakeBackend)
        _, writer = await ask(running, {"stream": True})
        await until(lambda: fake.counts.prompt_tokens)
        writer.close()
        receipt = await only_receipt(running)
        assert receipt.outcome == "disconnected"
        assert receipt.usage is not None
        assert receipt.usage.prompt == fake.counts.prompt_tokens > 0
        assert receipt.cost_microusd == receipt.usage.prompt * 1_000_000


async def test_leaving_a_plain_answer_is_priced(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"first_byte_s": 60})
    async with serve(over(upstream, price=PRICE)) as running:
        _, writer = await ask(running, {})
        await until(lambda: upstream.counts.open)
        writer.close()
        receipt = await only_receipt(running)
        assert receipt.target == "m"
        assert receipt.usage is not None
        assert receipt.usage.estimated
        assert receipt.cost_microusd == receipt.usage.prompt * 1_000_000 > 0


async def test_a_connection_that_is_reset_while_idle_is_forgotten(
    own_garbage: None, serve: Serve, upstream: FakeServer
) -> None:
    """uvicorn kept such a connection, with its last request, until its keep-alive time was over."""
    async with serve(over(upstream)) as running:
        reader, writer = await ask(running, {})
        await reader.readuntil(b"\r\n\r\n")
        await running.settled()
        await asyncio.sleep(0.05)  # the answer is on the wire, the connection waits for the next request

        def kept() -> int:
            gc.collect()
            return sum(type(thing) is StrictProtocol for thing in gc.get_objects())

        assert kept() == 1
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: kept() == 0)


async def test_a_cut_on_top_of_a_leaving_still_bills_what_was_made(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = FakeStream.aclose

    async def slowly(self: FakeStream) -> None:
        await close(self)
        await asyncio.sleep(0.3)

    monkeypatch.setattr(FakeStream, "aclose", slowly)
    config = {"models": {"m": {"backend": "fake", "script": {"tokens": 500, "between_s": 0.01}}}}
    async with serve(config) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = b'{"model":"m","messages":[],"stream":true}'
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        for _ in range(5):
            await reader.readuntil(b"content")
        writer.transport.abort()
        await asyncio.sleep(0.1)
        running.gateway.cut()
        await running.settled()
        totals = await running.gateway.ledger.totals("local")
        (served,) = running.gateway.live.catalogue.all()
        assert isinstance(served.backend, FakeBackend)
        made = served.backend.counts.completion_tokens
    assert totals.requests == 1
    assert totals.completion_tokens == made > 0
