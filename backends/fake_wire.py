"""HTTP/1.1 by hand for the fake upstream, so that it can be done wrongly on purpose.

A `Connection` reads requests and gives each a `Response` to answer with. A client that leaves is noticed at once (the
answer's task is cancelled), not at the next write. It knows scripts only as far as they speak of bytes and delays.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import NamedTuple, cast

from .fake_request import Raw, take_request
from .fake_script import Script
from .fake_sse import Piece

Sent = Callable[[Piece], None]


class Connection(asyncio.Protocol):
    """One client's connection; `answer` is called for one request after the other. It keeps itself in `everyone`."""

    def __init__(self, answer: Callable[[Raw, Response], Awaitable[None]], everyone: set[Connection]) -> None:
        self._answer = answer
        self._everyone = everyone
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class, only by its methods
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._everyone.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        # A client that shuts its side is a client that leaves; what it has not read yet is not worth waiting for.
        if self.transport is not None:
            self.transport.abort()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    async def write(self, data: bytes) -> None:
        """Send, waiting while the client does not read."""
        if self.transport is not None:
            self.transport.write(data)
        await self._writable.wait()

    async def shut(self) -> None:
        """Drop the connection and wait for its answer to end."""
        if self.transport is not None:
            self.transport.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _next(self) -> None:
        """Begin to answer the next whole request, unless one is being answered."""
        if self._task is not None or self.transport is None:
            return
        try:
            raw = take_request(self._buffer)
        except ValueError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            return
        if raw is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(raw))

    async def _run(self, raw: Raw) -> None:
        response = Response(self)
        try:
            await self._answer(raw, response)
        except Exception:
            if self.transport is not None:
                self.transport.abort()
            raise
        finally:
            self._task = None
        closing = any(name.lower() == "connection" and value.lower() == "close" for name, value in raw.headers)
        if self.transport is not None and (response.closes or closing):
            self.transport.close()
        self._next()


class Response:
    """The answer to one request. `closes`: the connection ends with it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.closes = False

    async def whole(
        self, status: int, body: bytes, *, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """A correct answer of known length."""
        fields = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
        await self._connection.write(_head(status, fields) + body)

    async def plain(
        self, body: bytes, tokens: tuple[int, int], script: Script, headers: Mapping[str, str], sent: Sent
    ) -> bool:
        """A whole body, with the script's faults half-way. `tokens` and reasoning tokens go with its last byte."""
        faults = script.faults
        half = len(body) // 2
        first, second = Piece(body[:half], wait=script.first_byte_s), Piece(body[half:], *tokens)
        if faults.hang_after is not None or "comments_forever" in faults.garble:
            second = Piece(b"", end="hang")
        elif faults.cut_after is not None:
            second = Piece(b"", end="cut")
        fields = {"content-type": "application/json", **headers}
        return await self._send([first, second], fields, script, len(body), 1, sent)

    async def stream(self, pieces: Iterable[Piece], script: Script, headers: Mapping[str, str], sent: Sent) -> bool:
        """An event stream. False when the script cut it."""
        fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **headers}
        return await self._send(pieces, fields, script, None, script.faults.wire_after, sent)

    def reset(self) -> None:
        """End the connection with a RST."""
        transport = self._connection.transport
        if transport is not None:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def _send(
        self,
        pieces: Iterable[Piece],
        fields: dict[str, str],
        script: Script,
        length: int | None,
        strike_at: int,
        sent: Sent,
    ) -> bool:
        wire = script.faults.wire
        framing = Framing.of(wire, length)
        packer = zlib.compressobj(wbits=31) if wire == "gzip" else None
        if packer is not None:
            fields["content-encoding"] = "gzip"
        self.closes = framing.closes
        await self._connection.write(_head(200, {**fields, **framing.fields}))
        for at, piece in enumerate(pieces):
            await asyncio.sleep(piece.wait)
            if piece.end == "hang":
                await asyncio.Event().wait()
            if piece.end == "cut":
                return await self._cut(framing)
            if at == strike_at and wire in ("close_mid_chunk", "rst", "bad_chunk"):
                await self._strike(wire, piece.data)
                return False
            data = piece.data if packer is None else packer.compress(piece.data) + packer.flush(zlib.Z_SYNC_FLUSH)
            for part in _drops(data) if wire == "drip" else (data,):
                await self._connection.write(framing.frame(part))
                if wire == "drip":
                    await asyncio.sleep(script.between_s or 0.001)
            sent(piece)
        await self._connection.write((b"" if packer is None else framing.frame(packer.flush())) + framing.end)
        return wire not in ("length_long", "length_short")

    async def _cut(self, framing: Framing) -> bool:
        """The end of a body that is not whole: clean where the framing allows it."""
        await self._connection.write(framing.end)
        self.closes = self.closes or not framing.end
        return False

    async def _strike(self, wire: str, data: bytes) -> None:
        if wire == "rst":
            # A reset overtakes what the client has not read yet; this lets it read what came before.
            await asyncio.sleep(0.05)
            self.reset()
            return
        size = b"zz" if wire == "bad_chunk" else b"%x" % len(data)
        await self._connection.write(size + b"\r\n" + data[: len(data) // 2])
        self.closes = True


class Framing(NamedTuple):
    """How a body's end is told: by chunks, by a length (right or wrong), or by the connection's end."""

    fields: dict[str, str]
    chunked: bool
    closes: bool = False

    @classmethod
    def of(cls, wire: str | None, length: int | None) -> Framing:
        if wire == "close_delimited":
            return cls({"connection": "close"}, chunked=False, closes=True)
        if wire == "length_long":
            return cls({"content-length": str((length or 1 << 20) + 100)}, chunked=False, closes=True)
        if wire == "length_short":
            return cls({"content-length": str((length or 100) // 2)}, chunked=False, closes=True)
        if length is not None and wire not in ("close_mid_chunk", "bad_chunk", "gzip"):
            return cls({"content-length": str(length)}, chunked=False)
        return cls({"transfer-encoding": "chunked"}, chunked=True)

    def frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked and data else data

    @property
    def end(self) -> bytes:
        return b"0\r\n\r\n" if self.chunked else b""


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _drops(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))
