"""Bytes in and out of ASGI: reading a bounded body, sending an answer, sending an error as OpenAI's clients read it.

Knows HTTP and nothing of tenants, stages or backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from ..protocol.errors import (
    BudgetExceeded,
    LimitExceeded,
    RequestTooLarge,
    TrimtabError,
    UnsupportedMedia,
    to_wire,
)
from .limits import refusal_headers

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


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body. Raises RequestTooLarge by what is read, not by what Content-Length says, UnsupportedMedia for
    a compressed body (no decompression bombs), ClientGone. How long it may take is gateway/http.py's to say."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
        if name == b"content-encoding" and value.lower() not in (b"identity", b""):
            raise UnsupportedMedia("compressed request bodies are not accepted; send the JSON as it is")
    message = await _receive(receive)
    if not message.get("more_body") and len(message.get("body", b"")) <= limit:
        return bytes(message.get("body", b""))
    body = bytearray(message.get("body", b""))
    while message.get("more_body") and len(body) <= limit:
        message = await _receive(receive)
        body += message.get("body", b"")
    if len(body) > limit:
        raise _too_large(limit)
    return bytes(body)


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the request's body is larger than the limit of {limit / 2**20:g} MB")


def on_disconnect(scope: Scope, receive: Receive, leave: Callable[[], object]) -> Callable[[], object]:
    """Have `leave` called when the client goes away; returns what ends the watch. The body must have been read.

    Our own protocol tells at once and for nothing; under another server a task has to wait for it.
    """
    connection = scope.get("trimtab.connection")
    if connection is not None:
        connection.on_lost = leave
        if connection.transport.is_closing():
            leave()  # it left while the pipeline was still walking

        def forget() -> None:
            if connection.on_lost is leave:  # else the next request on this connection is watched already
                connection.on_lost = None

        return forget

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    return asyncio.ensure_future(watch()).cancel


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
    told = error.should_retry or isinstance(error, BudgetExceeded)
    if error.retry_after is not None and told:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after + 0.499))))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(error.retry_after * 1000))))
    elif error.http_status == 503:
        headers += [(b"retry-after", b"1"), (b"retry-after-ms", b"1000")]
    if isinstance(error, LimitExceeded):
        headers += refusal_headers(error)
    if isinstance(error, LimitExceeded) and not error.ever:
        headers.append((b"x-trimtab-limit", b"larger-than-limit"))
    return headers


async def send_error(
    send: Send, error: TrimtabError, request_id: str, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """An error before anything else was sent: status, headers and OpenAI's JSON."""
    await send_bytes(
        send, error.http_status, [JSON, *error_headers(error, request_id), *extra], to_wire(error, request_id)
    )


def error_event(error: TrimtabError, request_id: str) -> bytes:
    """An error after the stream began: one event that OpenAI's clients raise on. No `[DONE]` follows it."""
    return b"data: " + to_wire(error, request_id) + b"\n\n"
