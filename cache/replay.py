"""Gives a kept answer back as it was, or in the other form: a whole answer as a stream, a stream as a whole answer.

In its own form the bytes are the upstream's: same ids, same chunks, same spelling. What is put together or taken apart
keeps every field, known or not. Pure but for being handed out piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from ..protocol.messages import Answer, Usage
from .recording import DONE, Recorded, datas

_PIECE = 32 << 10  # bytes handed out at once
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_WORDS = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")
# What an upstream can provoke that puts something else where lists and objects should be.
_ODD = (AttributeError, LookupError, TypeError, ValueError, RecursionError, msgspec.MsgspecError)
_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning", "text", "arguments"})  # these grow


class Replay:
    """One complete answer, for one request."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.target = recorded.target
        self.usage = recorded.usage

    async def whole(self) -> Answer | None:
        """None: it cannot be told in this form."""
        recorded = self._recorded
        try:
            body = recorded.body if recorded.form == "whole" else joined(recorded.body)
        except _ODD:
            return None
        return Answer(body, recorded.usage)

    async def stream(self) -> AsyncIterator[bytes] | None:
        """As `whole`."""
        recorded = self._recorded
        try:
            body = recorded.body if recorded.form == "stream" else parted(recorded.body, recorded.usage)
        except _ODD:
            return None
        return _pieces(body + DONE + b"\n\n")


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    start = 0
    while start < len(body):
        end = len(body) if len(body) - start <= _PIECE else body.index(b"\n\n", start + _PIECE - 2) + 2
        yield body[start:end]
        start = end


# A stream as one answer.


def joined(events: bytes) -> bytes:
    """The whole answer that a stream adds up to."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for data in datas(events):
        chunk = _decode(data)
        for name, value in chunk.items():
            if name == "choices":
                for choice in value or ():
                    _add_choice(choices, choice)
            elif value is not None or name not in answer:
                answer[name] = value
    kind = answer.get("object")
    if kind == "chat.completion.chunk":
        answer["object"] = "chat.completion"
    usage = answer.pop("usage", None)
    answer["choices"] = [_finished(choices[index], index) for index in sorted(choices)]
    if usage is not None:
        answer["usage"] = usage
    return _encode(answer)


def _add_choice(choices: dict[int, dict[str, Any]], choice: dict[str, Any]) -> None:
    known = choices.setdefault(choice.get("index", 0), {})
    for name, value in choice.items():
        if name == "delta":
            _grow(known.setdefault("message", {}), value or {})
        elif name == "logprobs" and isinstance(value, dict):
            _append(known, name, value)
        elif name == "text" and isinstance(value, str):
            known[name] = (known.get(name) or "") + value
        elif value is not None or name not in known:
            known[name] = value


def _grow(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        known = message.get(name)
        if name in _TEXTS and isinstance(known, str) and isinstance(value, str):
            message[name] = known + value
        elif name == "tool_calls":
            _add_calls(message, value or ())
        elif isinstance(known, dict) and isinstance(value, dict):
            _grow(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            known.extend(value)
        elif value is not None or name not in message:
            message[name] = value if not isinstance(value, dict | list) else _decode(_encode(value))


def _add_calls(message: dict[str, Any], pieces: Any) -> None:
    calls = message.setdefault("tool_calls", [])
    for piece in pieces:
        index = piece.get("index", 0)
        known = next((call for call in reversed(calls) if call.get("index", 0) == index), None)
        # Upstreams that number every call 0 tell them apart by their ids.
        if known is None or (piece.get("id") and known.get("id") and piece["id"] != known["id"]):
            calls.append(_decode(_encode(piece)))
            continue
        for name, value in piece.items():
            if name == "function" and isinstance(known.get(name), dict) and isinstance(value, dict):
                _grow(known[name], value)
            elif value is not None:
                known[name] = value


def _append(known: dict[str, Any], name: str, value: dict[str, Any]) -> None:
    lists = known.get(name)
    if not isinstance(lists, dict):
        known[name] = _decode(_encode(value))
        return
    for key, more in value.items():
        if isinstance(lists.get(key), list) and isinstance(more, list):
            lists[key].extend(more)
        elif more is not None:
            lists[key] = more


def _finished(choice: dict[str, Any], index: int) -> dict[str, Any]:
    message = choice.get("message")
    if isinstance(message, dict):
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
    return {"index": index, **choice}


# One answer as a stream.


def parted(body: bytes, usage: Usage | None) -> bytes:
    """The events that a whole answer could have come in: the role, a word at a time, each tool call, the end, usage."""
    answer = _decode(body)
    used = answer.pop("usage", None) or (usage.to_openai() if usage is not None else None)
    choices = answer.pop("choices", None) or []
    if answer.get("object") == "chat.completion":
        answer["object"] = "chat.completion.chunk"
    # What all events have in common is written once: a word of its own needs little else.
    head = b"data: " + _encode(answer)[:-1] + (b"," if answer else b"") + b'"choices":['
    events = [
        b"%b%b]}\n\n" % (head, part)
        for choice in choices
        for part in (_chat(choice) if "message" in choice else _completion(choice))
    ]
    if used is not None:
        events.append(b'%b],"usage":%b}\n\n' % (head, _encode(used)))
    return b"".join(events)


def _chat(choice: dict[str, Any]) -> Iterator[bytes]:
    """The choice's part of each event."""
    index = choice.get("index", 0)
    message = dict(choice.get("message") or {})
    rest = {name: value for name, value in choice.items() if name not in ("message", "index", "finish_reason")}
    logprobs = rest.pop("logprobs", None)

    def part(delta: Any, **more: Any) -> bytes:
        return _encode({"index": index, "delta": delta, **more, "finish_reason": None})

    yield part({"role": message.pop("role", "assistant"), "content": ""})
    calls = message.pop("tool_calls", None) or []
    # In the order in which models say them: the thought, then the answer, then whatever else there is.
    for name in ("reasoning_content", "reasoning", "content", "refusal"):
        text = message.pop(name, None)
        yield from _words(text, part({name: ""}))
    if message:
        yield part(message)
    for place, call in enumerate(calls):
        yield part({"tool_calls": [{"index": place, **call}]})
    if logprobs is not None:
        yield part({}, logprobs=logprobs)
    yield _encode({"index": index, "delta": {}, **rest, "finish_reason": choice.get("finish_reason")})


def _completion(choice: dict[str, Any]) -> Iterator[bytes]:
    index = choice.get("index", 0)
    rest = {name: value for name, value in choice.items() if name not in ("text", "index", "finish_reason")}
    yield from _words(
        choice.get("text"), _encode({"index": index, "text": "", "logprobs": None, "finish_reason": None})
    )
    yield _encode({"index": index, "text": "", **rest, "finish_reason": choice.get("finish_reason")})


def _words(text: Any, around: bytes) -> Iterator[bytes]:
    """A part for each word: `around` with the word in place of its empty text."""
    before, _, after = around.partition(b'""')
    for word in _WORDS.findall(text) if isinstance(text, str) else ():
        yield b"%b%b%b" % (before, _encode(word), after)
