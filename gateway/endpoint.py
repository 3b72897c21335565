"""The hot endpoints: bytes in, the pipeline, bytes out, and whatever happens on the way settled exactly once.

A plain ASGI callable, not a FastAPI function: no per-request models, no middleware that wraps the stream. When
the client leaves, the work is cancelled and the upstream closed at once, streaming or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from ..protocol.errors import Draining, GatewayError, TrimtabError, UpstreamAnswered, UpstreamTimeout, to_wire
from ..protocol.exchange import Exchange
from ..protocol.messages import Answer, Kind, Request, Usage
from ..protocol.tokens import count
from .admit import prompt_size
from .answer import OpenStream
from .controls import NONE
from .entrance import Entrance, unforeseen
from .mapping import Mapping, Translator
from .outlet import Outlet
from .relay import StreamRelay, generated
from .settle import charged
from .wire import (
    EVENTS,
    JSON,
    Headers,
    Receive,
    Scope,
    Send,
    error_event,
    error_headers,
    on_disconnect,
    send_bytes,
)

if TYPE_CHECKING:
    from .live import Gateway, Live

log = logging.getLogger("trimtab.endpoint")

T = TypeVar("T")

_LINGER = 0.25  # seconds for an upstream to end its answer after it said [DONE]; most do at once


class Endpoint(Entrance):
    """One path. `mapping` translates another protocol to chat and back; None is OpenAI's own."""

    def __init__(self, gateway: Gateway, kind: Kind, mapping: Mapping | None = None) -> None:
        super().__init__(gateway)
        self._kind: Kind = kind
        self._mapping = mapping

    async def serve(
        self, live: Live, scope: Scope, receive: Receive, send: Send, request_id: str, started: float
    ) -> None:
        caller, body = await self.read(live, scope, receive)
        request = self._mapping.to_chat(body) if self._mapping is not None else Request.parse(self._kind, body)
        exchange = self._gateway.exchange(request_id, request, caller, scope["headers"], started)
        try:
            await live.pipeline.walk(exchange)
        except BaseException:
            _forget(exchange)
            raise
        await _Run(self, live, exchange, send).run(scope, receive)

    async def send_error(self, send: Send, error: TrimtabError, request_id: str, extra: Headers | None = None) -> None:
        body = self._mapping.error(error, request_id) if self._mapping is not None else to_wire(error, request_id)
        headers = [JSON, *error_headers(error, request_id), *(extra or ())]
        await send_bytes(send, error.http_status, headers, body)


class _Run:
    """One admitted exchange: answer it, send it, settle it."""

    def __init__(self, endpoint: Endpoint, live: Live, exchange: Exchange, send: Send) -> None:
        self._endpoint = endpoint
        self._gateway = endpoint._gateway
        self._live = live
        self._mapping = endpoint._mapping
        self._exchange = exchange
        self._limit_headers = live.limit_headers(exchange)
        self._send = send
        self._begun = False  # the status line is out: an error is an event now
        self._ending = False  # the last bytes are on their way: the client may leave as it likes
        self._gone = False
        self._outcome = "error"
        self._status = 500
        self._translator: Translator | None = None
        self._connection: Any = None  # gateway/http.py's, where it is that which serves us

    async def run(self, scope: Scope, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._gateway.working(task)

        def leave() -> None:
            if self._ending:
                return
            self._gone = True
            recorder = self._exchange.recorder
            if recorder is not None and recorder.shared:
                recorder.unshared(task.cancel)  # others wait for this very answer
            else:
                task.cancel()

        self._connection = scope.get("trimtab.connection")
        forget = on_disconnect(scope, receive, leave)
        try:
            if self._exchange.original.stream and self._exchange.original.kind != "embeddings":
                await self._stream()
            else:
                await self._whole()
            self._outcome, self._status = ("disconnected", 499) if self._gone else ("ok", 200)
        except asyncio.CancelledError:
            task.uncancel()
            await self._interrupted()
        except TrimtabError as e:
            await self._failed(e)
        except Exception as e:
            await self._failed(unforeseen(e, self._exchange.id))
        finally:
            forget()
            _forget(self._exchange)
            self._gateway.finished(task)
            self._gateway.settle(self._exchange, self._live, self._outcome, self._status)

    async def _whole(self) -> None:
        exchange = self._exchange
        answer = await self._recalled(exchange.recalled.whole()) if exchange.recalled is not None else None
        if answer is None:
            called = time.monotonic()
            answer = await self._live.answer.complete(exchange)
            self._measure(called)
            exchange.spent = answer.usage or self._count(answer)
            exchange.facts["ended"] = answer.finish_reasons
            if exchange.recorder is not None:
                exchange.recorder.done(exchange.receipt.target, answer.usage, answer.body)
        body = answer.body if self._mapping is None else self._mapping.from_chat(answer.body, exchange.original)
        headers = [JSON, *self._headers(), *self._cost_headers()]
        for name, value in answer.headers.items():
            headers.append(_upstream_header(name, value))
        self._ending = True
        await send_bytes(self._send, 200, headers, body)

    async def _recalled(self, found: Awaitable[T | None]) -> T | None:
        """What was kept, or what another request gets; it costs nothing. None: it never came, and the walk went on."""
        exchange = self._exchange
        answer = await self._live.answer.shared(exchange, found)
        if answer is not None and exchange.recalled is not None:
            exchange.receipt.target = exchange.recalled.target
            exchange.spent = Usage()
            return answer
        _unserved(exchange, "what was kept or shared was not to be had in this form, or at all")
        await self._live.pipeline.resume(exchange)
        return None

    async def _stream(self) -> None:
        exchange = self._exchange
        events = await self._recalled(exchange.recalled.stream()) if exchange.recalled is not None else None
        if events is not None:
            await self._again(self._live.answer.reopen(exchange, events))
            return
        called = time.monotonic()
        opened = await self._live.answer.open(self._exchange)
        self._measure(called)
        try:
            if self._mapping is not None:
                self._translator = self._mapping.stream(self._exchange.original)
            await self._relay(opened)
        except TrimtabError as e:
            self._spend(opened)
            self._live.answer.ended(opened.served, e)
            raise
        except BaseException:
            # Whatever it was (a client gone, a drain), stop the upstream first and count afterwards; also when a drain
            # cuts what a leaving client had cancelled already.
            try:
                await asyncio.shield(opened.aclose())
            finally:
                self._spend(opened)
            raise
        finally:
            await opened.aclose()
        self._spend(opened)
        exchange.facts["ended"] = opened.relay.reasons
        self._live.answer.ended(opened.served, None)

    async def _again(self, opened: OpenStream) -> None:
        if self._mapping is not None:
            self._translator = self._mapping.stream(self._exchange.original)
        try:
            await self._relay(opened)
        finally:
            await opened.stream.aclose()

    async def _relay(self, opened: OpenStream) -> None:
        """Send the stream on to its end. One timer bounds every wait: for the upstream, for the client, for the end."""
        relay, timeouts = opened.relay, opened.timeouts
        now = asyncio.get_running_loop().time
        last = opened.ends
        await self._begin(opened)
        sending = False
        outlet = Outlet(self._send, self._exchange.recorder, self._connection)
        try:
            async with asyncio.timeout(timeouts.idle) as timer:
                if not relay.done:
                    async for chunk in opened.chunks:
                        timer.reschedule(min(now() + timeouts.idle, last))
                        out = self._translated(relay.feed(chunk))
                        if out:
                            sending = True
                            await outlet.put(out)
                            sending = False
                        if relay.error is not None:
                            raise relay.error
                        if relay.done:
                            break
                rest = self._rest(relay)
                if self._exchange.recorder is not None:
                    self._exchange.recorder.done(self._exchange.receipt.target, relay.usage)
                sending = True
                await outlet.flush(lambda: timer.reschedule(now() + timeouts.idle))
                self._ending = True
                await self._send({"type": "http.response.body", "body": rest})
                sending = False
                timer.reschedule(now() + _LINGER)
                await _used_up(opened.chunks)
        except TimeoutError:
            if sending:
                raise _TooSlow from None
            if self._ending:
                return
            await outlet.part(timeouts.idle)
            if now() >= last:
                raise UpstreamTimeout("total", timeouts.total) from None
            raise UpstreamTimeout("idle", timeouts.idle) from None
        except TrimtabError:
            await outlet.part(timeouts.idle)  # what it was before the error comes before the error
            raise
        finally:
            outlet.close()

    async def _begin(self, opened: OpenStream) -> None:
        """The status, the headers and the first events."""
        headers = [*EVENTS, *self._headers()]
        for name, value in opened.stream.headers.items():
            headers.append(_upstream_header(name, value))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._begun = True
        self._exchange.receipt.first_byte_ms = round((time.monotonic() - self._exchange.started) * 1000, 3)
        first = self._translated(opened.first)
        if first:
            await self._send({"type": "http.response.body", "body": first, "more_body": True})

    def _translated(self, data: bytes) -> bytes:
        return self._translator.feed(data) if self._translator is not None and data else data

    def _rest(self, relay: StreamRelay) -> bytes:
        """What is still owed when the upstream has ended. Raises what went wrong, if anything did."""
        rest = relay.finish()
        if relay.error is not None:
            raise relay.error
        return rest if self._translator is None else self._translator.feed(rest) + self._translator.finish()

    async def _failed(self, error: TrimtabError) -> None:
        exchange = self._exchange
        self._ending = True
        exchange.receipt.error = f"{error.code}: {error.message}"[:300]
        log.info("request %s for %s failed: %s", exchange.id, exchange.receipt.model[:100], exchange.receipt.error)
        self._status = error.http_status
        if exchange.recorder is not None:
            exchange.recorder.close(error if _anybodys(error, exchange) else None)  # before a slow client holds it up
        if exchange.recalled is not None and not self._begun:
            _unserved(exchange)
        if isinstance(error, _TooSlow):
            self._outcome = "disconnected"
            if self._connection is not None:
                self._connection.transport.abort()  # to close it would be to wait until everything is read
            return
        if not self._begun:
            extra = self._headers()
            if isinstance(error, UpstreamAnswered):
                extra += [_upstream_header(name, value) for name, value in error.headers.items()]
            await self._endpoint.send_error(self._send, error, exchange.id, _without(extra, b"x-request-id"))
            return
        self._outcome = "cut"
        event = self._translator.fail(error) if self._translator is not None else error_event(error, exchange.id)
        await self._send({"type": "http.response.body", "body": event})

    async def _interrupted(self) -> None:
        """Cancelled: the client left, or the drain's time is up."""
        if self._gone:
            self._outcome, self._status = "disconnected", 499
            if self._exchange.spent is None and self._exchange.receipt.attempts:
                self._exchange.spent = Usage(prompt=prompt_size(self._exchange.working.encode()), estimated=True)
            return
        await self._failed(self._gateway.draining_error())

    def _spend(self, opened: OpenStream) -> None:
        """What the stream used, as the upstream reported it, as the backend knows it, or counted from what passed."""
        own = opened.stream.spent() if opened.relay.usage is None else None
        if own is not None:
            self._exchange.spent = own
            return
        prompt = prompt_size(self._exchange.working.encode())
        self._exchange.spent = opened.relay.spent(opened.served.target.upstream_model, prompt)

    def _count(self, answer: Answer) -> Usage:
        """A whole answer without usage: counted here, and flagged."""
        text = generated(answer.body)
        completion = count(text, self._live.upstream_model(self._exchange))[0] if text else 0
        return Usage(prompt=prompt_size(self._exchange.working.encode()), completion=completion, estimated=True)

    def _measure(self, called: float) -> None:
        exchange = self._exchange
        exchange.note("answer", exchange.receipt.target, ms=round((time.monotonic() - called) * 1000, 3))
        self._gateway.metrics.overhead(called - exchange.started)

    def _headers(self) -> Headers:
        exchange = self._exchange
        return [
            (b"x-request-id", exchange.id.encode()),
            (b"x-trimtab-model", (exchange.receipt.target or "none").encode()),
            (b"x-trimtab-cache", str(exchange.facts.get("cache", "off")).encode()),
            (b"x-trimtab-attempts", b"%d" % exchange.receipt.attempts),
            *_about_cache(exchange),
            *_about_route(exchange),
            *self._limit_headers,
        ]

    def _cost_headers(self) -> Headers:
        usage = self._exchange.spent
        price = self._live.price(self._exchange)
        if usage is None or not price.known:
            return []
        return [(b"x-trimtab-cost-usd", b"%.6f" % ((price.of(usage) + charged(self._exchange)) / 1e6))]


class _TooSlow(GatewayError):
    """The client does not read; nobody is told, the connection is dropped."""

    code = "client_too_slow"

    def __init__(self) -> None:
        super().__init__("the client did not read its stream")


def _about_cache(exchange: Exchange) -> Headers:
    """How old a recalled answer is (RFC 9111, section 5.1), the name to complain about it by, and how sure it was."""
    headers: Headers = []
    facts = exchange.facts
    if exchange.recalled is not None:
        headers.append((b"age", b"%d" % facts.get("cache_age", 0)))
        if "cache_id" in facts:
            headers.append((b"x-trimtab-cache-id", facts["cache_id"].encode()))
    if "cache_reason" in facts:
        headers.append((b"x-trimtab-cache-reason", facts["cache_reason"].encode("ascii", "replace")))
    return headers


def _about_route(exchange: Exchange) -> Headers:
    """Who was chosen to answer, and why; who did is `x-trimtab-model`."""
    routed = exchange.receipt.routed
    if routed is None or exchange.recalled is not None:
        return []
    reason = next((line.reason for line in exchange.receipt.lines if line.stage == "route"), None) or ""
    return [
        (b"x-trimtab-route", routed.chose.encode("ascii", "replace")),
        (b"x-trimtab-route-reason", "".join(c if " " <= c <= "~" else "?" for c in reason).encode()),
    ]


def _forget(exchange: Exchange) -> None:
    """Nobody shall wait for an answer that does not come."""
    if exchange.recorder is not None:
        exchange.recorder.close()
        exchange.recorder = None  # it knows the exchange: a circle, with the whole answer in it


def _anybodys(error: TrimtabError, exchange: Exchange) -> bool:
    """Whether whoever asks the same comes to the same: not where it is this client's pace, its patience, or our end."""
    controls = exchange.facts.get("controls", NONE)
    hurried = controls.timeout is not None or controls.first_token is not None
    return not isinstance(error, _TooSlow | Draining) and not (hurried and isinstance(error, UpstreamTimeout))


def _unserved(exchange: Exchange, reason: str | None = None) -> None:
    """What was to be recalled never came: nothing says that what goes out is an answer from memory. `reason`: why the
    model is asked after all, where the receipt does not say so yet."""
    exchange.recalled = None
    exchange.facts["cache"] = "miss"
    for name in ("cache_age", "cache_id", "cache_reason"):
        exchange.facts.pop(name, None)
    for line in exchange.receipt.lines:
        if line.stage == "recall":
            if reason is not None and line.did != "miss":
                line.reason = reason
            line.did, line.entry = "miss", None


async def _used_up(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end behind `[DONE]`, which the client has, so that the upstream's connection can be used again."""
    with contextlib.suppress(TrimtabError):
        async for _ in chunks:
            pass


def _upstream_header(name: str, value: str) -> tuple[bytes, bytes]:
    """An upstream's header for the client; its request id is not ours and gets a name of its own."""
    if name == "x-request-id":
        name = "x-trimtab-upstream-request-id"
    return name.encode("latin-1"), value.encode("latin-1", "replace")


def _without(headers: Headers, name: bytes) -> Headers:
    return [pair for pair in headers if pair[0] != name]
