"""The fake's stream as bytes, with the script's faults and delays in their places.

Takes the chunks of a `Reply` and gives pieces: bytes that travel together, the tokens they complete, and what comes
before and after them. Pure; who hands the pieces over does the waiting, the hanging and the closing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from .fake_reply import Chunk, Reply

_encode = msgspec.json.Encoder().encode
_PAIRING = {"two_in_event", "two_on_line"}


class Piece(NamedTuple):
    """Bytes to hand over after `wait` seconds, and the tokens that they complete. `end` says what follows them."""

    data: bytes
    tokens: int = 0
    reasoning: int = 0
    wait: float = 0.0
    end: Literal["", "cut", "hang"] = ""


def pieces(reply: Reply) -> Iterator[Piece]:
    """The stream's body as it is handed over; the iteration is endless only with `comments_forever`."""
    script = reply.script
    made = _Events(reply).pieces()
    if "bom" in script.faults.garble:
        made = _marked(made)
    if "no_newline" in script.faults.garble:
        made = _unended(made)
    if script.together > 1:
        made = _joined(made, script.together)
    if script.cut_bytes:
        made = _cut(made, script.cut_bytes)
    return made


class _Events:
    """The events of one stream, written as the script wants them spoilt."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.script = reply.script
        self.garble = reply.script.faults.garble

    def pieces(self) -> Iterator[Piece]:
        faults = self.script.faults
        forever = "comments_forever" in self.garble
        hang = 0 if forever and faults.hang_after is None else faults.hang_after
        wait = self.script.first_byte_s
        sent = 0
        held: list[Chunk] = []
        end: Literal["", "cut", "hang", "error"] = ""
        for chunk in self.reply.chunks():
            end = "hang" if sent == hang else "cut" if sent == faults.cut_after else ""
            end = end or ("error" if sent == faults.error_after else "")
            if end:
                break
            sent += 1
            held.append(chunk)
            if len(held) == 2 or not self.garble & _PAIRING:
                yield from self._event(held, sent, wait)
                held, wait = [], self.script.between_s
        if held:
            yield from self._event(held, sent, wait)
        if end == "error":
            yield Piece(self._line(_encode({"error": self._error()})), wait=wait)
        if end == "hang":
            yield from self._silence(forever, wait)
        elif end == "cut":
            yield Piece(b"", wait=wait, end="cut")
        elif "no_done" not in self.garble:
            yield Piece(self._line(b"[DONE]"), wait=wait)

    def _error(self) -> dict[str, Any]:
        own = {"message": "the fake upstream failed in the middle", "type": "server_error", "param": None, "code": None}
        return own if self.script.faults.error is None else self.script.faults.error

    def _silence(self, comments: bool, wait: float) -> Iterator[Piece]:
        while comments:
            yield Piece(self._ended(b": still here") + self._ended(b""), wait=wait)
            wait = self.script.between_s or 0.02
        yield Piece(b"", wait=wait, end="hang")

    def _event(self, held: list[Chunk], nth: int, wait: float) -> Iterator[Piece]:
        parts = [self._spoiled(chunk.fields, nth - len(held) + i + 1) for i, chunk in enumerate(held)]
        data = self._line(b"".join(parts)) if "two_on_line" in self.garble else self._line(*parts)
        tokens, reasoning = sum(chunk.tokens for chunk in held), sum(chunk.reasoning for chunk in held)
        cut = next((at + 1 for at, byte in enumerate(data) if byte >= 0xC0), None)
        if cut is None or "split_utf8" not in self.garble:
            yield Piece(data, tokens, reasoning, wait)
        else:
            yield Piece(data[:cut], wait=wait)
            yield Piece(data[cut:], tokens, reasoning)

    def _spoiled(self, fields: dict[str, Any], nth: int) -> bytes:
        if nth == 3 and "huge_line" in self.garble:
            fields = {**fields, "padding": "x" * self.script.huge_bytes}
        data = _encode(fields)
        return data[: len(data) // 2] if nth == 3 and "broken_json" in self.garble else data

    def _line(self, *parts: bytes) -> bytes:
        """One event of one data line per part."""
        name = b"data:" if "no_space" in self.garble else b"data: "
        lines = [name + part for part in parts]
        if "event_fields" in self.garble:
            lines = [b"event: message", b"id: 7", b"retry: 1000", *lines]
        if "comments" in self.garble:
            lines = [b": keep-alive", b"", *lines]
        return b"".join(map(self._ended, [*lines, b""]))

    def _ended(self, line: bytes) -> bytes:
        return line + (b"\r\n" if "crlf" in self.garble else b"\n")


def _marked(made: Iterator[Piece]) -> Iterator[Piece]:
    first = next(made)
    yield first._replace(data=b"\xef\xbb\xbf" + first.data)
    yield from made


def _unended(made: Iterator[Piece]) -> Iterator[Piece]:
    before = next(made)
    for piece in made:
        yield before
        before = piece
    yield before._replace(data=before.data.rstrip(b"\r\n"))


def _joined(made: Iterator[Piece], together: int) -> Iterator[Piece]:
    held: list[Piece] = []
    for piece in made:
        if held and (len(held) == together or piece.end):
            yield _merged(held)
            held = []
        held.append(piece)
    yield _merged(held)


def _merged(held: list[Piece]) -> Piece:
    data = b"".join(piece.data for piece in held)
    tokens, reasoning = sum(piece.tokens for piece in held), sum(piece.reasoning for piece in held)
    return Piece(data, tokens, reasoning, held[0].wait, held[-1].end)


def _cut(made: Iterator[Piece], size: int) -> Iterator[Piece]:
    """Pieces of `size` bytes; the tokens go with the byte that completes them."""
    for piece in made:
        at = 0
        wait = piece.wait
        while len(piece.data) - at > size:
            yield Piece(piece.data[at : at + size], wait=wait)
            at, wait = at + size, 0.0
        yield Piece(piece.data[at:], piece.tokens, piece.reasoning, wait, piece.end)
