"""The `answer` stage: call the targets in their order until one answers.

Another attempt is made only before the first byte has gone to the client: on the same target when its retry policy and
budget allow, then on the next. A stream counts as begun when its first event is here, so an error that an upstream
sends in-band, in place of an answer, still becomes a proper status or a fallback.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ..backends.base import Call, Stream, Timeouts
from ..protocol.errors import CircuitOpen, TrimtabError, UpstreamCut, UpstreamGarbled, UpstreamTimeout
from ..protocol.exchange import Exchange, Target
from ..protocol.messages import Answer as WholeAnswer
from ..protocol.messages import Usage
from .breaker import counts_against
from .catalogue import Catalogue, Served
from .controls import NONE, Controls
from .relay import MAX_EVENT, StreamRelay
from .retry import RetryPolicy, worth_another

T = TypeVar("T")

_LEAST = 0.01  # seconds in which nobody answers
FORWARDED = frozenset((b"traceparent", b"tracestate", b"openai-beta", b"anthropic-beta"))


@dataclass(slots=True)
class OpenStream:
    """A stream whose first bytes are in hand."""

    stream: Stream
    chunks: AsyncIterator[bytes]
    relay: StreamRelay
    first: bytes
    served: Served
    timeouts: Timeouts
    ends: float  # on the loop's clock: when its total timeout is up


class Answer:
    name = "answer"

    def __init__(
        self,
        catalogue: Catalogue,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def complete(self, exchange: Exchange) -> WholeAnswer:
        """A whole answer from the first target that gives one. Raises the last error."""
        return await self._first(exchange, self._complete)

    async def open(self, exchange: Exchange) -> OpenStream:
        """A stream that has begun. Raises the last error."""
        return await self._first(exchange, self._open)

    async def _first(self, exchange: Exchange, verb: Callable[[Exchange, Served, Call], Awaitable[T]]) -> T:
        last: TrimtabError | None = None
        for target in exchange.targets:
            served = self._catalogue.served(target)
            try:
                return await self._attempts(exchange, served, verb)
            except TrimtabError as e:
                # A fallback that is resting says less about what went wrong than whoever was called.
                last = e if last is None or not isinstance(e, CircuitOpen) else last
                if not worth_another(e):
                    raise
        raise last or CircuitOpen("no target is configured for this model")

    async def _attempts(
        self, exchange: Exchange, served: Served, verb: Callable[[Exchange, Served, Call], Awaitable[T]]
    ) -> T:
        retries = _retries(served.retries, exchange.facts.get("controls", NONE))
        breaker = served.breaker
        attempt = 0
        while True:
            call = self._call(exchange, served)
            if not breaker.allow(self._clock()):
                raise _resting(served.target, breaker.retry_after(self._clock()))
            attempt += 1
            exchange.receipt.attempts += 1
            if attempt == 1:
                served.budget.call()
            try:
                result = await verb(exchange, served, call)
            except TrimtabError as e:
                self._blame(served, e)
                wait = retries.wait(e, attempt, self._jitter())
                exchange.receipt.retries.append(f"{served.target.name}: {e.code}: {e.message}"[:200])
                if wait is None or not served.budget.take():
                    raise
            except BaseException:
                breaker.abandon()
                exchange.receipt.target = served.target.name  # whoever was interrupted is who has to be paid
                raise
            else:
                if isinstance(result, OpenStream):
                    breaker.began()
                else:
                    breaker.success()
                exchange.receipt.target = served.target.name
                return result
            await self._sleep(wait)

    def ended(self, served: Served, error: TrimtabError | None) -> None:
        """A stream that had begun is over; the breaker learns how. Not told of those whose client left."""
        if error is None:
            served.breaker.success()
        elif counts_against(error):
            served.breaker.failure(self._clock())

    def _blame(self, served: Served, error: TrimtabError) -> None:
        if counts_against(error):
            served.breaker.failure(self._clock())
        else:
            served.breaker.abandon()

    def _call(self, exchange: Exchange, served: Served) -> Call:
        request = exchange.working
        controls = exchange.facts.get("controls", NONE)
        changes: dict[str, object] = {}
        if served.target.upstream_model != request.model:
            changes["model"] = served.target.upstream_model
        if request.stream and request.kind != "embeddings" and not request.include_usage:
            options = request.get("stream_options")
            changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return Call(
            kind=request.kind,
            request=request.with_fields(**changes) if changes else request,
            request_id=exchange.id,
            tenant=exchange.tenant.name,
            headers={n.decode(): v.decode("latin-1") for n, v in exchange.headers if n in FORWARDED},
            timeouts=_patience(served.timeouts, controls, self._clock() - exchange.started),
            draft=exchange.draft,
        )

    async def _complete(self, exchange: Exchange, served: Served, call: Call) -> WholeAnswer:
        try:
            async with asyncio.timeout(call.timeouts.total):
                return await served.backend.complete(call)
        except TimeoutError:
            raise UpstreamTimeout("total", call.timeouts.total) from None

    async def _open(self, exchange: Exchange, served: Served, call: Call) -> OpenStream:
        relay = _relay(exchange)
        # A first attempt that came to nothing must leave nothing in the record, so its events wait for the answer.
        seen: list[bytes] = []
        if exchange.recorder is not None:
            relay.record = seen.append
        ends = asyncio.get_running_loop().time() + call.timeouts.total
        stream: Stream | None = None
        try:
            async with asyncio.timeout(call.timeouts.first_token):
                stream = await served.backend.stream(call)
                chunks = aiter(stream)
                first = b""
                while not relay.started and relay.error is None:
                    first += await self._next(chunks, relay)
                    if len(first) > MAX_EVENT:
                        raise UpstreamGarbled(f"the upstream sent {MAX_EVENT >> 20} MB of comments and no event")
        except TimeoutError:
            await _drop(stream)
            raise UpstreamTimeout("first_token", call.timeouts.first_token) from None
        except TrimtabError:
            await _drop(stream)
            raise
        except BaseException:
            # The client left before its first byte: what was used by then is known to the backend, if to anybody.
            await _drop(stream)
            exchange.spent = None if stream is None else stream.spent()
            raise
        if relay.error is not None:
            await _drop(stream)
            raise relay.error
        if exchange.recorder is not None:
            for block in seen:
                exchange.recorder.event(block)
            relay.record = exchange.recorder.event
        return OpenStream(stream, chunks, relay, first, served, call.timeouts, ends)

    def reopen(self, exchange: Exchange, events: AsyncIterator[bytes]) -> OpenStream:
        """A stream that nobody is called for: one that was kept, or that another request is getting."""
        served = self._catalogue.served(exchange.targets[0])
        timeouts = self._within(exchange, served)
        ends = asyncio.get_running_loop().time() + timeouts.total
        return OpenStream(_Kept(events), events, _relay(exchange), b"", served, timeouts, ends)

    async def shared(self, exchange: Exchange, found: Awaitable[T]) -> T:
        """What another request gets, for no longer than this one's caller wants to wait. Raises UpstreamTimeout."""
        controls = exchange.facts.get("controls", NONE)
        if controls.timeout is None and controls.first_token is None:
            return await found  # whoever asks is bounded by the configuration
        timeouts = self._within(exchange, self._catalogue.served(exchange.targets[0]))
        first = exchange.original.stream and timeouts.first_token < timeouts.total
        seconds = timeouts.first_token if first else timeouts.total
        try:
            async with asyncio.timeout(seconds):
                return await found
        except TimeoutError:
            raise UpstreamTimeout("first_token" if first else "total", round(seconds, 3)) from None

    def _within(self, exchange: Exchange, served: Served) -> Timeouts:
        """The caller's own timeouts for what is called for nobody; a kept answer is there at once, however short."""
        controls = exchange.facts.get("controls", NONE)
        return _bounded(served.timeouts, controls, self._clock() - exchange.started)

    async def _next(self, chunks: AsyncIterator[bytes], relay: StreamRelay) -> bytes:
        try:
            return relay.feed(await anext(chunks))
        except StopAsyncIteration:
            rest = relay.finish()
            if not relay.started and relay.error is None:
                raise UpstreamCut("the upstream ended its stream before it began") from None
            return rest


class _Kept:
    """A recalled stream, as a backend's."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self.headers: Mapping[str, str] = {}
        self._events = events

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def aclose(self) -> None:
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()

    def spent(self) -> Usage | None:
        return Usage()


def _relay(exchange: Exchange) -> StreamRelay:
    original = exchange.original
    return StreamRelay(strip_usage=not original.include_usage, choices=original.choices)


def _patience(timeouts: Timeouts, controls: Controls, gone: float) -> Timeouts:
    """The configured timeouts, as far as the caller did not ask for shorter ones; its own bounds all attempts together,
    of which `gone` seconds are over. Raises UpstreamTimeout when none are left."""
    if controls.timeout is None and controls.first_token is None:
        return timeouts
    if controls.timeout is not None and controls.timeout - gone < _LEAST:
        raise UpstreamTimeout("total", controls.timeout)
    return _bounded(timeouts, controls, gone)


def _bounded(timeouts: Timeouts, controls: Controls, gone: float) -> Timeouts:
    if controls.timeout is None and controls.first_token is None:
        return timeouts
    left = timeouts.total if controls.timeout is None else max(_LEAST, controls.timeout - gone)
    total = min(timeouts.total, left)
    first_token = min(timeouts.first_token, controls.first_token or timeouts.first_token, total)
    return replace(timeouts, total=total, first_token=first_token)


def _retries(policy: RetryPolicy, controls: Controls) -> RetryPolicy:
    if controls.retries is None or controls.retries + 1 >= policy.attempts:
        return policy
    return replace(policy, attempts=controls.retries + 1)


async def _drop(stream: Stream | None) -> None:
    if stream is not None:
        await stream.aclose()


def _resting(target: Target, seconds: float) -> CircuitOpen:
    return CircuitOpen(
        f"'{target.name}' failed repeatedly and is left alone for {max(1, round(seconds))} s",
        retry_after=max(1.0, seconds),
    )
