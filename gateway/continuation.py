"""An answer that a cap of ours cut is taken up where it ended, with its client none the wiser.

A part that ends with `length` under our cap is followed by another call, whose last turn is what was said so far; its
cap is twice as high, and none at all where that reaches the model's own limit. The parts become one answer: one id, one
text, the last part's finish_reason, the usage of all. A stream holds back only what may not be the end of a part: for
upstreams whose templates trim a turn, white space; for all, half a character.

It knows how upstreams are told (`Style`), no tenant, no money and no retries: `again` calls, and `paid` is told what
the parts used if a later one fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from ..backends.base import Call, Stream
from ..protocol.messages import Answer, Request, Usage, WireUsage
from ..protocol.tokens import estimate, estimate_bytes
from ..routing.cap import Cap, Then, grown, then
from .sse import SSEParser

Style = Literal["engine", "vllm", "prefix", "plain"]
MOST_PARTS = 32  # caps double, so no window is that large; whatever goes wrong, it ends

_MAX_EVENT = 4 << 20
_TOLD = ("engine", "vllm")
_encode = msgspec.json.Encoder().encode


def onward(call: Call, style: Style, said: str, cap: Cap) -> Call:
    """The call that goes on after `said`; with nothing said, the same question under the next cap."""
    changes: dict[str, Any] = {"max_tokens": cap.tokens}
    if said:
        turn: dict[str, Any] = {"role": "assistant", "content": said}
        if style == "prefix":
            turn["prefix"] = True
        turns = bytes(call.request.fields["messages"]).rstrip()
        changes["messages"] = msgspec.Raw(turns[:-1].rstrip() + b"," + _encode(turn) + b"]")
        if style in _TOLD:
            changes |= {"continue_final_message": True, "add_generation_prompt": False}
    request: Request = call.request.with_fields(**changes)
    return replace(call, request=request, draft=None)


def settled(text: str, style: Style) -> str:
    """What of a part's text may stand before the next part: no half character, and no white space that a template would
    trim, since the model writes it again."""
    text = text.rstrip("\ufffd")
    return text if style == "engine" else text.rstrip()


async def complete(
    call: Call,
    first: Answer,
    cap: Cap,
    style: Style,
    room: int | None,
    again: Callable[[Call], Awaitable[Answer]],
    paid: Callable[[Usage], object],
) -> Answer:
    """The whole answer. Raises what `again` raises."""
    said, used, answer, parts = "", _used(call, first), first, 1
    try:
        while _goes_on(answer, cap) and parts < MOST_PARTS:
            body = msgspec.json.decode(answer.body)
            if not (text := _text(body)) and not said and _thought(body):
                cap = Cap(None, ours=False)  # it was all thought, and there is nothing to take up: once more, uncapped
            else:
                cap = grown(cap, used.completion, room)
            said = settled(said + text, style)
            going = onward(call, style, said, cap)
            answer = await again(going)
            parts += 1
            used = used + _used(going, answer)
    except BaseException:
        paid(used)
        raise
    if parts == 1:
        return first
    return _joined(first, answer, said, used)


def _goes_on(answer: Answer, cap: Cap) -> bool:
    reason = answer.finish_reasons[0] if len(answer.finish_reasons) == 1 else None
    return then(cap, reason) is Then.CONTINUE


def _joined(first: Answer, last: Answer, said: str, used: Usage) -> Answer:
    began, body = msgspec.json.decode(first.body), msgspec.json.decode(last.body)
    message = body["choices"][0]["message"]
    message["content"] = said + (message.get("content") or "")
    thought = _thought(began)
    if thought:
        message["reasoning_content"] = thought
    body |= {name: began[name] for name in ("id", "created") if name in began}
    body["usage"] = used.to_openai()
    return Answer(_encode(body), used, last.status, first.headers, last.finish_reasons)


def _message(body: Any) -> dict[str, Any]:
    try:
        message = body["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        return {}
    return message if isinstance(message, dict) else {}


def _text(body: Any) -> str:
    text = _message(body).get("content")
    return text if isinstance(text, str) else ""


def _thought(body: Any) -> str:
    message = _message(body)
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) else ""


def _used(call: Call, answer: Answer) -> Usage:
    if answer.usage is not None:
        return answer.usage
    text = _text(msgspec.json.decode(answer.body))
    return Usage(prompt=estimate_bytes(call.request.encode()), completion=estimate(text) if text else 0, estimated=True)


class JoinedStream:
    """A stream under a cap of ours, with the streams that follow it; the bytes of one (base.Stream)."""

    def __init__(
        self,
        call: Call,
        first: Stream,
        cap: Cap,
        style: Style,
        room: int | None,
        again: Callable[[Call], Awaitable[Stream]],
    ) -> None:
        self.headers: Mapping[str, str] = first.headers
        self.parts = 1
        self._call = self._asked = call
        self._stream = first
        self._between = False  # a part is over, and the next not open
        self._done = False
        self._style: Style = style
        self._cap, self._room = cap, room
        self._again = again
        self._said = ""  # by all parts, as the client has it
        self._held = ""  # said, and not passed on yet
        self._before = Usage()  # of the parts that are over
        self._here: Usage | None = None  # of this part, as far as it said
        self._count = 0  # tokens of this part, by its chunks
        self._cut = False  # this part ended under our cap
        self._thought = False
        self._head: dict[str, Any] | None = None
        self._bytes = self._written()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._bytes

    async def aclose(self) -> None:
        await self._stream.aclose()

    def spent(self) -> Usage | None:
        """Of all parts; None while there is one and its backend does not know."""
        if self._between:
            return self._before
        own = self._here or self._stream.spent()
        if own is None and self.parts == 1:
            return None
        if own is None:
            own = Usage(estimate_bytes(self._asked.request.encode()), self._count, estimated=True)
        return self._before + own

    async def _written(self) -> AsyncIterator[bytes]:
        while True:
            parser = SSEParser(_MAX_EVENT)
            async for data in self._stream:
                if out := b"".join([self._event(event.data) for event in parser.feed(data)]):
                    yield out
            if rest := b"".join([self._event(event.data) for event in parser.finish()]):
                yield rest
            if not self._cut:
                if not self._done and (total := self._total()):
                    yield total
                return
            await self._next()

    async def _next(self) -> None:
        self._before = self.spent() or self._before + Usage(completion=self._count, estimated=True)
        self._between = True
        await self._stream.aclose()
        self._cut, self._held, self._here, self._count = False, "", None, 0
        if not self._said and self._thought:
            self._cap = Cap(None, ours=False)
        else:
            self._cap = grown(self._cap, self._before.completion, self._room)
        if self.parts >= MOST_PARTS:
            self._cap = Cap(None, ours=False)
        self._asked = onward(self._call, self._style, self._said, self._cap)
        self._stream = await self._again(self._asked)
        self._between = False
        self.parts += 1

    def _event(self, data: bytes) -> bytes:
        if data.strip() == b"[DONE]":
            self._done = not self._cut
            return b"" if self._cut else self._total() + b"data: [DONE]\n\n"
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b"data: " + data + b"\n\n"  # for the relay to judge
        if not isinstance(chunk, dict) or "error" in chunk:
            return b"data: " + data + b"\n\n"
        return self._chunk(chunk)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        self._note_usage(chunk.pop("usage", None))
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        if self._head is None:
            self._head = {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
        chunk |= self._head
        if choice is None:
            return b""
        delta = choice.get("delta")
        delta = choice["delta"] = delta if isinstance(delta, dict) else {}
        self._tidy(delta)
        reason = choice.get("finish_reason")
        if reason is not None and then(self._cap, reason) is Then.CONTINUE:
            self._cut, choice["finish_reason"] = True, None
        elif reason is not None and self._held:
            delta["content"] = (delta.get("content") or "") + self._held
            self._said, self._held = self._said + self._held, ""
        empty = not any(value not in (None, "") for value in delta.values())
        if empty and (self._cut or (self.parts > 1 and choice.get("finish_reason") is None)):
            return b""
        return b"data: " + _encode(chunk) + b"\n\n"

    def _tidy(self, delta: dict[str, Any]) -> None:
        """Leave of a chunk's delta what the client is to have now."""
        thought = bool(delta.get("reasoning_content") or delta.get("reasoning"))
        self._count += bool(delta.get("content")) + thought
        if self.parts > 1:  # its opening was told, and so were its thoughts
            for name in ("role", "reasoning_content", "reasoning", "refusal"):
                delta.pop(name, None)
        self._thought = self._thought or thought
        text = delta.get("content")
        if isinstance(text, str) and text:
            text = self._held + text
            kept = settled(text, self._style)
            self._held = text[len(kept) :]
            self._said += kept
            delta["content"] = kept

    def _note_usage(self, raw: Any) -> None:
        if raw is None:
            return
        try:
            self._here = msgspec.convert(raw, WireUsage).to_usage()
        except msgspec.ValidationError:
            return

    def _total(self) -> bytes:
        """One chunk with the usage of all parts; nothing where an upstream did not say."""
        if self._here is None:
            return b""
        chunk = {"object": "chat.completion.chunk", **(self._head or {}), "choices": []}
        return b"data: " + _encode({**chunk, "usage": (self._before + self._here).to_openai()}) + b"\n\n"
