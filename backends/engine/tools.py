"""Tool calls inside an answer's text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen
models write them.

Pure. Text goes in as it is generated; text that may be shown and whole calls come out, never half a tag. What turns out
to be no call is text after all: nothing that the model said is lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MOST_CLOSES = 8  # closing tags tried as the end of one call: an argument may contain the tag itself


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function; `arguments` is a JSON text."""

    name: str
    arguments: str

    def to_openai(self, id: str) -> dict[str, Any]:
        """The entry of a message's `tool_calls`; in a stream's delta it has an `index` too."""
        return {"id": id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class ToolCalls:
    """Reads one answer. `feed` each piece of text, `flush` at its end; both give texts and calls in their order.

    White space beside calls belongs to their form and is left out.
    """

    def __init__(self) -> None:
        self.count = 0  # calls found so far
        self._rest = ""  # not decided yet: white space, the beginning of a tag, or an open call
        self._space = ""  # white space before an open call
        self._open = False
        self._seen = 0  # characters of an open call in which no closing tag begins
        self._closes = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        self._rest += text
        out: list[str | ToolCall] = []
        while self._call(out) if self._open else self._text(out):
            pass
        return out

    def flush(self) -> list[str | ToolCall]:
        """What was held back: a call whose closing tag never came if it is whole, else the text itself."""
        rest, self._rest = self._rest, ""
        if not self._open:
            return [] if not rest or (self.count and rest.isspace()) else [rest]
        self._open = False
        call = _read(rest[len(OPEN) :])
        self.count += call is not None
        return [self._space + rest if call is None else call]

    def _text(self, out: list[str | ToolCall]) -> bool:
        """Emit what is sure to be text; True when a call has been opened."""
        at = self._rest.find(OPEN)
        self._open, self._seen, self._closes = at >= 0, len(OPEN), 0
        shown = self._rest[: at if at >= 0 else len(self._rest) - _beginning(self._rest)].rstrip()
        if shown:
            out.append(shown)
        if at >= 0:
            self._space = self._rest[len(shown) : at]
        self._rest = self._rest[at if at >= 0 else len(shown) :]
        return at >= 0

    def _call(self, out: list[str | ToolCall]) -> bool:
        """Read on in the open call; True when more can be read."""
        at = self._rest.find(CLOSE, self._seen)
        if at < 0:
            self._seen = max(self._seen, len(self._rest) - len(CLOSE) + 1)
            return False
        self._closes += 1
        end = at + len(CLOSE)
        body = self._rest[len(OPEN) : at]
        call = _read(body)
        if call is None and self._closes < _MOST_CLOSES and _ends_in_a_string(body):
            self._seen = end
            return True
        self.count += call is not None
        out.append(self._space + self._rest[:end] if call is None else call)
        self._rest, self._open = self._rest[end:], False
        return True


def read_whole(text: str) -> tuple[str | None, list[ToolCall]]:
    """A whole answer's text, None when there is nothing beside the calls, and its calls."""
    reader = ToolCalls()
    parts = reader.feed(text) + reader.flush()
    calls = [part for part in parts if isinstance(part, ToolCall)]
    shown = "".join(part for part in parts if isinstance(part, str))
    return (shown or None if calls else shown), calls


def _beginning(text: str) -> int:
    """How many of the last characters may be the beginning of a tag."""
    return next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if text.endswith(OPEN[:n])), 0)


def _read(body: str) -> ToolCall | None:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    # A model may write the arguments as a text of JSON, which is how OpenAI has them.
    return ToolCall(
        call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    )


def _ends_in_a_string(body: str) -> bool:
    try:
        json.loads(body)
    except json.JSONDecodeError as e:
        return e.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False
