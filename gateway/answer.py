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
from functools import partial
from typing import TypeVar

from ..backends.base import Call, Stream, Timeouts
from ..protocol.errors import CircuitOpen, TrimtabError, UpstreamCut, UpstreamGarbled, UpstreamTimeout
from ..protocol.exchange import Charge, Exchange, Target
from ..protocol.messages import Answer as WholeAnswer
from ..protocol.messages import Usage
from ..routing.plan import Lengths
from ..routing.second_look import FACT as LOOK
from . import cascading, continuation, outline, output
from .breaker import counts_against
from .catalogue import Catalogue, Served
from .controls import NONE, Controls
from .outline import ENGINE, Outlines
from .relay import MAX_EVENT, StreamRelay
from .retry import RetryPolicy, worth_another
from .slots import Place, service

T = TypeVar("T")

_LEAST = 0.01  # seconds in which nobody answers
_LATER = frozenset(("audit", "judge"))  # kinds of requests that nobody waits for
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
    place: Place | None = None

    async def aclose(self) -> None:
        """Stop the answer, and let the next one in."""
        try:
            await self.stream.aclose()
        finally:
            if self.place is not None:
                self.place.release(self.relay.done)


class Answer:
    name = "answer"

    def __init__(
        self,
        catalogue: Catalogue,
        outlines: Outlines | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._catalogue = catalogue
        self._outlines = outlines or Outlines()
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def complete(self, exchange: Exchange) -> WholeAnswer:
        """A whole answer from the first target that gives one. Raises the last error."""
        look = exchange.facts.pop(LOOK, None)
        if look is not None:
            answer = await cascading.complete(exchange, look, partial(self._small, exchange, self._complete))
            if answer is not None:
                return answer
        return await self._first(exchange, self._complete)

    async def open(self, exchange: Exchange) -> OpenStream:
        """A stream that has begun. Raises the last error."""
        look = exchange.facts.pop(LOOK, None)
        if look is not None:
            stream = await cascading.opened(exchange, look, partial(self._small, exchange, self._open))
            if stream is not None:
                return stream
        return await self._first(exchange, self._open)

    async def _small(self, exchange: Exchange, verb: Callable[[Exchange, Served, Call], Awaitable[T]]) -> T:
        self._outlines.spare(exchange, exchange.targets[0])

        async def judged(exchange: Exchange, served: Served, call: Call) -> T:
            return await verb(exchange, served, replace(call, judged=True))

        return await self._attempts(exchange, self._catalogue.served(exchange.targets[0]), judged)

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
        attempt = 0
        while True:
            place = None if served.slots is None else await self._place(exchange, served)
            answered = False
            try:
                attempt += 1
                result = await self._attempt(exchange, served, verb, attempt, 0.0 if place is None else place.waited)
                if isinstance(result, OpenStream):
                    result.place, place = place, None  # until it is closed
                answered = True
                return result
            except _Failed as e:
                wait = retries.wait(e.error, attempt, self._jitter())
                if wait is None or not served.budget.take():
                    raise e.error from e.error.__cause__
            finally:
                if place is not None:
                    place.release(answered)
            await self._sleep(wait)

    async def _attempt(
        self,
        exchange: Exchange,
        served: Served,
        verb: Callable[[Exchange, Served, Call], Awaitable[T]],
        attempt: int,
        waited: float,
    ) -> T:
        """One call. Raises _Failed with what may be tried again, and as it is what says not to."""
        breaker = served.breaker
        outlined = served.continues == ENGINE and await self._outlines.suits(exchange, served)
        call = self._call(exchange, served, waited, outlined)
        if not breaker.allow(self._clock()):
            raise _resting(served.target, breaker.retry_after(self._clock()))
        exchange.receipt.attempts += 1
        if attempt == 1:
            served.budget.call()
        called = self._clock()
        try:
            result = await verb(exchange, served, call)
        except TrimtabError as e:
            self._blame(served, e)
            exchange.receipt.retries.append(f"{served.target.name}: {e.code}: {e.message}"[:200])
            raise _Failed(e) from e
        except BaseException:
            breaker.abandon()
            exchange.receipt.target = served.target.name  # whoever was interrupted is who has to be paid
            raise
        if isinstance(result, OpenStream):
            breaker.began()
        else:
            breaker.success()
        served.waits.seen(self._clock() - called, isinstance(result, OpenStream))
        exchange.receipt.target = served.target.name
        return result

    async def _place(self, exchange: Exchange, served: Served) -> Place:
        """A slot of the model, waited for if need be, for no longer than the caller would wait for an answer. Raises
        Overloaded, CircuitOpen."""
        slots = served.slots
        assert slots is not None
        if served.breaker.state(self._clock()) == "open":
            raise _resting(served.target, served.breaker.retry_after(self._clock()))
        lengths = exchange.facts.get("lengths")
        tokens = lengths.of(served.target.name, exchange).p50 if isinstance(lengths, Lengths) else 0.0
        timeouts = self._timeouts(exchange, served)
        hurried = exchange.original.stream and timeouts.first_token < served.timeouts.first_token
        longest = timeouts.first_token if hurried else timeouts.total
        seconds = service(len(exchange.working.body) // 4, tokens)
        place = await slots.take(seconds, exchange.tenant.name, longest)
        if place.waited:
            ms = round(place.waited * 1000, 3)
            exchange.note("queue", "waited", f"for {served.target.name}, behind {place.before}", ms=ms)
        return place

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

    def _call(self, exchange: Exchange, served: Served, waited: float, outlined: bool) -> Call:
        request = exchange.working
        asked = exchange.facts["asked"] = output.asked(exchange, served, outlined)
        changes: dict[str, object] = dict(asked.changes)
        if asked.parts:
            output.note(exchange, asked.parts)
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
            timeouts=_less(self._timeouts(exchange, served), waited),
            draft=exchange.draft,
            expected=asked.expected,
            priority=1 if exchange.receipt.kind in _LATER else 0,
        )

    def _timeouts(self, exchange: Exchange, served: Served) -> Timeouts:
        controls = exchange.facts.get("controls", NONE)
        return _patience(served.timeouts, controls, self._clock() - exchange.started)

    async def _complete(self, exchange: Exchange, served: Served, call: Call) -> WholeAnswer:
        asked: output.Asked = exchange.facts.get("asked", output.NOTHING)
        try:
            async with asyncio.timeout(call.timeouts.total):
                if asked.outlined:
                    return await outline.complete(call, served.backend, *_told(exchange, served))
                answer = await served.backend.complete(call)
                if asked.cap.ours and served.continues is not None:
                    again = partial(self._again, exchange, served, served.backend.complete)
                    paid = partial(_charge, exchange, served.target)
                    answer = await continuation.complete(
                        call, answer, asked.cap, served.continues, asked.room, again, paid
                    )
                return answer
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
                asked: output.Asked = exchange.facts.get("asked", output.NOTHING)
                if asked.outlined:
                    stream = outline.OutlinedStream(call, served.backend, *_told(exchange, served))
                else:
                    stream = await served.backend.stream(call)
                if asked.cap.ours and served.continues is not None:
                    again = partial(self._again, exchange, served, served.backend.stream)
                    stream = continuation.JoinedStream(call, stream, asked.cap, served.continues, asked.room, again)
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

    async def _again(self, exchange: Exchange, served: Served, verb: Callable[[Call], Awaitable[T]], call: Call) -> T:
        """Go on with an answer that our cap cut. It is tried as often as a first call: the client cannot do it."""
        attempt = 0
        while True:
            attempt += 1
            exchange.receipt.attempts += 1
            try:
                result = await verb(call)
            except TrimtabError as e:
                exchange.receipt.retries.append(f"{served.target.name}: {e.code}: {e.message}"[:200])
                wait = served.retries.wait(e, attempt, self._jitter())
                if wait is None or not served.budget.take():
                    raise
            else:
                output.continued(exchange)
                return result
            await self._sleep(wait)

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


class _Failed(Exception):
    """An attempt that came to nothing."""

    def __init__(self, error: TrimtabError) -> None:
        super().__init__(error.message)
        self.error = error


def _charge(exchange: Exchange, target: Target, used: Usage) -> None:
    """Parts of an answer that then failed: they have to be paid all the same."""
    exchange.receipt.charges.append(Charge("answer", target.name, used, target.price.of(used)))


def _told(exchange: Exchange, served: Served) -> tuple[Callable[[Usage], None], Callable[[int], None]]:
    """What an outline that came to nothing used, and what became of it."""
    return partial(_charge, exchange, served.target), partial(output.outlined, exchange)


def _less(timeouts: Timeouts, waited: float) -> Timeouts:
    """What is left of the patience after waiting for a slot."""
    return replace(timeouts, total=max(_LEAST, timeouts.total - waited)) if waited else timeouts


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
