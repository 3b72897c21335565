"""One open answer on the event loop's side: what the engine's thread says, as OpenAI's bytes or as one whole answer.

Knows wire formats and time limits; nothing of how answers are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...protocol.errors import TrimtabError, UpstreamTimeout
from ...protocol.messages import Answer, Usage
from ..base import Call
from .request import Ask, Choice
from .sequence import Ended, Event, Job, Piece, Scored, Task
from .tools import ToolCall, ToolCalls
from .wire import DONE, Form

if TYPE_CHECKING:
    from .loaded import Loaded


@dataclass(frozen=True, slots=True)
class Called:
    """A choice's `index`-th call of a tool."""

    choice: int
    index: int
    call: ToolCall


class EngineStream:
    """One open answer; the SSE bytes of base.Stream."""

    def __init__(self, call: Call, ask: Ask, tasks: Sequence[Task], loaded: Loaded, created: int) -> None:
        self.headers: Mapping[str, str] = {}
        self.ask, self.prompts = ask, [task.prompt for task in tasks]
        self._loaded, self._timeouts = loaded, call.timeouts
        self._events: asyncio.Queue[Sequence[Event] | TrimtabError | None] = asyncio.Queue()
        self._event_loop = asyncio.get_running_loop()
        self.job = Job(tasks, self._emit, call.tenant, judged=call.judged)
        chat = call.kind == "chat"
        self.form = Form(
            id=("chatcmpl-" if chat else "cmpl-") + call.request_id,
            model=call.request.model,
            created=created,
            fingerprint=loaded.fingerprint,
            chat=chat,
            usage_follows=call.request.stream and call.request.include_usage,
            names=loaded.tokenizer,
        )
        tools = ask.tools or (ask.form is not None and ask.form.functions)
        self._calls = [ToolCalls() for _ in range(len(tasks) * ask.n)] if tools else None
        self._bytes = self._written()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._bytes

    async def aclose(self) -> None:
        """The engine drops the answer before its next step."""
        self.job.cancelled = True

    def spent(self) -> Usage:
        """Exact: the prompts' tokens and those generated so far, tokens that end an answer included."""
        job = self.job
        return Usage(
            prompt=sum(map(len, self.prompts)),
            completion=job.generated,
            cached=job.cached,
            accepted=job.accepted,
            rejected=job.rejected,
        )

    @property
    def mean_logprob(self) -> float | None:
        """Of the tokens generated so far, in nats; None where the call did not say that it judges by it."""
        job = self.job
        return job.logprob / job.generated if job.judged and job.generated else None

    def echoed(self, choice: int) -> str:
        """What a legacy completion repeats before its answer."""
        return self._loaded.tokenizer.decode(self.prompts[choice // self.ask.n]) if self.ask.echo else ""

    async def events(self) -> AsyncIterator[Event | Called]:
        """What the engine says, until all is done. Raises the engine's error, or UpstreamTimeout."""
        limits = self._timeouts
        wait, which = limits.first_token, "first_token"
        deadline = self._event_loop.time() + limits.total
        while True:
            left = deadline - self._event_loop.time()
            try:
                # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with an event.
                async with asyncio.timeout(min(wait, left)):
                    events = await self._events.get()
            except TimeoutError:
                raise (
                    UpstreamTimeout("total", limits.total) if left < wait else UpstreamTimeout(which, wait)
                ) from None
            if events is None:
                return
            if isinstance(events, TrimtabError):
                raise events
            for event in events:
                self.job.taken += 1
                for part in [event] if self._calls is None else self._with_calls(event, self._calls[event.choice]):
                    yield part
            wait, which = limits.idle, "idle"

    def _with_calls(self, event: Event, reader: ToolCalls) -> Iterator[Event | Called]:
        """The same with calls of tools taken out of the text."""
        before = reader.count
        if isinstance(event, Piece):
            parts = reader.feed(event.text)
            if event.tokens and not any(isinstance(part, str) for part in parts):
                yield Piece(event.choice, "", event.tokens)
        else:
            parts = reader.flush() if isinstance(event, Ended) else []
        tokens = event.tokens if isinstance(event, Piece) else ()
        for part in parts:
            if isinstance(part, ToolCall):
                yield Called(event.choice, before, part)
                before += 1
            else:
                yield Piece(event.choice, part, tokens)
                tokens = ()
        if isinstance(event, Ended):
            called = reader.count > 0 and event.reason == "stop"
            yield Ended(event.choice, "tool_calls" if called else event.reason)
        elif not isinstance(event, Piece):
            yield event

    async def _written(self) -> AsyncIterator[bytes]:
        written = [0] * (len(self.prompts) * self.ask.n)
        # Said with the first of the answer and not before: until then the request may wait as for any first token, and
        # may still fail with a status of its own.
        opening = [self.form.first(choice) for choice in range(len(written)) if self.form.chat]
        try:
            async for event in self.events():
                if opening:
                    yield b"".join(opening)
                    opening = []
                if data := self._write(event, written):
                    yield data
            if self.form.usage_follows:
                yield self.form.usage(self.spent())
            yield DONE
        finally:
            self.job.cancelled = True

    def _write(self, event: Event | Called, written: list[int]) -> bytes:
        if isinstance(event, Called):
            return self.form.call(event.choice, event.index, event.call)
        choice, offset = event.choice, written[event.choice]
        echo = self.echoed(choice) if offset == 0 else ""
        if isinstance(event, Ended):
            before = self.form.piece(choice, echo, (), 0) if echo else b""
            return before + self.form.last(choice, event.reason)
        if isinstance(event, Scored):
            written[choice] = len(echo)
            return self.form.piece(choice, echo, event.tokens, 0)
        assert isinstance(event, Piece)
        written[choice] += len(echo) + len(event.text)
        if echo:
            return self.form.piece(choice, echo, (), 0) + self.form.piece(choice, event.text, event.tokens, len(echo))
        return self.form.piece(choice, event.text, event.tokens, offset)

    def _emit(self, events: Sequence[Event] | TrimtabError | None) -> None:
        """On the engine's thread: hand over, or stop if nobody is there any more."""
        try:
            self._event_loop.call_soon_threadsafe(self._events.put_nowait, events)
        except RuntimeError:  # the event loop is closed
            self.job.cancelled = True


async def fold(stream: EngineStream) -> Answer:
    """The whole answer, from the same events as a stream."""
    count = len(stream.prompts) * stream.ask.n
    texts: list[list[str]] = [[stream.echoed(i)] for i in range(count)]
    tokens: list[list[Choice]] = [[] for _ in range(count)]
    calls: list[list[ToolCall]] = [[] for _ in range(count)]
    reasons = [""] * count
    async for event in stream.events():
        if isinstance(event, Called):
            calls[event.choice].append(event.call)
            continue
        if isinstance(event, Ended):
            reasons[event.choice] = event.reason
            continue
        assert isinstance(event, (Piece, Scored))
        tokens[event.choice] += event.tokens
        if isinstance(event, Piece):
            texts[event.choice].append(event.text)
    usage = stream.spent()
    form = stream.form
    choices = [
        form.choice(i, "".join(texts[i]), form.logprobs(tokens[i], 0), reasons[i], calls[i]) for i in range(count)
    ]
    body = form.whole(choices, usage)
    return Answer(body, usage, finish_reasons=tuple(reasons), mean_logprob=stream.mean_logprob)
