"""A request as messages and spans: which bytes are whose, which may change, and how a change is spliced in.

Offsets are bytes of the raw JSON of one field (`messages`, or `prompt` of a legacy completion). Nothing outside a
replaced string literal or a dropped message is written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from ..protocol.messages import Request

Kind = Literal["text", "result", "arguments", "other"]


@dataclass(frozen=True, slots=True)
class Span:
    """One string: `raw[start:end]` is its JSON literal, quotes included, and `text` what it says.

    `kind`: "text" is a message's content (whole, or one text part of it), "result" a tool's (role tool or function),
    "arguments" a tool call's arguments, "other" a refusal or a text that is none of these.
    `protected` says why no tier may change it ("system text", "cached prefix", ...); None: it may.
    """

    message: int
    role: str
    kind: Kind
    start: int
    end: int
    text: str
    protected: str | None = None


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
    def read(cls, request: Request) -> Conversation | None:
        """None where there is nothing that we can read safely: an odd shape, a lone surrogate, too deep a nesting."""
        raise NotImplementedError

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(span for message in self.messages for span in message.spans)

    def rewrite(self, texts: Mapping[Span, str], dropped: Set[int] = frozenset()) -> bytes:
        """The field's bytes with some spans saying something else and some messages left out."""
        raise NotImplementedError

    def message_bytes(self, index: int, texts: Mapping[Span, str]) -> bytes:
        """One message's bytes, with the changes to its own spans made."""
        raise NotImplementedError
