"""uvicorn's HTTP/1.1 protocol, made strict where it is lenient.

Measured on uvicorn 0.54 with httptools: no deadline for the head of a request (a header a second kept a connection open
for ever), two Host headers, no Host and a 200 KB header were all served. Behind a proxy each of these is a way to make
two readers see two requests (RFC 9112 sections 3.2 and 6.1). Here they are a 400 (or 408, 431) and a closed connection.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10  # bytes of request line and headers together
MAX_HEADERS = 128
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head
IDLE_SECONDS = 75.0  # a new connection that says nothing

_HOST = re.compile(rb"^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$")
_BARE_LF = re.compile(rb"[^\r]\n")
_END = b"\r\n\r\n"


class StrictProtocol(HttpToolsProtocol):
    """Rejects what two HTTP readers could understand differently, and heads that do not arrive."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_tail = b""  # the last bytes seen, since a packet may end anywhere in a line's end
        self._in_head = False
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(IDLE_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_head and self._between_requests():
            self._in_head = True
            self._head_bytes = 0
            self._head_tail = b""
            self._disarm()
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        if self._in_head and not self._plausible(data):
            return
        super().data_received(data)

    def _plausible(self, data: bytes) -> bool:
        """Look at the part of `data` that is head; a body in the same packet does not count."""
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
        self._in_head = False
        self._disarm()
        problem = head_problem(self.headers, self.parser.get_http_version())
        if problem is not None:
            # Raising stops the parser before it can see a second request in what follows.
            self._refuse(400, problem)
            raise ValueError("refused")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            self._refuse(400, b"the request is not valid HTTP/1.1")

    def _between_requests(self) -> bool:
        cycle = cast(Any, self).cycle
        return cycle is None or cycle.response_complete

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refuse(408, b"the request's head did not arrive in time")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, message: bytes) -> None:
        if self.transport.is_closing():
            return
        code = {400: b"invalid_request", 408: b"request_timeout", 431: b"request_too_large"}[status]
        reason = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[status]
        body = (
            b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":"%s","source":"client"}}'
            % (
                message,
                code,
            )
        )
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (status, reason, len(body), body)
        )
        self.transport.close()


def head_problem(headers: list[tuple[bytes, bytes]], version: str) -> bytes | None:
    """What is wrong with a request's headers, or None. Header names are lower case."""
    if len(headers) > MAX_HEADERS:
        return b"the request has too many headers"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return b"the request needs exactly one Host header"
    if hosts and not _HOST.match(hosts[0]):
        return b"the Host header is not valid"
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    if lengths and encodings:
        return b"the request has both Content-Length and Transfer-Encoding"
    if len(set(lengths)) > 1 or any(not value.isdigit() for value in lengths):
        return b"the Content-Length header is not valid"
    if encodings and [e.lower() for e in encodings] != [b"chunked"]:
        return b"the Transfer-Encoding is not understood"
    return None
