"""A chat stream, read as segments that come one after another.

Protocols that map onto chat write an answer as blocks or items that begin, grow and end in turn, while chat sends
parallel tool calls interleaved if it likes. The reader puts that in order: one segment is open at a time, and what
comes for another waits until the open tool call's arguments are a complete JSON object. Upstreams that send call after
call (nearly all) are passed on at once.

Pure: bytes in, calls of the subclass's hooks out. It does not know what the segments become.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from ..protocol.errors import TrimtabError, UpstreamCut, UpstreamGarbled
from ..protocol.messages import Function, Request, ToolCall
from .chat_answer import ChatAnswer, Choice, Segment, SegmentKind, decode_chat
from .sse import SSEParser

MAX_EVENT = 4 << 20  # bytes; as the relay in front of it allows


class SegmentReader(ABC):
    """Reads one chat stream and calls the hooks in order: `_begin`, then for each segment `_open`, `_grow`..., `_shut`,
    and `_close`; `_broken` in place of the rest when the stream fails. Hooks write to `_out`.

    It is the Translator of gateway/mapping.py but for the hooks.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer = ChatAnswer()
        self._out: list[bytes] = []
        self._parser = SSEParser(MAX_EVENT)
        self._begun = False
        self._over = False
        self._current: Segment | None = None
        self._calls: dict[int, Segment] = {}
        self._called = 0
        self._waiting: list[tuple[Segment | SegmentKind, str, list[msgspec.Raw]]] = []

    def feed(self, chunk: bytes) -> bytes:
        for event in self._parser.feed(chunk):
            if self._over:
                break
            self._event(event.data)
        return self._take()

    def finish(self) -> bytes:
        for event in self._parser.finish():
            if not self._over:
                self._last_words(event.data)
        if not self._over:
            if self.answer.finish_reason is None:
                raise UpstreamCut("the upstream's stream ended before its answer did")
            self._end()
        return self._take()

    def fail(self, error: TrimtabError) -> bytes:
        if self._over:
            return self._take()
        self._over = True
        self._broken(error)
        return self._take()

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _open(self, segment: Segment) -> None: ...

    @abstractmethod
    def _grow(self, segment: Segment, piece: str, logprobs: list[msgspec.Raw]) -> None: ...

    @abstractmethod
    def _shut(self, segment: Segment) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _broken(self, error: TrimtabError) -> None: ...

    def _take(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _event(self, data: bytes) -> None:
        if data.strip() == b"[DONE]":
            if not self._begun:
                raise UpstreamGarbled("the upstream's stream ended without an answer")
            self._end()
            return
        chat = decode_chat(data)
        answer = self.answer
        if not self._begun:
            self._begun = True
            answer.about(chat, self.request)
            answer.usage = chat.usage
            self._begin()
        answer.usage = chat.usage or answer.usage
        answer.service_tier = chat.service_tier or answer.service_tier
        for choice in chat.choices or ():
            if choice.index == 0:
                self._choice(choice)

    def _last_words(self, data: bytes) -> None:
        try:
            self._event(data)
        except UpstreamGarbled:
            raise UpstreamCut("the upstream's stream ended in the middle of an event") from None

    def _choice(self, choice: Choice) -> None:
        delta = choice.delta
        if delta is not None:
            # Some upstreams send the thought under both names; it is one thought.
            thought = delta.reasoning_content or delta.reasoning
            if thought:
                self._put("thought", thought)
            if delta.content:
                self._put("text", delta.content, (choice.logprobs.content if choice.logprobs else None) or [])
            if delta.refusal:
                self._put("refusal", delta.refusal)
            for call in delta.tool_calls or ():
                self._call(call)
        self.answer.ends(choice, self.request)

    def _call(self, call: ToolCall) -> None:
        function = call.function or Function()
        segment = self._calls.get(call.index)
        # Upstreams that number every call 0 tell them apart by id and name (litellm pull request 37792).
        another = segment is not None and bool(
            function.name and segment.name and call.id and call.id != segment.call_id
        )
        if segment is None or another:
            call_id = call.id or f"call_{self.answer.id}_{self._called}"
            segment = self._calls[call.index] = Segment("tool", call_id)
            self._called += 1
        segment.name = segment.name or function.name or ""
        if segment.name:
            self._put(segment, function.arguments or "")
        elif function.arguments:
            raise UpstreamGarbled("the upstream's stream has a tool call without a name")

    def _put(self, target: Segment | SegmentKind, piece: str, logprobs: list[msgspec.Raw] | None = None) -> None:
        """Give a piece to the open segment, open the one it belongs to, or let it wait."""
        current = self._current
        if current is None or not (current is target or current.kind == target):
            if current is not None and not current.whole:
                self._waiting.append((target, piece, logprobs or []))
                return
            if isinstance(target, Segment) and target.closed:
                if piece.strip():
                    raise UpstreamGarbled("the upstream's tool call went on after its arguments were complete")
                return
            self._end_segment()
            current = self._start(target if isinstance(target, Segment) else Segment(target))
        if piece:
            current.pieces.append(piece)
            current.logprobs += logprobs or []
            self._grow(current, piece, logprobs or [])
        if self._waiting and current.whole:
            self._put_waiting()

    def _start(self, segment: Segment) -> Segment:
        segment.place = len(self.answer.segments)
        self.answer.segments.append(segment)
        self._current = segment
        self._open(segment)
        return segment

    def _end_segment(self) -> None:
        if self._current is not None:
            self._current.closed = True
            self._shut(self._current)
            self._current = None

    def _put_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            self._put(*entry)

    def _end(self) -> None:
        while self._waiting:
            self._end_segment()
            self._put_waiting()
        if self._current is not None:
            self._current.last = True
        self._end_segment()
        self._close()
        self._over = True
