"""The end of a serving process: nothing new, what runs may finish, everything is written down, and the status is 0."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ASK: list[Any] = [{"role": "user", "content": "hi"}]


def config(drain_s: float = 10.0, **script: Any) -> dict[str, Any]:
    return {
        "models": {
            "slow": {"backend": "fake", "script": {"tokens": 30, "between_s": 0.05, **script}},
            "fast": {"backend": "fake", "script": {"tokens": 5}},
        },
        "tenants": {"local": {}},
        "server": {"drain_s": drain_s},
    }


def outcomes(ledger: Path) -> Counter[str]:
    with closing(sqlite3.connect(ledger)) as db:
        return Counter(row[0] for row in db.execute("SELECT outcome FROM receipts"))


class Streams:
    """Streams that run at the same time; `bodies` fills as they end."""

    def __init__(self, served: Any, count: int) -> None:
        self.served = served
        self.count = count
        self.began = 0
        self.bodies: list[str] = []
        self.ids: list[str] = []

    async def __aenter__(self) -> Streams:
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.tasks = [asyncio.ensure_future(self._one()) for _ in range(self.count)]
        async with asyncio.timeout(10):
            while self.began < self.count:
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.session.close()

    async def _one(self) -> None:
        body = {"model": "slow", "messages": ASK, "stream": True}
        async with self.session.post(f"{self.served.base_url}/chat/completions", json=body) as response:
            assert response.status == 200
            self.ids.append(response.headers["x-request-id"])
            text = (await response.content.readany()).decode()
            self.began += 1
            try:
                while chunk := await response.content.readany():
                    text += chunk.decode(errors="replace")
            except aiohttp.ClientError:
                text += "<broken off>"
            self.bodies.append(text)

    async def done(self) -> list[str]:
        await asyncio.gather(*self.tasks)
        return self.bodies


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_streams_finish_whole_and_nothing_new_begins(process: Any, number: signal.Signals) -> None:
    async with process(config()) as served, aiohttp.ClientSession() as session, Streams(served, 20) as streams:
        served.signal(number)
        await asyncio.sleep(0.15)
        async with session.get(f"{served.url}/health/readiness") as response:
            assert response.status == 503
            assert "draining" in (await response.json())["problems"]
        async with session.get(f"{served.url}/health/liveliness") as response:
            assert response.status == 200
        async with session.post(
            f"{served.base_url}/chat/completions", json={"model": "fast", "messages": ASK}
        ) as response:
            assert response.status == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.headers["x-should-retry"] == "true"
            assert (await response.json())["error"]["code"] == "server_shutdown"
        bodies = await streams.done()
        assert len(bodies) == 20
        assert all(body.endswith("data: [DONE]\n\n") for body in bodies)
        assert await served.exit() == 0
        assert outcomes(served.ledger) == {"ok": 20}


async def test_a_stream_beyond_the_drain_gets_an_error_event_and_is_settled(process: Any) -> None:
    async with process(config(drain_s=0.5, tokens=100_000, between_s=0.02)) as served, Streams(served, 5) as streams:
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        for body in await streams.done():
            assert "[DONE]" not in body
            assert json.loads(body.strip().split("\n\n")[-1][6:])["error"]["code"] == "server_shutdown"
        assert await served.exit() == 0
        assert 0.4 < time.monotonic() - began < 5
        assert outcomes(served.ledger) == {"cut": 5}
        with closing(sqlite3.connect(served.ledger)) as db:
            assert all(row[0] > 0 for row in db.execute("SELECT completion_tokens FROM receipts"))


async def test_a_plain_request_beyond_the_drain_is_a_503(process: Any) -> None:
    async with process(config(drain_s=0.3, accept_s=60)) as served, aiohttp.ClientSession() as session:
        asking = asyncio.ensure_future(
            session.post(f"{served.base_url}/chat/completions", json={"model": "slow", "messages": ASK})
        )
        await asyncio.sleep(0.3)
        served.signal(signal.SIGTERM)
        response = await asking
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "server_shutdown"
        assert await served.exit() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_cuts_at_once(process: Any, second: signal.Signals) -> None:
    async with process(config(drain_s=60, tokens=100_000)) as served, Streams(served, 5) as streams:
        served.signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        served.signal(second)
        for body in await streams.done():
            assert json.loads(body.strip().split("\n\n")[-1][6:])["error"]["code"] == "server_shutdown"
        assert await served.exit() == 0
        assert time.monotonic() - began < 5
        assert outcomes(served.ledger) == {"cut": 5}


async def test_an_idle_connection_does_not_hold_up_the_end(process: Any) -> None:
    async with process(config()) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        assert await served.exit() == 0
        assert time.monotonic() - began < 3
        writer.close()


async def test_a_body_still_on_its_way_does_not_hold_up_the_end(process: Any) -> None:
    async with process(config(drain_s=0.3)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        await asyncio.sleep(0.2)
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        assert await served.exit() == 0
        assert time.monotonic() - began < 8
        writer.close()


async def test_a_kill_loses_the_last_two_hundred_milliseconds_at_most(process: Any) -> None:
    async with process(config()) as served, aiohttp.ClientSession() as session:
        answered: list[tuple[float, str]] = []

        async def ask() -> None:
            while True:
                body = {"model": "fast", "messages": ASK}
                async with session.post(f"{served.base_url}/chat/completions", json=body) as response:
                    await response.read()
                    answered.append((time.monotonic(), response.headers["x-request-id"]))
                await asyncio.sleep(0.02)  # a machine at its limit writes later: what is promised is not that

        asking = [asyncio.ensure_future(ask()) for _ in range(8)]
        await asyncio.sleep(1.5)
        killed = time.monotonic()
        served.signal(signal.SIGKILL)
        await asyncio.gather(*asking, return_exceptions=True)
        await served.exit()
        with closing(sqlite3.connect(served.ledger)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            written = {row[0] for row in db.execute("SELECT id FROM receipts")}
        due = [name for at, name in answered if at < killed - 0.2]
        assert len(due) > 100
        missing = [name for name in due if name not in written]
        assert not missing, f"{len(missing)} of {len(due)}, {len(written)} written"


async def failed_start(*arguments: str) -> tuple[int, str]:
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trimtab.gateway.cli", "serve", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await asyncio.wait_for(made.communicate(), 20)
    assert not out
    assert made.returncode is not None
    return made.returncode, error.decode()


async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config()))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        status, error = await failed_start("-c", str(file), "--port", str(port), "--ledger", str(tmp_path / "l.db"))
    assert status == 1
    assert error.startswith(f"trimtab: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert error.count("\n") == 1


async def test_a_bad_file_is_refused_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "models:\n  m: {backend: fake}\nserver:\n  prot: 4000\ntenants:\n  a:\n    limits: {concurrent: many}\n"
    )
    status, error = await failed_start("-c", str(file), "--port", "0")
    assert status == 1
    assert f"{file}:4" in error
    assert f"{file}:7" in error
    assert "Traceback" not in error
    status, error = await failed_start("-c", str(tmp_path / "absent.yaml"))
    assert status == 1
    assert "absent.yaml" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
async def test_listening_beyond_this_machine_without_keys_is_refused(tmp_path: Path, host: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config()))
    status, error = await failed_start("-c", str(file), "--port", "0", "--host", host)
    assert status == 1
    assert "has no keys" in error
    assert "trimtab keys new local" in error


async def test_an_unusable_ledger_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config()))
    status, error = await failed_start("-c", str(file), "--port", "0", "--ledger", "/proc/nowhere/ledger.db")
    assert status == 1
    assert "Traceback" not in error
    assert "/proc/nowhere" in error
