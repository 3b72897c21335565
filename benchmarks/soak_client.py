"""The soak's clients: some wait for their answer, some leave at a moment of their own, by FIN or by RST.

A plan says before anything is sent who will do what, so a seed gives the same clients each time. A client knows HTTP
as far as it must, and reads nothing of an answer but its end.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Fate = Literal["stay", "at once", "waiting", "reading"]
CHUNKED_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Visit:
    """One request. `fate`: stay to the end; leave at once, or after `after_s` of waiting, or once `events` came."""

    serial: int
    stream: bool
    fate: Fate = "stay"
    after_s: float = 0.0
    events: int = 0
    reset: bool = False
    usage: bool = False  # a stream's client asks for it

    def body(self, model: str) -> bytes:
        asked: dict[str, object] = {
            "model": model,
            "user": f"soak-{self.serial}",
            "messages": [{"role": "user", "content": f"Question {self.serial}: " + "why? " * (self.serial % 40)}],
        }
        if self.stream:
            asked["stream"] = True
            if self.usage:
                asked["stream_options"] = {"include_usage": True}
        return json.dumps(asked).encode()


def plan(requests: int, streams: int, seed: int, *, longest_s: float, events: int) -> list[Visit]:
    """All visits in their order. Half of the streams' clients leave early, and a tenth of the others.

    `longest_s` and `events`: about how long an answer takes and how many events a stream has; leaving is spread over
    both.
    """
    chance = random.Random(seed)
    kinds = [True] * streams + [False] * requests
    chance.shuffle(kinds)
    return [_visit(serial, stream, chance, longest_s, events) for serial, stream in enumerate(kinds)]


def _visit(serial: int, stream: bool, chance: random.Random, longest_s: float, events: int) -> Visit:
    usage, reset = chance.random() < 0.5, chance.random() < 0.5
    if chance.random() >= (0.5 if stream else 0.1):
        return Visit(serial, stream, usage=usage)
    fates: tuple[Fate, ...] = ("at once", "waiting", "reading") if stream else ("at once", "waiting")
    fate = chance.choice(fates)
    return Visit(serial, stream, fate, chance.uniform(0, longest_s), chance.randrange(1, events), reset, usage)


@dataclass
class Outcome:
    """What the clients saw. `odd` lists answers that were neither whole nor left: there should be none.

    `answered` has a 1 for each serial that got a status line. It is as long from the start as it will be: a set that
    grows would look like a leak.
    """

    answered: bytearray
    whole: int = 0
    left: int = 0
    odd: list[str] = field(default_factory=list)


class Client:
    """One client with one connection at a time, kept alive while it stays."""

    def __init__(self, port: int, key: str, models: tuple[str, str], outcome: Outcome) -> None:
        self._port = port
        self._key = key
        self._models = models
        self._outcome = outcome
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def work(self, visits: Iterator[Visit]) -> None:
        """Take visits from the shared iterator until it is empty."""
        for visit in visits:
            try:
                async with asyncio.timeout(30):
                    await self._make(visit)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as e:
                self._outcome.odd.append(f"{visit}: {type(e).__name__} {e}")
                await self.leave(reset=True)
        await self.leave(reset=False)

    async def _make(self, visit: Visit) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        self._writer.write(self._request(visit))
        if visit.fate == "at once":
            return await self._give_up(visit)
        if visit.fate == "waiting":
            # Whatever has come by then stays unread in the socket, as with a client that died.
            await asyncio.sleep(visit.after_s)
            return await self._give_up(visit)
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._outcome.answered[visit.serial] = 1
        if not head.startswith(b"HTTP/1.1 200 "):
            self._outcome.odd.append(f"{visit}: {head[:60]!r}")
            return await self.leave(reset=True)
        if visit.fate == "reading":
            await self._some_events(visit.events)
            return await self._give_up(visit)
        whole = await (self._stream_to_end() if visit.stream else self._body(head))
        if whole:
            self._outcome.whole += 1
        else:
            self._outcome.odd.append(f"{visit}: the answer did not end well")

    async def _give_up(self, visit: Visit) -> None:
        self._outcome.left += 1
        await self.leave(visit.reset)

    async def leave(self, reset: bool) -> None:
        """Close the connection, if there is one; a reset drops what is on the way."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is None:
            return
        if reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            return  # the other side was faster

    def _request(self, visit: Visit) -> bytes:
        body = visit.body(self._models[visit.stream])
        head = f"host: 127.0.0.1\r\nauthorization: Bearer {self._key}\r\ncontent-length: {len(body)}"
        return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + body

    async def _body(self, head: bytes) -> bool:
        assert self._reader is not None
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        return b'"usage"' in body and body.endswith(b"}")

    async def _some_events(self, events: int) -> None:
        """Read until so many events came, or the stream ended before."""
        assert self._reader is not None
        seen, tail = 0, b""
        while seen < events and not tail.endswith(CHUNKED_END):
            data = await self._reader.read(4096)
            if not data:
                return
            seen += data.count(b"data: ")
            tail = (tail + data)[-16:]

    async def _stream_to_end(self) -> bool:
        assert self._reader is not None
        tail = b""
        while not tail.endswith(CHUNKED_END):
            data = await self._reader.read(65536)
            if not data:
                return False
            tail = (tail + data)[-64:]
        return b"data: [DONE]" in tail
