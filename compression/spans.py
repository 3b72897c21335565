"""A request as messages and spans: which bytes are whose, which may change, and how a change is spliced in.

Offsets are bytes of the raw JSON of one field (`messages`, or `prompt` of a legacy completion). Nothing outside a
replaced string literal or a dropped message is written anew.

This module knows nothing of what a text says, or of who wants to change it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Literal

import msgspec

from ..protocol.messages import Request
from .deadline import Deadline
from .json_places import Odd, Place, exceeds, is_null, items, members, string

Kind = Literal["text", "result", "arguments", "other"]

# More than any conversation has; a body of a million tiny values must not cost seconds.
MOST_MESSAGES = 20_000
MOST_SPANS = 20_000
MOST_TOKENS = 200_000

_ROLES = {"system": "system text", "developer": "system text", "assistant": "an answer"}
_OPEN_ROLES = frozenset({"user", "tool", "function"})
_RESULTS = frozenset({"tool", "function"})
_TEXT_PARTS = frozenset({"text", "input_text"})


def _any_spelling(word: str) -> str:
    """A pattern for a JSON string that says `word`, each letter plain or as an escape."""
    spelt = (f"(?:{c}|\\\\u00{ord(c) >> 4:x}[{ord(c) & 15:x}{ord(c) & 15:X}])" for c in word)
    return f'"{"".join(spelt)}"'


# The key as a token of valid JSON: a quote inside a string would stand behind a backslash.
_MARK = re.compile(_any_spelling("cache_control").encode() + rb"[ \t\n\r]*+:[ \t\n\r]*+(?!null)")


_Change = tuple[int, int, bytes]  # raw[start:end] becomes this


@dataclass(frozen=True, slots=True)
class Span:
    """One string: `raw[start:end]` is its JSON literal, quotes included, and `text` what it says.

    `kind`: "text" is a message's content (whole, or one text part of it), "result" a tool's (role tool or function),
    "arguments" a tool call's arguments, "other" a refusal or a text that is none of these.
    `protected` says why no tier may change it ("system text", "cached prefix", ...); None: it may. `tool` names
    the tool whose result it is, where the conversation tells.
    """

    message: int
    role: str
    kind: Kind
    start: int
    end: int
    text: str
    protected: str | None = None
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `raw[start:end]` is its JSON object. `frozen`: at or before the last `cache_control` mark."""

    index: int
    role: str
    start: int
    end: int
    frozen: bool
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a request in order. `field` is where they stand; a legacy prompt is one user message."""

    field: Literal["messages", "prompt"]
    raw: bytes
    messages: tuple[Message, ...]

    @classmethod
    def read(cls, request: Request, deadline: Deadline | None = None) -> Conversation | None:
        """None where there is nothing that we can read safely: an odd shape, a key given twice, a lone surrogate,
        bytes that are no UTF-8, too deep a nesting, more than MOST_MESSAGES messages or MOST_SPANS spans; a legacy
        prompt that is a list, is echoed or has a suffix. Raises OutOfTime."""
        field: Literal["messages", "prompt"] = "messages" if request.kind == "chat" else "prompt"
        found = request.fields.get(field)
        if found is None or request.kind == "embeddings":
            return None
        raw = bytes(found)
        try:
            if not raw.isascii():
                raw.decode()
            if field == "prompt":
                return cls(field, raw, _prompt(raw, request))
            return cls(field, raw, tuple(_messages(raw, _given(request, "cache_control"), deadline)))
        except (Odd, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(span for message in self.messages for span in message.spans)

    def rewrite(self, texts: Mapping[Span, str], dropped: Set[int] = frozenset()) -> bytes:
        """The field's bytes with some spans saying something else and some messages left out.

        Raises ValueError for a protected span that would change, a dropped message that is frozen, a system's or not
        there, a span of another conversation, and a text with a lone surrogate.
        """
        known = {span.start: span for span in self.spans}
        for span, text in texts.items():
            if text != span.text and known.get(span.start) != span:
                raise ValueError("the span is of another conversation")
        cuts = self._cuts(dropped) if dropped else []
        kept = [(span, text) for span, text in texts.items() if span.message not in dropped]
        return self._spliced(0, len(self.raw), [*self._changes(kept), *cuts])

    def message_bytes(self, index: int, texts: Mapping[Span, str]) -> bytes:
        """One message's bytes, with the changes to its own spans made. Raises as `rewrite` does."""
        message = self.messages[index]
        own = [(span, texts[span]) for span in message.spans if span in texts] if texts else []
        return self._spliced(message.start, message.end, self._changes(own))

    def _changes(self, texts: Iterable[tuple[Span, str]]) -> list[_Change]:
        made = []
        for span, text in texts:
            if text == span.text:
                continue
            if span.protected is not None:
                raise ValueError(f"a protected span would change ({span.protected})")
            made.append((span.start, span.end, _literal(text, self.raw[span.start : span.end].isascii())))
        return made

    def _cuts(self, dropped: Set[int]) -> list[_Change]:
        """A message goes with the comma and the space before it; those in front of the first kept one, with the
        comma and the space behind them."""
        messages = self.messages
        if self.field == "prompt" or not all(0 <= index < len(messages) for index in dropped):
            raise ValueError("there is no such message to drop")
        for message in (messages[index] for index in dropped):
            if message.frozen or message.role in ("system", "developer"):
                raise ValueError(f"message {message.index} is protected")
        first = next((message for message in messages if message.index not in dropped), None)
        if first is None:
            return [(messages[0].start, messages[-1].end, b"")]
        later = (index for index in dropped if index > first.index)
        cuts = [(messages[index - 1].end, messages[index].end, b"") for index in later]
        return [(messages[0].start, first.start, b""), *cuts]

    def _spliced(self, start: int, end: int, changes: list[_Change]) -> bytes:
        out, at = [], start
        for first, last, literal in sorted(changes):
            out += [self.raw[at:first], literal]
            at = last
        return b"".join([*out, self.raw[at:end]])


def _literal(text: str, ascii_only: bool) -> bytes:
    """A string as JSON: escapes where the original had nothing else, so that a client's own rule is kept."""
    encoded = text.encode()  # a lone surrogate fails here
    if ascii_only and len(encoded) != len(text):
        return json.dumps(text).encode()
    return msgspec.json.encode(text)


def _given(request: Request, name: str) -> bool:
    raw = request.fields.get(name)
    return raw is not None and bytes(raw) not in (b"null", b"false", b'""')


def _prompt(raw: bytes, request: Request) -> tuple[Message, ...]:
    text = string(raw, (0, len(raw)))
    if text is None or _given(request, "echo") or _given(request, "suffix"):
        raise Odd
    span = Span(0, "user", "text", 0, len(raw), text)
    return (Message(0, "user", 0, len(raw), False, (span,)),)


def _messages(raw: bytes, all_frozen: bool, deadline: Deadline | None) -> Iterator[Message]:
    if exceeds(raw, MOST_TOKENS):
        raise Odd
    mark = len(raw) if all_frozen else _last_mark(raw)
    spans = 0
    called: dict[str, str] = {}
    for index, place in enumerate(items(raw, (0, len(raw)), MOST_MESSAGES)):
        if deadline is not None and index % 64 == 0:
            deadline.check()
        message = _message(raw, index, place, called, frozen=place[0] < mark)
        spans += len(message.spans)
        if spans > MOST_SPANS:
            raise Odd
        yield message


def _last_mark(raw: bytes) -> int:
    """Where the last `cache_control` key begins; -1: there is none. A null marks nothing."""
    if b"cache_control" not in raw and b"\\u00" not in raw:
        return -1
    marks = [match.start() for match in _MARK.finditer(raw) if raw[match.start() - 1] != 0x5C]
    return marks[-1] if marks else -1


def _message(raw: bytes, index: int, place: Place, called: dict[str, str], frozen: bool) -> Message:
    """`called`: the tools called so far, by the call's id; the message's own are added."""
    found = members(raw, place)
    role = string(raw, found.get("role"))
    if role is None:
        raise Odd
    general = _ROLES.get(role) or (None if role in _OPEN_ROLES else "an unknown role")
    general = general or ("cached prefix" if frozen else None)
    tool = _tool(raw, found, called) if role in _RESULTS else ""
    spans = []
    for kind, where, why in _texts(raw, found, role):
        text = string(raw, where)
        if text is not None:
            spans.append(Span(index, role, kind, *where, text, why or general, tool))
    if "tool_calls" in found and not is_null(raw, found["tool_calls"]):
        called |= _called(raw, found["tool_calls"])
    return Message(index, role, *place, frozen, tuple(spans))


def _tool(raw: bytes, found: Mapping[str, Place], called: Mapping[str, str]) -> str:
    """Whose result a message is: by the id of the call, or by its own word."""
    name = called.get(string(raw, found.get("tool_call_id")) or "")
    return name or string(raw, found.get("name")) or ""


def _called(raw: bytes, place: Place) -> dict[str, str]:
    made = {}
    for call in (members(raw, place) for place in items(raw, place)):
        function, call_id = call.get("function"), string(raw, call.get("id"))
        if call_id and function is not None and not is_null(raw, function):
            made[call_id] = string(raw, members(raw, function).get("name")) or ""
    return made


_Text = tuple[Kind, Place, str | None]  # the last is a reason of its own to protect it


def _texts(raw: bytes, found: Mapping[str, Place], role: str) -> Iterator[_Text]:
    for name, place in found.items():
        if is_null(raw, place):
            continue
        if name == "content":
            yield from _content(raw, place, "result" if role in _RESULTS else "text")
        elif name == "tool_calls":
            for call in items(raw, place):
                yield from _arguments(raw, members(raw, call).get("function"))
        elif name == "function_call":
            yield from _arguments(raw, place)
        elif name == "refusal":
            yield "other", place, "an answer"


def _content(raw: bytes, place: Place, kind: Kind) -> Iterator[_Text]:
    if raw[place[0]] == 0x22:
        yield kind, place, None
        return
    for part in (members(raw, place) for place in items(raw, place)):
        says = string(raw, part.get("type"))
        if says in _TEXT_PARTS and "text" in part:
            offsets = "annotations" in part or "citations" in part
            yield kind, part["text"], "offsets point into it" if offsets else None
        elif says == "refusal" and "refusal" in part:
            yield "other", part["refusal"], "an answer"


def _arguments(raw: bytes, function: Place | None) -> Iterator[_Text]:
    if function is not None and not is_null(raw, function):
        arguments = members(raw, function).get("arguments")
        if arguments is not None:
            yield "arguments", arguments, "tool call arguments"
