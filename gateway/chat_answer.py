"""A chat answer, whole or a chunk of it, as a row of segments: thought, text, refusal, tool calls.

This is what the mapped protocols translate from. It does not know what the segments become, nor how streams arrive.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ..protocol import tokens
from ..protocol.errors import UpstreamAnswered, UpstreamGarbled
from ..protocol.lone_surrogates import decoded
from ..protocol.messages import DeltaMessage, Function, Request, Usage, WireUsage

SegmentKind = Literal["thought", "text", "refusal", "tool"]


class ChatUsage(WireUsage):
    """Chat's usage, with the tokens written to a provider's cache as litellm reports them."""

    cache_creation_input_tokens: int | None = None


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    index: int = 0
    delta: DeltaMessage | None = None  # in a stream
    message: DeltaMessage | None = None  # in a whole answer
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: Any = None  # vLLM: the stop sequence that was met
    matched_stop: Any = None  # SGLang: the same


class Chat(msgspec.Struct):
    """A whole answer or one chunk: they differ only in where the message is."""

    id: str | None = None
    created: float | None = None
    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(Chat)


@dataclass(slots=True)
class Segment:
    """One part of an answer. `call_id` and `name` are a tool call's; `logprobs` are raw, one for each token."""

    kind: SegmentKind
    call_id: str = ""
    name: str = ""
    place: int = -1
    pieces: list[str] = field(default_factory=list)
    logprobs: list[msgspec.Raw] = field(default_factory=list)
    closed: bool = False
    last: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def whole(self) -> bool:
        """Whether nothing more can belong to it: a tool call's arguments are a complete JSON object."""
        if self.kind != "tool":
            return True
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        return is_object(self.text)


@dataclass(slots=True)
class ChatAnswer:
    """What a chat answer said. `created` is in seconds since the epoch, 0 when the upstream gave none."""

    id: str = ""
    created: int = 0
    segments: list[Segment] = field(default_factory=list)
    finish_reason: str | None = None
    stop: str | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None

    def used(self, request: Request) -> tuple[Usage, int]:
        """The usage and the tokens written to a provider's cache; estimated where the upstream reported none."""
        if self.usage is not None:
            usage = self.usage.to_usage()
            written = min(usage.prompt - usage.cached, max(0, self.usage.cache_creation_input_tokens or 0))
            return usage, written
        said = sum(tokens.count(s.name + s.text, request.model)[0] for s in self.segments)
        return Usage(prompt=tokens.estimate_bytes(request.encode()), completion=said, estimated=True), 0

    def about(self, chat: Chat, request: Request) -> None:
        """Take over what every chunk repeats. An answer without an id gets one from its request."""
        named = (chat.id or "").removeprefix("chatcmpl-")
        self.id = named or hashlib.sha256(request.encode()).hexdigest()[:24]
        self.created = int(chat.created or 0)

    def ends(self, choice: Choice, request: Request) -> None:
        self.finish_reason = choice.finish_reason or self.finish_reason
        met = choice.stop_reason if isinstance(choice.stop_reason, str) else choice.matched_stop
        if isinstance(met, str):
            stops = request.get("stop")
            if met == stops or (isinstance(stops, list) and met in stops):
                self.stop = met


def read_answer(body: bytes, request: Request) -> ChatAnswer:
    """A whole chat answer; of several choices the first. Raises UpstreamGarbled when it is none."""
    chat = decode_chat(body)
    choice = next(iter(chat.choices or ()), None)
    if choice is None or choice.message is None:
        raise UpstreamGarbled("the upstream's answer holds no message")
    answer = ChatAnswer(usage=chat.usage, service_tier=chat.service_tier)
    answer.about(chat, request)
    answer.ends(choice, request)
    message = choice.message
    logprobs = (choice.logprobs.content if choice.logprobs else None) or []
    said: list[tuple[SegmentKind, str | None]] = [
        ("thought", message.reasoning_content or message.reasoning),
        ("text", message.content),
        ("refusal", message.refusal),
    ]
    for kind, text in said:
        if text:
            answer.segments.append(Segment(kind, pieces=[text], logprobs=logprobs if kind == "text" else []))
    for number, call in enumerate(message.tool_calls or ()):
        function = call.function or Function()
        if not function.name:
            raise UpstreamGarbled("the upstream's answer has a tool call without a name")
        call_id = call.id or f"call_{answer.id}_{number}"
        answer.segments.append(Segment("tool", call_id, function.name, pieces=[function.arguments or ""]))
    for place, segment in enumerate(answer.segments):
        segment.place, segment.closed = place, True
        segment.last = place == len(answer.segments) - 1
    return answer


def is_object(text: str) -> bool:
    """Whether `text` is one JSON object."""
    try:
        return isinstance(msgspec.json.decode(text.encode()), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def decode_chat(data: bytes) -> Chat:
    try:
        chat = decoded(_decoder, data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamGarbled("the upstream sent something that is no chat answer") from None
    if chat.error:
        raise UpstreamAnswered(_status(chat.error), data)
    return chat


def _status(error: Any) -> int:
    """The status that an error inside a 200 means; upstreams write it as its code, if at all."""
    code = error.get("code") if isinstance(error, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdigit() and 400 <= int(code) < 600 else 502
