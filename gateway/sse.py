"""Server-sent events, read and written as the WHATWG standard says (HTML, section 9.2 "Server-sent events").

The parser is incremental and pure: bytes in, events out, the same events however the stream was cut on its way. It
works on bytes and leaves decoding to whoever reads the data. `id` and `retry` fields are read over: no answer of a
language model can be resumed. It does not know JSON, OpenAI or where the bytes come from.
"""

from __future__ import annotations

import re

import msgspec

from ..protocol.errors import UpstreamGarbled

_BOM = b"\xef\xbb\xbf"
_NEWLINE = re.compile(rb"\r\n|\r|\n")


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `event` is its type; None means the standard's default, "message"."""

    data: bytes
    event: str | None = None


class SSEParser:
    """Reads one stream. `max_event_bytes` bounds what is held while waiting for an event's end."""

    __slots__ = ("_after_return", "_limit", "_start", "_tail")

    def __init__(self, max_event_bytes: int = 1 << 20) -> None:
        self._limit = max_event_bytes
        self._tail = bytearray()  # the unfinished event, its line ends already plain LF
        self._start: bytes | None = b""  # what may still become a byte order mark; None once that is settled
        self._after_return = False  # the last byte was CR: a LF that follows belongs to it

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with `data`. Raises UpstreamGarbled when one grows beyond the limit."""
        if self._start is not None:
            data = self._without_bom(data)
        if self._after_return or b"\r" in data:
            data = self._plain_newlines(data)
        block = self._complete(data)
        if len(self._tail) > self._limit:
            self._check(bytes(self._tail))
        if not block:
            return []
        events = []
        for part in block.split(b"\n\n"):
            if len(part) > self._limit:
                self._check(part)
            # Nearly every event of a model's stream is one line of data.
            if part.startswith(b"data: ") and b"\n" not in part:
                events.append(Event(part[6:]))
            elif part and (event := _read(part)) is not None:
                events.append(event)
        return events

    def finish(self) -> list[Event]:
        """At the end of the stream: the event that lacks only its final newlines, if there is one.

        The standard drops it; servers that forget the last blank line after `data: [DONE]` are common enough to be
        kind to. A caller cannot be misled by one cut in the middle, as a cut JSON object is none.
        """
        if self._start:
            self._tail += self._start
        self._start = None
        part = bytes(self._tail)
        self._tail.clear()
        event = _read(part)
        return [] if event is None else [event]

    def _complete(self, data: bytes) -> bytes:
        """Up to the last blank line; what follows it stays in the tail."""
        if not self._tail:
            end = data.rfind(b"\n\n")
            if end < 0:
                self._tail += data
                return b""
            self._tail += data[end + 2 :]
            return data[:end]
        seen = len(self._tail) - 1
        self._tail += data
        end = self._tail.rfind(b"\n\n", seen)
        if end < 0:
            return b""
        block = bytes(self._tail[:end])
        del self._tail[: end + 2]
        return block

    def _without_bom(self, data: bytes) -> bytes:
        data = (self._start or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _plain_newlines(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_return:
            data = data.removeprefix(b"\n")
        self._after_return = data.endswith(b"\r") if data else False
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check(self, part: bytes) -> None:
        if len(part.strip(b"\n")) > self._limit:
            raise UpstreamGarbled(f"an event of the upstream's stream is larger than {self._limit} bytes")


def _read(part: bytes) -> Event | None:
    """One event from its lines; None for one without data (a comment, a lone `event:`)."""
    data: list[bytes] = []
    kind: bytes = b""
    for line in part.split(b"\n"):
        if not line or line.startswith(b":"):
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
    if not data:
        return None
    return Event(b"\n".join(data), kind.decode(errors="replace") or None)


def encode_event(data: bytes, event: str | None = None) -> bytes:
    """One event as bytes; line ends inside `data` become several `data:` lines.

    Raises ValueError when the event's name holds a line end, which would be an event of its own.
    """
    head = b""
    if event is not None:
        if "\n" in event or "\r" in event:
            raise ValueError("an event's name is one line")
        head = b"event: " + event.encode() + b"\n"
    if b"\n" in data or b"\r" in data:
        data = _NEWLINE.sub(b"\ndata: ", data)
    return head + b"data: " + data + b"\n\n"
