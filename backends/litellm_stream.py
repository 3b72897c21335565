"""One of litellm's streams as an OpenAI event stream. It is handed litellm's objects and never imports litellm."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from ..protocol.errors import UpstreamAnswered, UpstreamCut
from ..protocol.messages import Kind, Usage
from . import litellm_wire as wire
from .litellm_errors import translate

_PASSED_HEADERS = ("x-request-id", "openai-processing-ms", "request-id")
_encode = msgspec.json.Encoder().encode


class LiteLLMStream:
    """litellm's stream as SSE bytes. `aclose` closes the connection to the provider, also under a waiting reader."""

    def __init__(self, stream: Any, kind: Kind, secrets: list[str], seconds: float) -> None:
        self.headers: Mapping[str, str] = passed_headers(stream)
        self._stream = stream
        # The wrapper around a legacy completion has neither the finish reason nor a way to close.
        self._inner = getattr(stream, "completion_stream", stream) if kind == "completions" else stream
        self._kind: Kind = kind
        self._secrets = secrets
        self._seconds = seconds
        self._first: bytes | None = None
        self._opened = False
        self._ended = False
        self._reading: asyncio.Task[bytes] | None = None
        # litellm keeps tokens of context variables between reads, which only the same context can give back.
        self._context = contextvars.copy_context()

    async def open(self) -> None:
        """Wait for the first chunk. Raises as `LiteLLMBackend.complete` does."""
        try:
            self._first = await self._read()
        except BaseException:
            await self.aclose()
            raise
        self._opened = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        if first is not None:
            return first
        return await self._read()

    async def aclose(self) -> None:
        self._ended, self._first = True, None
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()

    def spent(self) -> Usage | None:
        return None

    async def _read(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        reading = asyncio.get_running_loop().create_task(self._next(), context=self._context)
        self._reading = reading
        try:
            await asyncio.wait({reading})
        except asyncio.CancelledError:
            reading.cancel()
            raise
        self._reading = None
        if reading.cancelled():
            raise StopAsyncIteration  # aclose was called meanwhile
        data = reading.result()
        if not data:
            raise StopAsyncIteration
        return data

    async def _next(self) -> bytes:
        """The next event; empty at the end."""
        while not self._ended:
            try:
                read = await anext(self._stream)
            except StopAsyncIteration:
                self._ended = True
                self._check_finish()
                return b"data: [DONE]\n\n"
            except Exception as e:
                self._ended = True
                return self._failed(e)
            fields = wire.chunk(dump(read), self._kind)
            if any(choice["finish_reason"] for choice in fields.get("choices", ())):
                self._check_finish()
            if fields:
                return b"data: " + _encode(fields) + b"\n\n"
        return b""

    def _check_finish(self) -> None:
        """litellm makes a clean "stop" of a stream that was cut; whether the provider gave one shows only here."""
        if not (
            getattr(self._inner, "received_finish_reason", "unknown")
            or getattr(self._inner, "intermittent_finish_reason", None)
        ):
            self._ended = True
            raise UpstreamCut("the upstream ended its stream in the middle of the answer")

    def _failed(self, error: Exception) -> bytes:
        """The event for an error that the provider told in its stream; raises for a connection that failed."""
        ours = translate(error, self._secrets, self._seconds, streaming=self._opened)
        if self._opened and isinstance(ours, UpstreamAnswered):
            return b"data: " + ours.body + b"\n\n"
        raise ours from None


def dump(answer: Any) -> dict[str, Any]:
    """A litellm object as a dict, its private parts left behind."""
    fields: dict[str, Any] = answer.model_dump(exclude_none=True, warnings=False)
    return fields


def passed_headers(answer: Any) -> dict[str, str]:
    """The few headers of the provider's that are passed on."""
    hidden = getattr(answer, "_hidden_params", None) or {}
    given = hidden.get("additional_headers") or {} if isinstance(hidden, dict) else {}
    found = {name: given.get(f"llm_provider-{name}") for name in _PASSED_HEADERS}
    return {name: str(value) for name, value in found.items() if value}
