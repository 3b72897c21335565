"""A gateway with its upstream in this process, on real sockets, and the books that the upstream keeps of it.

In process the upstream is the `fake` backend; over HTTP it is the fake server behind the `openai` backend. Either tells
what it sent, to the token, for each single request; `Book` writes that down as it happens, on disk, because a list in
memory would look like a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_server import FakeServer
from trimtab.backends.fake_tally import CallRecord
from trimtab.backends.openai import OpenAIBackend
from trimtab.gateway.config import Config
from trimtab.gateway.keys import hash_key
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.live import Gateway
from trimtab.gateway.server import Server, bind, uvicorn_config

KEY = "tt-key-of-the-soak-which-opens-nothing"
TENANT = "soak"
PLAIN, STREAM = "plain", "stream"
TOKENS = 24
ANSWER_S = 0.05  # about how long a stream takes
SCRIPT: dict[str, Any] = {
    "tokens": TOKENS,
    "models": {PLAIN: {"first_byte_s": 0.002}, STREAM: {"first_byte_s": 0.002, "between_s": 0.001}},
}
KEEP = 512  # calls that a fake remembers: more than can be in flight


@dataclass
class Used:
    """What one call used, as its upstream or as the ledger has it."""

    prompt: int
    completion: int
    how: str  # the upstream: completed, aborted, failed; the ledger: its outcome
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Book:
    """What the upstream says of each call, by a name that the ledger knows too: the request's id, or the end user."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w+")
        self._open: dict[str, CallRecord] = {}

    def opened(self, name: str, record: CallRecord) -> None:
        self._open[name] = record

    def sweep(self) -> None:
        """Write down the calls that have ended since the last time."""
        for name in [name for name, record in self._open.items() if record.outcome != "open"]:
            record = self._open.pop(name)
            usage = record.usage
            self._file.write(f"{name} {usage.prompt} {usage.completion} {record.outcome}\n")

    def read(self) -> dict[str, list[Used]]:
        """All calls by name. A name with several calls was sent upstream more than once."""
        self.sweep()
        self._file.seek(0)
        calls: dict[str, list[Used]] = {}
        for name, prompt, completion, outcome in map(str.split, self._file):
            calls.setdefault(name, []).append(Used(int(prompt), int(completion), outcome))
        return calls

    def close(self) -> None:
        self._file.close()


@dataclass
class House:
    """A running gateway, its upstream's counts and where its ledger is."""

    gateway: Gateway
    limiter: LocalLimiter
    port: int
    book: Book
    fake: FakeBackend | FakeServer
    ledger: Path

    async def rest(self, seconds: float = 10.0) -> None:
        """Wait until nothing is in flight on either side. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.gateway.in_flight or self.fake.counts.open:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(self.gateway.ledger.flush)
        self.note()

    def note(self) -> None:
        """Bring the book up to date with the calls that the upstream still remembers."""
        if isinstance(self.fake, FakeServer):
            while self.fake.seen:
                seen = self.fake.seen.popleft()
                if seen.call is not None:
                    self.book.opened(msgspec.json.decode(seen.body)["user"], seen.call)
        else:
            while self.fake.records:
                record = self.fake.records.popleft()
                self.book.opened(record.request_id, record)
        self.book.sweep()


@contextlib.asynccontextmanager
async def house(folder: Path, *, http: bool) -> AsyncIterator[House]:
    """A gateway that serves on loopback until the block ends, closed with everything it opened."""
    async with contextlib.AsyncExitStack() as stack:
        fake: FakeBackend | FakeServer = FakeBackend(SCRIPT, keep=KEEP)
        if http:
            fake = await stack.enter_async_context(FakeServer(SCRIPT, keep=KEEP))
        config = Config.model_validate(_configuration(folder, fake), context={"environ": {}})
        limiter = LocalLimiter()
        ledger = Ledger(config.ledger.path)
        gateway = Gateway(config, ledger, limiter, backend=lambda _: _backend(fake))
        book = stack.enter_context(contextlib.closing(Book(folder / "upstream.txt")))
        port = await stack.enter_async_context(serving(gateway, config))
        yield House(gateway, limiter, port, book, fake, config.ledger.path)


def _backend(fake: FakeBackend | FakeServer) -> FakeBackend | OpenAIBackend:
    return OpenAIBackend(fake.url, "sk-upstream-of-the-soak") if isinstance(fake, FakeServer) else fake


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, config: Config) -> AsyncIterator[int]:
    sock = bind("127.0.0.1", 0)
    await gateway.start()
    server = Server(uvicorn_config(gateway, config))
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        await gateway.close()
        sock.close()


def _configuration(folder: Path, fake: FakeBackend | FakeServer) -> dict[str, Any]:
    """Every limit set, too high to be met, so that each request holds a reservation of each kind."""
    address = {"base_url": fake.url} if isinstance(fake, FakeServer) else {}
    model = {"backend": "openai" if address else "fake", "price": {"input": 2, "output": 8}, **address}
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "usd_per_day": 10**6, "concurrent": 10**4}
    return {
        "models": {PLAIN: model, STREAM: model},
        "tenants": {TENANT: {"keys": [hash_key(KEY)], "limits": limits}},
        "ledger": {"path": str(folder / "ledger.db")},
    }


def receipts(path: Path) -> Iterator[tuple[str, str, Used, int]]:
    """(request id, end user, what was billed, micro-dollars) of each row of a ledger."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT id, end_user, prompt_tokens, completion_tokens, outcome, estimated, cost_microusd FROM receipts"
        )
        for name, user, prompt, completion, outcome, estimated, cost in rows:
            yield name, user or "", Used(prompt, completion, outcome, bool(estimated)), cost
