"""The fault proxy does the harm it says, and none where none is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from faults.proxy import FaultProxy, Faults

DATA = bytes(range(256)) * 400


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def through(proxy: FaultProxy, data: bytes = DATA, patience: float = 3.0) -> tuple[bytes, str]:
    """What comes back of `data`, and how it ended: "eof", "reset" or "silence"."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    got = b""
    try:
        writer.write(data)
        writer.write_eof()
        while True:
            part = await asyncio.wait_for(reader.read(1 << 16), patience)
            if not part:
                return got, "eof"
            got += part
    except ConnectionError:
        return got, "reset"
    except TimeoutError:
        return got, "silence"
    finally:
        writer.close()


async def test_without_faults_nothing_changes(echo):
    async with FaultProxy("127.0.0.1", echo) as proxy:
        assert await through(proxy) == (DATA, "eof")
        assert proxy.forwarded == {"up": len(DATA), "down": len(DATA)}
        assert proxy.accepted == 1


async def test_a_cut_lets_just_so_many_bytes_through(echo):
    async with FaultProxy("127.0.0.1", echo, Faults(cut_after=1000, only="down")) as proxy:
        got, end = await through(proxy)
    assert got == DATA[:1000]
    assert end in ("eof", "reset")


async def test_a_reset_is_one(echo):
    async with FaultProxy("127.0.0.1", echo, Faults(reset_after=1000, only="down")) as proxy:
        got, end = await through(proxy)
    assert DATA.startswith(got)
    assert len(got) <= 1000
    assert end == "reset"


async def test_half_open_is_silence(echo):
    async with FaultProxy("127.0.0.1", echo, Faults(hang_after=1000, only="down")) as proxy:
        assert await through(proxy, patience=0.2) == (DATA[:1000], "silence")


async def test_refused_and_unreachable(echo):
    async with FaultProxy("127.0.0.1", echo, Faults(refuse=True)) as proxy:
        assert (await through(proxy, b"x"))[1] == "reset"
        proxy.faults = Faults()
        assert await through(proxy, b"x") == (b"x", "eof")
    async with FaultProxy("127.0.0.1", 1) as proxy:
        assert (await through(proxy, b"x"))[1] == "reset"


async def test_open_connections_can_be_reset(echo):
    async with FaultProxy("127.0.0.1", echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert proxy.connections == 1
        proxy.reset_all()
        with pytest.raises(ConnectionError):
            await reader.read(1)
        writer.close()
        while proxy.connections:
            await asyncio.sleep(0.002)


async def test_garbling_is_seeded(echo):
    async def run(seed: int) -> bytes:
        async with FaultProxy("127.0.0.1", echo, Faults(garble=0.01, only="up"), seed=seed) as proxy:
            return (await through(proxy))[0]

    first, again, other = await run(1), await run(1), await run(2)
    assert first == again
    assert len(first) == len(DATA)
    flipped = sum(a != b for a, b in zip(first, DATA, strict=True))
    assert 0.005 * len(DATA) < flipped < 0.02 * len(DATA)
    assert other != first


async def test_latency_and_bandwidth_take_their_time(echo):
    for faults in (Faults(latency_s=0.1), Faults(bytes_per_s=100_000.0, only="down")):
        async with FaultProxy("127.0.0.1", echo, faults) as proxy:
            before = time.monotonic()
            assert (await through(proxy, DATA[:20_000])) == (DATA[:20_000], "eof")
            assert time.monotonic() - before >= 0.19
