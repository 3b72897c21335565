"""The bundled engine as a backend: OpenAI requests in, OpenAI bytes out, a small model on this machine between.

The model lives on its own thread (`loop.py`); here is only the event loop's side. torch and the tokenizer's library are
imported on that thread, so a gateway that has this backend starts as fast as one that has not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...protocol.errors import (
    ContextTooLong,
    InvalidRequest,
    ModelUnavailable,
    NotSupported,
    TrimtabError,
    UpstreamTimeout,
)
from ...protocol.messages import Answer, Usage
from ..base import Call
from .download import Lines
from .draft_given import read_prediction
from .loop import Loop, log
from .request import Ask, Choice, Sampling, read_chat, read_completion, read_prompts
from .sequence import Ended, Event, Job, Piece, Scored, Task
from .settings import Settings
from .unfinished import unfinished
from .weights import CATALOGUE, obtain
from .wire import DONE, Form

if TYPE_CHECKING:
    from .loaded import Loaded

_POLL_S = 0.05


def _entropy() -> int:
    return secrets.randbits(64)


class EngineBackend:
    """A model of the catalogue, or a .gguf file, run here."""

    def __init__(
        self,
        weights: str,
        *,
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[], int] = _entropy,
        **options: Any,
    ) -> None:
        """`weights` is a name of the catalogue (fetched if need be, into `folder`) or a path; `options` are those of
        `Settings`."""
        self._weights = weights
        entry = CATALOGUE.get(weights)
        self._usual = Sampling() if entry is None else Sampling(temperature=entry.temperature, top_p=entry.top_p)
        self._clock, self._entropy = clock, entropy
        settings = Settings(**options)
        self._loop = Loop(partial(_load, weights, folder, settings, clock), settings.most_waiting)

    async def start(self) -> None:
        """Begin to load; returns at once. Calls that come before the model is there wait for it."""
        self._loop.start()

    async def close(self) -> None:
        """Stop after the current step; open answers end with Draining."""
        await asyncio.to_thread(self._loop.stop)

    def ready(self) -> bool:
        return self._loop.ready

    async def complete(self, call: Call) -> Answer:
        """The whole answer, folded from the same events as a stream."""
        async with aclosing(await self._open(call)) as stream:
            return await _fold(stream)

    async def stream(self, call: Call) -> EngineStream:
        """Open a stream; returns once the request is checked and queued."""
        return await self._open(call)

    async def submit(self, begin: Callable[[Loaded], Job], seconds: float) -> None:
        """Wait for the model, then queue the job that `begin` makes of it, on a thread of its own: the work that other
        parts of the engine do beside answers. Raises as a call does."""
        loaded = await self._wait(seconds)
        self._loop.submit(await asyncio.to_thread(begin, loaded))

    async def _open(self, call: Call) -> EngineStream:
        if call.kind == "embeddings":
            raise NotSupported("the bundled engine makes no embeddings", param="model")
        loaded = await self._wait(call.timeouts.first_token)
        # Rendering and encoding a long conversation takes milliseconds: not on the event loop.
        ask, prompts, given = await asyncio.to_thread(_read, call, loaded, self._usual)
        for prompt in prompts:
            _check_length(len(prompt), ask, loaded.context)
        entropy = self._entropy()
        tasks = [Task(p, ask, i * ask.n, entropy, call.expected, given) for i, p in enumerate(prompts)]
        stream = EngineStream(call, ask, tasks, loaded, int(self._clock()))
        self._loop.submit(stream.job)
        return stream

    async def _wait(self, seconds: float) -> Loaded:
        """The model, once it is there. Raises why it is not: ModelUnavailable, or UpstreamTimeout."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self._loop.failure is not None:
                        raise ModelUnavailable(self._loop.failure.message)
                    if self._loop.loaded is not None:
                        return self._loop.loaded
                    await asyncio.sleep(_POLL_S)  # the loading thread knows no event loop
        except TimeoutError:
            raise UpstreamTimeout("first_token", seconds) from None


class EngineStream:
    """One open answer; the SSE bytes of base.Stream."""

    def __init__(self, call: Call, ask: Ask, tasks: Sequence[Task], loaded: Loaded, created: int) -> None:
        self.headers: Mapping[str, str] = {}
        self.ask, self.prompts = ask, [task.prompt for task in tasks]
        self._loaded, self._timeouts = loaded, call.timeouts
        self._events: asyncio.Queue[Sequence[Event] | TrimtabError | None] = asyncio.Queue()
        self._event_loop = asyncio.get_running_loop()
        self.job = Job(tasks, self._emit, call.tenant)
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

    def echoed(self, choice: int) -> str:
        """What a legacy completion repeats before its answer."""
        return self._loaded.tokenizer.decode(self.prompts[choice // self.ask.n]) if self.ask.echo else ""

    async def events(self) -> AsyncIterator[Event]:
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
                self.job.unread -= 1
                yield event
            wait, which = limits.idle, "idle"

    async def _written(self) -> AsyncIterator[bytes]:
        written = [0] * (len(self.prompts) * self.ask.n)
        try:
            for choice in range(len(written)):
                if self.form.chat:
                    yield self.form.first(choice)
            async for event in self.events():
                if data := self._write(event, written):
                    yield data
            if self.form.usage_follows:
                yield self.form.usage(self.spent())
            yield DONE
        finally:
            self.job.cancelled = True

    def _write(self, event: Event, written: list[int]) -> bytes:
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


async def _fold(stream: EngineStream) -> Answer:
    count = len(stream.prompts) * stream.ask.n
    texts: list[list[str]] = [[stream.echoed(i)] for i in range(count)]
    tokens: list[list[Choice]] = [[] for _ in range(count)]
    reasons = [""] * count
    async for event in stream.events():
        if isinstance(event, Ended):
            reasons[event.choice] = event.reason
            continue
        assert isinstance(event, (Piece, Scored))
        tokens[event.choice] += event.tokens
        if isinstance(event, Piece):
            texts[event.choice].append(event.text)
    usage = stream.spent()
    choices = [_choice(stream, i, "".join(texts[i]), tokens[i], reasons[i]) for i in range(count)]
    return Answer(stream.form.whole(choices, usage), usage, finish_reasons=tuple(reasons))


def _choice(stream: EngineStream, index: int, text: str, tokens: list[Choice], reason: str) -> dict[str, Any]:
    return stream.form.choice(index, text, stream.form.logprobs(tokens, 0), reason)


def _read(call: Call, loaded: Loaded, usual: Sampling) -> tuple[Ask, list[list[int]], tuple[list[int], ...]]:
    """The checked parameters, each prompt's ids, and the ids of texts that the answer may resemble. Raises
    InvalidRequest or ContextTooLong."""
    tokenizer, request = loaded.tokenizer, call.request
    predicted = read_prediction(request)
    given = tuple(tokenizer.encode(text) for text in (predicted, call.draft) if text)
    if call.kind == "chat":
        ask = read_chat(request, request.model, tokenizer.size, usual)
        messages, said = unfinished(request)
        ids = loaded.template.encode(messages, loaded.context)
        return ask, [ids + tokenizer.encode(said) if said else ids], given
    ask = read_completion(request, tokenizer.size)
    prompts = read_prompts(request, tokenizer.size)
    if len(prompts) * ask.n > 128:
        raise InvalidRequest("at most 128 answers can be asked for in one request", param="prompt")
    return ask, [_ids(p, loaded) if isinstance(p, str) else p for p in prompts], given


def _ids(prompt: str, loaded: Loaded) -> list[int]:
    tokenizer = loaded.tokenizer
    least = tokenizer.least_tokens(prompt)
    if least >= loaded.context:
        raise ContextTooLong(f"the model's context is {loaded.context} tokens; the prompt has at least {least}")
    ids = tokenizer.encode(prompt)
    start = [tokenizer.bos] if tokenizer.bos is not None and (tokenizer.starts_with_bos or not ids) else []
    if not ids and not start:
        raise InvalidRequest("'prompt' is empty", param="prompt")
    return start + ids


def _check_length(length: int, ask: Ask, context: int) -> None:
    room = 0 if ask.most == 0 else 1
    if length + room > context:
        raise ContextTooLong(
            f"the model's context is {context} tokens; the prompt alone has {length}, which leaves none for an answer"
        )


def _load(weights: str, folder: Path | None, settings: Settings, clock: Callable[[], float]) -> Loaded:
    path = obtain(weights, folder, Lines(log.info))
    try:
        from .loaded import load
    except ImportError as e:
        raise ModelUnavailable(
            "the bundled engine is not installed", detail=f"{e}; install it with: pip install 'trimtab[engine]'"
        ) from e
    return load(path, lambda: datetime.fromtimestamp(clock()), settings)
