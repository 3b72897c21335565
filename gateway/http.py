"""uvicorn's HTTP/1.1 protocol, made strict where it is lenient.

Measured on uvicorn 0.54 with httptools: no deadline for a request's head or body (a byte a second kept a connection
open for ever), two Host headers, no Host and a 200 KB header were all served. Behind a proxy such heads let
two readers see two requests (RFC 9112 sections 3.2 and 6.1). Here each is a 400, 408 or 431 and a closed connection.

It also tells the endpoint at once when the client leaves, so that no task has to wait for that on each request.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10  # bytes of request line and headers together
MAX_HEADERS = 128

_HOST = re.compile(rb"^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$")
_BARE_LF = re.compile(rb"[^\r]\n")
_UPGRADE = re.compile(rb"\r\n[Uu][Pp][Gg][Rr][Aa][Dd][Ee](?=[ \t]*:)")
_END = b"\r\n\r\n"
_CHECK_SECONDS = 0.5  # how often a connection that is receiving looks at its clock
_STATUS = {
    400: (b"Bad Request", b"invalid_request"),
    408: (b"Request Timeout", b"request_timeout"),
    431: (b"Request Header Fields Too Large", b"request_too_large"),
    503: (b"Service Unavailable", b"server_shutdown"),
}
_CLIENT = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":"%s","source":"client"}}'
_OURS = b'{"error":{"message":"%s","type":"server_error","param":null,"code":"%s","source":"gateway"}}'


class StrictProtocol(HttpToolsProtocol):
    """Rejects what two HTTP readers could understand differently, and requests that do not arrive.

    `head_seconds` runs from a connection's opening, or a request's first byte, to the end of its head; `body_seconds`
    from there to the end of its body; a client that takes none of what we sent for `stall_seconds` is dropped. One
    timer a connection, not one a request.
    """

    head_seconds = 10.0
    body_seconds = 60.0
    stall_seconds = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_tail = b""  # the last bytes seen, since a packet may end anywhere in a line's end
        self._idle = True  # between two requests: whatever comes is the next one's head
        self._in_head = False
        self._due: float | None = time.monotonic() + self.head_seconds
        self._unsent = 0  # bytes at the last look, and when there last were fewer than the time before
        self._moved = time.monotonic()
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        self.on_lost: Callable[[], object] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)
        # uvicorn 0.54 leaves this timer running after a reset, and it holds the connection and its last request.
        self._unset_keepalive_if_required()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._idle or self._in_head:
            if not self._plausible(data):
                return
            data = _without_upgrade(data)
        if self._due is None:
            # Between two requests. What comes is a head, even if the parser skips it (empty lines) and begins nothing.
            self._due = time.monotonic() + self.head_seconds
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._idle, self._in_head = False, True
        self._due = time.monotonic() + self.head_seconds
        super().on_message_begin()

    def _plausible(self, data: bytes) -> bool:
        """Look at the part of `data` that is head; a body in the same packet does not count."""
        if self._idle:
            self._head_bytes, self._head_tail = 0, b""
        seen = self._head_tail + data
        end = seen.find(_END)
        head = seen if end < 0 else seen[:end]
        self._head_bytes += len(data) if end < 0 else end
        self._head_tail = seen[-3:]
        if self._head_bytes > MAX_HEAD:
            self._refuse(431, b"the request's headers are too large")
            return False
        if _BARE_LF.search(head):
            self._refuse(400, b"a line of the request's head ends without a carriage return")
            return False
        return True

    def on_headers_complete(self) -> None:
        problem = head_problem(self.headers, self.parser.get_http_version())
        if problem is not None:
            # Raising stops the parser before it can see a second request in what follows.
            self._refuse(400, problem)
            raise httptools.HttpParserError("refused")
        self._due = time.monotonic() + self.body_seconds
        cast(dict[str, Any], self.scope)["trimtab.connection"] = self
        super().on_headers_complete()
        self._in_head = False  # not before: a refusal on the way here is a refusal of the head
        if self.expect_100_continue:
            # Told 401 at once, a client may keep its body: its next request must not be taken for that body.
            cast(Any, self).cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._idle, self._due = True, None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, b"the request is not valid HTTP/1.1")

    def drain(self) -> None:
        """Nothing new is taken on: a request whose body is still on its way is refused, and holds nobody up."""
        if not (self._idle or self._in_head or self.pipeline):
            self._refuse(503, b"the gateway is shutting down; try again")

    def _check(self) -> None:
        self._timer = self.loop.call_later(_CHECK_SECONDS, self._check)
        if self._stalled():
            self.transport.abort()
            return
        if self._due is None or time.monotonic() < self._due:
            return
        if self.pipeline or self.flow.read_paused:  # it is we who are not ready to read it
            self._due = time.monotonic() + self.body_seconds
            return
        self._due = None
        if self._idle:
            self.transport.close()
        else:
            self._refuse(408, b"the request did not arrive in time")

    def _stalled(self) -> bool:
        """Whether the client has read nothing for too long. A closing connection lingers for that as well."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if not self._unsent or self._unsent < before:
            self._moved = time.monotonic()
        return time.monotonic() - self._moved > self.stall_seconds

    def _refuse(self, status: int, message: bytes) -> None:
        """Answer by ourselves and close, unless an answer to an earlier request, or to this one, is under way."""
        if self.transport.is_closing():
            return
        cycle = cast(Any, self).cycle
        if self._idle or self._in_head:
            ours = cycle is None or cycle.response_complete
        else:
            ours = not cycle.response_started and not self.pipeline
        if ours:
            reason, code = _STATUS[status]
            body = (_CLIENT if status < 500 else _OURS) % (message, code)
            head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\n" % (status, reason)
            later = b"" if status < 500 else b"retry-after: 1\r\n"
            self.transport.write(head + later + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """The packet with its Upgrade header renamed: we take up none (RFC 9110 section 7.8 lets us), and the parser would
    skip the body of a request that has one, as every first request of Java's HTTP client does."""
    if b"pgrade" not in data and b"PGRADE" not in data:
        return data
    end = data.find(_END)
    head, rest = (data, b"") if end < 0 else (data[:end], data[end:])
    return _UPGRADE.sub(b"\r\nx-upgrade", head) + rest


def head_problem(headers: list[tuple[bytes, bytes]], version: str) -> bytes | None:
    """What is wrong with a request's headers, or None. Header names are in lower case."""
    if len(headers) > MAX_HEADERS:
        return b"the request has too many headers"
    host = length = encoding = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                return b"the request needs exactly one Host header"
            host = value
        elif name == b"content-length":
            if length not in (None, value) or not value.isdigit():
                return b"the Content-Length header is not valid"
            length = value
        elif name == b"transfer-encoding":
            if encoding is not None or value.lower() != b"chunked":
                return b"the Transfer-Encoding is not understood"
            encoding = value
    if host is None:
        return b"the request needs exactly one Host header" if version == "1.1" else None
    if not _HOST.match(host):
        return b"the Host header is not valid"
    if length is not None and encoding is not None:
        return b"the request has both Content-Length and Transfer-Encoding"
    return None
