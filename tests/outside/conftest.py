"""What the tests from outside share: bytes on a socket, and a gateway in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.http import StrictProtocol


@dataclass
class Reply:
    """One HTTP answer as it came. `text` is the body, its chunks joined."""

    status: int
    headers: dict[str, str]
    text: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def read_reply(reader: asyncio.StreamReader, head_only: bool = False) -> Reply:
    """Raises IncompleteReadError where the connection ends instead."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    status = int(head[0].split()[1])
    if head_only or status == 100:
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return Reply(status, headers, body)
    return Reply(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


class Line:
    """A raw connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def reply(self, seconds: float = 5.0, head_only: bool = False) -> Reply:
        async with asyncio.timeout(seconds):
            return await read_reply(self.reader, head_only)

    async def ended(self, seconds: float = 5.0) -> bytes:
        """What still comes until the gateway closes. Raises TimeoutError when it does not."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def post(body: bytes = b"", path: bytes = b"/v1/chat/completions", *headers: bytes, key: str = KEY) -> bytes:
    """A correct request. Each of `headers` is a line more."""
    more = b"".join(line + b"\r\n" for line in headers)
    length = (
        b""
        if any(line.lower().startswith((b"transfer-", b"content-length")) for line in headers)
        else (b"Content-Length: %d\r\n" % len(body))
    )
    head = b"POST %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n%s%s\r\n"
    return head % (path, key.encode(), more, length) + body


def ask(**more: Any) -> bytes:
    """The body of a small chat request."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


@dataclass
class Wire:
    """The functions above, for tests that cannot import a conftest."""

    port: int
    running: Running

    post = staticmethod(post)
    ask = staticmethod(ask)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 << 20)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def once(self, data: bytes, seconds: float = 5.0, head_only: bool = False) -> Reply:
        """The answer to one request on a connection of its own."""
        async with self.line() as line:
            await line.send(data)
            return await line.reply(seconds, head_only)


@pytest.fixture
async def wire(serve: Serve, upstream: FakeServer) -> AsyncIterator[Wire]:
    """A gateway with the model `m` over the fake upstream, at the level of bytes."""
    async with serve(over(upstream)) as running:
        yield Wire(running.port, running)


@pytest.fixture
def to_wire() -> Callable[[Running], Wire]:
    return lambda running: Wire(running.port, running)


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a request's head and for its body, as `server.headers_s` and `server.body_s` would say."""
    monkeypatch.setattr(StrictProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(StrictProtocol, "body_seconds", 0.5)


class Served:
    """`trimtab serve` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, config: Path, ledger: Path) -> None:
        self.process = process
        self.config = config
        self.ledger = ledger
        self.port = 0
        self.out = ""
        self.log: list[str] = []
        self._reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def begin(self) -> None:
        """Wait for the banner. Raises AssertionError when the process ends instead."""
        assert self.process.stdout is not None
        self._reading = asyncio.ensure_future(self._read_log())
        async with asyncio.timeout(20):
            while not (found := re.search(r"on http://127\.0\.0\.1:(\d+)", self.out)):
                line = await self.process.stdout.readline()
                assert line, f"the gateway did not start: {''.join(self.log)}"
                self.out += line.decode()
        self.port = int(found[1])

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(line.decode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit(self, seconds: float = 15.0) -> int:
        """The exit status. Raises TimeoutError when the process does not end."""
        async with asyncio.timeout(seconds):
            status = await self.process.wait()
            if self._reading is not None:
                await self._reading
        return status

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._reading is not None:
            await self._reading
        transport = self.process._transport  # type: ignore[attr-defined]
        transport.close()


Process = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """`async with process({...configuration...}, "--log-level", "debug") as served`; the port is any free one."""

    @contextlib.asynccontextmanager
    async def start(config: Mapping[str, Any], *arguments: str, wait: bool = True) -> AsyncIterator[Served]:
        file, ledger = tmp_path / "trimtab.yaml", tmp_path / "process.db"
        # JSON is YAML.
        file.write_text(json.dumps(config))
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trimtab.gateway.cli", "serve",
            "-c", str(file), "--port", "0", "--ledger", str(ledger), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ,
        )  # fmt: skip
        served = Served(made, file, ledger)
        try:
            if wait:
                await served.begin()
            yield served
        finally:
            await served.end()

    return start
