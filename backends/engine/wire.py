"""Writing the engine's answers as OpenAI does: whole objects, and the chunks of a stream.

Pure: ids and times are handed in. Knows tokens only through `Names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ...protocol.messages import Usage
from .request import Choice
from .tools import ToolCall

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class Names(Protocol):
    """How tokens are written in `logprobs`."""

    bytes: list[bytes]

    def text(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Form:
    """The frame of one request's answer. `created` in seconds since the epoch; `usage_follows`: a chunk says so."""

    id: str
    model: str
    created: int
    fingerprint: str
    chat: bool
    usage_follows: bool
    names: Names

    def first(self, choice: int) -> bytes:
        """The chunk that opens a chat's choice."""
        return self._event([self._chunk(choice, {"role": "assistant", "content": "", "refusal": None}, None, None)])

    def piece(self, choice: int, text: str, tokens: Sequence[Choice], offset: int) -> bytes:
        """A chunk of text; `offset` counts the characters of this choice before it."""
        return self._event([self._chunk(choice, {"content": text}, self.logprobs(tokens, offset), None)])

    def call(self, choice: int, index: int, call: ToolCall) -> bytes:
        """A chunk with one whole tool call, the choice's `index`-th."""
        delta = {"tool_calls": [{"index": index, **call.to_openai(self._call_id(choice, index))}]}
        return self._event([self._chunk(choice, delta, None, None)])

    def _call_id(self, choice: int, index: int) -> str:
        return f"call_{self.id.partition('-')[2]}_{choice}_{index}"

    def last(self, choice: int, reason: str) -> bytes:
        return self._event([self._chunk(choice, {}, None, reason)])

    def usage(self, usage: Usage) -> bytes:
        return self._event([], usage.to_openai())

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> bytes:
        """The answer of a request that is not a stream."""
        kind = "chat.completion" if self.chat else "text_completion"
        return _encode({**self._head(kind), "choices": choices, "usage": usage.to_openai()})

    def choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str, calls: Sequence[ToolCall] = ()
    ) -> dict[str, Any]:
        """One choice of a whole answer."""
        if not self.chat:
            return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [call.to_openai(self._call_id(index, i)) for i, call in enumerate(calls)]
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def logprobs(self, tokens: Sequence[Choice], offset: int) -> dict[str, Any] | None:
        """The log-probabilities of these tokens in this endpoint's form; None when none were asked for."""
        if not any(t.logprob is not None for t in tokens):
            return None
        if self.chat:
            return {"content": [self._chat_logprob(t) for t in tokens], "refusal": None}
        return self._legacy_logprobs(tokens, offset)

    def _chat_logprob(self, choice: Choice) -> dict[str, Any]:
        top = [self._named(token, value) for token, value in choice.top]
        return {**self._named(choice.token, choice.logprob), "top_logprobs": top}

    def _named(self, token: int, value: float | None) -> dict[str, Any]:
        return {"token": self.names.text(token), "logprob": value, "bytes": list(self.names.bytes[token])}

    def _legacy_logprobs(self, tokens: Sequence[Choice], offset: int) -> dict[str, Any]:
        offsets = []
        for t in tokens:
            offsets.append(offset)
            offset += len(self.names.bytes[t.token].decode("utf-8", "ignore"))
        top = [None if t.logprob is None else {self.names.text(i): v for i, v in t.top} for t in tokens]
        return {
            "tokens": [self.names.text(t.token) for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        content = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = self._head("chat.completion.chunk" if self.chat else "text_completion") | {"choices": choices}
        if self.usage_follows:
            chunk["usage"] = usage
        return b"data: " + _encode(chunk) + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint}
