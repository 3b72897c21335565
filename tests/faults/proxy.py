"""A TCP proxy that does harm: put it between the gateway and whatever it talks to.

Faults may be changed while connections are open; with the same seed and the same bytes it does the same harm. What a
fault means is the same in both directions unless `only` names one ("up": towards the target, "down": back from it).
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Faults:
    """Seconds and bytes. Counts of bytes are per connection and direction."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after: int | None = None  # FIN to both sides after so many bytes
    reset_after: int | None = None  # RST to both sides
    hang_after: int | None = None  # nothing more is forwarded, and nobody is told
    garble: float = 0.0  # the chance of each byte to be flipped
    refuse: bool = False  # connections are reset as soon as they are made
    only: Direction | None = None

    def limit(self) -> int | None:
        """The first byte that is not forwarded."""
        limits = [n for n in (self.cut_after, self.reset_after, self.hang_after) if n is not None]
        return min(limits, default=None)


class FaultProxy:
    """`async with FaultProxy(host, port) as proxy:` then connect to `proxy.port` and set `proxy.faults`."""

    def __init__(self, host: str, port: int, faults: Faults = Faults(), seed: int = 0) -> None:
        self.target = (host, port)
        self.faults = faults
        self.port = 0
        self.accepted = 0
        self.forwarded = {"up": 0, "down": 0}
        self._random = random.Random(seed)
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    def reset_all(self) -> None:
        """RST on every open connection, both sides, now."""
        for writers in list(self._open.values()):
            _reset(*writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.faults.refuse:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self._open[task] = (writer, far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, writer, "up"))
                group.create_task(self._pump(far_reader, writer, far_writer, "down"))
        except* (OSError, _Ended, asyncio.IncompleteReadError):
            pass
        finally:
            del self._open[task]
            for one in (writer, far_writer):
                one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter, way: Direction
    ) -> None:
        passed = 0
        while data := await reader.read(16 << 10):
            faults = self.faults if self.faults.only in (None, way) else Faults()
            await self._delay(faults, len(data))
            limit = faults.limit()
            held = data if limit is None else data[: max(0, limit - passed)]
            if held:
                writer.write(self._garbled(held, faults.garble))
                await writer.drain()
            passed += len(held)
            self.forwarded[way] += len(held)
            if len(held) < len(data):
                await self._strike(faults, writer, back)
        if writer.can_write_eof():
            writer.write_eof()

    async def _delay(self, faults: Faults, size: int) -> None:
        seconds = faults.latency_s + self._random.uniform(0, faults.jitter_s)
        if faults.bytes_per_s:
            seconds += size / faults.bytes_per_s
        if seconds:
            await asyncio.sleep(seconds)

    def _garbled(self, data: bytes, chance: float) -> bytes:
        if not chance:
            return data
        return bytes(b ^ (1 << self._random.randrange(8)) if self._random.random() < chance else b for b in data)

    async def _strike(self, faults: Faults, *writers: asyncio.StreamWriter) -> None:
        """The limit is reached; which fault's limit was it?"""
        limit = faults.limit()
        if limit == faults.hang_after:
            await asyncio.Event().wait()
        if limit == faults.reset_after:
            await asyncio.sleep(0.02)  # a reset overtakes what the other side has not read yet
            _reset(*writers)
        raise _Ended


class _Ended(Exception):
    """A connection that the proxy ended on purpose."""


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        raw = writer.get_extra_info("socket")
        if raw is not None and not writer.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
