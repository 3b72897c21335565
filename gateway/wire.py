"""Bytes in and out of ASGI: reading a bounded body, sending an answer, sending an error the way OpenAI's clients read it.

Knows HTTP and nothing of tenants, stages or backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from ..protocol.errors import (
    LimitExceeded,
    RequestTooLarge,
    RequestTooSlow,
    TrimtabError,
    UnsupportedMedia,
    to_wire,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes:
    """The request's body. Raises RequestTooLarge by what is read, not by what Content-Length says, RequestTooSlow when
    it takes longer than `seconds`, UnsupportedMedia for a compressed body (no decompression bombs), ClientGone."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
        if name == b"content-encoding" and value.lower() not in (b"identity", b""):
            raise UnsupportedMedia("compressed request bodies are not accepted; send the JSON as it is")
    message = await _receive(receive, seconds)
    body = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise _too_large(limit)
        return bytes(body)
    return await _read_rest(bytearray(body), receive, limit, seconds)


async def _read_rest(body: bytearray, receive: Receive, limit: int, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            while True:
                if len(body) > limit:
                    raise _too_large(limit)
                message = await _receive(receive, None)
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RequestTooSlow(f"the request's body did not arrive within {seconds:g} s") from None
    if len(body) > limit:
        raise _too_large(limit)
    return bytes(body)


async def _receive(receive: Receive, seconds: float | None) -> Message:
    if seconds is None:
        message = await receive()
    else:
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError:
            raise RequestTooSlow(f"the request's body did not arrive within {seconds:g} s") from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the request's body is larger than the limit of {limit / 2**20:g} MB")


async def send_bytes(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


def error_headers(error: TrimtabError, request_id: str) -> Headers:
    """What OpenAI's clients obey on an error (`x-should-retry`, `retry-after-ms`, `retry-after`), and who failed."""
    headers: Headers = [
        (b"x-request-id", request_id.encode()),
        (b"x-trimtab-error-source", error.source.encode()),
        (b"x-should-retry", b"true" if error.should_retry else b"false"),
    ]
    if error.retry_after is not None and error.should_retry:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after + 0.499))))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(error.retry_after * 1000))))
    elif error.http_status == 503:
        headers.append((b"retry-after", b"1"))
    if isinstance(error, LimitExceeded) and not error.ever:
        headers.append((b"x-trimtab-limit", b"larger-than-limit"))
    return headers


async def send_error(
    send: Send, error: TrimtabError, request_id: str, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """An error before anything else was sent: status, headers and OpenAI's JSON."""
    headers = [JSON, *error_headers(error, request_id), *extra]
    if error.http_status in (408, 413):
        headers.append((b"connection", b"close"))  # bytes of the body may still be coming
    await send_bytes(send, error.http_status, headers, to_wire(error, request_id))


def error_event(error: TrimtabError, request_id: str) -> bytes:
    """An error after the stream began: one event that OpenAI's clients raise on. No `[DONE]` follows it."""
    return b"data: " + to_wire(error, request_id) + b"\n\n"
