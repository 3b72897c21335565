"""Whether bytes are the beginning of a JSON object, one byte after another (RFC 8259).

`response_format: json_object` is kept by asking this before each token. Knows nothing of tokens or models.
"""

from __future__ import annotations

from typing import Literal

_SPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_MOST_SPACE = 24  # a small model can write blanks for ever
_MOST_DEPTH = 32
_WORDS = (b"true", b"false", b"null")

# What may come next. "value" and "first" differ in that a list may close before its first value.
_Wants = Literal[
    "open", "value", "first", "key", "first_key", "colon", "more", "string", "escape", "hex", "word", "number", "end"
]

# The states of a number, which bytes lead on from each, and where it may end.
_NUMBER = {
    "-": {b"0": "0", b"123456789": "1"},
    "0": {b".": ".", b"eE": "e"},
    "1": {_DIGITS: "1", b".": ".", b"eE": "e"},
    ".": {_DIGITS: ".1"},
    ".1": {_DIGITS: ".1", b"eE": "e"},
    "e": {b"+-": "e+", _DIGITS: "e1"},
    "e+": {_DIGITS: "e1"},
    "e1": {_DIGITS: "e1"},
}
_NUMBER_ENDS = ("0", "1", ".1", "e1")


class JsonPrefix:
    """The state of reading a JSON object byte by byte; `after` gives the next one and leaves this as it is."""

    __slots__ = ("_is_key", "_part", "_rest", "_space", "_stack", "_utf8", "_wants")

    def __init__(self) -> None:
        self._wants: _Wants = "open"
        self._stack: tuple[int, ...] = ()  # the opened brackets
        self._rest = b""  # what a literal word still needs
        self._part = ""  # the state inside a number
        self._space = 0
        self._utf8 = 0  # continuation bytes to come
        self._is_key = False

    @property
    def complete(self) -> bool:
        return self._wants == "end"

    def after(self, data: bytes) -> JsonPrefix | None:
        """The state after `data`, or None when it is no beginning of a JSON object."""
        state = object.__new__(JsonPrefix)
        for name in self.__slots__:
            setattr(state, name, getattr(self, name))
        return state if all(state._take(byte) for byte in data) else None

    def closing(self) -> bytes:
        """The fewest bytes, near enough, that make the object whole from here."""
        out = bytearray()
        state = self
        while not state.complete:
            step, state = next((way, after) for way in state._ways_out() if (after := state.after(way)) is not None)
            out += step
        return bytes(out)

    def _ways_out(self) -> tuple[bytes, ...]:
        close = bytes(self._stack[-1:])
        if self._wants == "string":
            return (b"\x80" if self._utf8 else b'"',)
        if self._wants == "word":
            return (self._rest[:1],)
        fixed = {"open": b"{", "key": b'"', "colon": b":", "value": b"0", "escape": b"n", "hex": b"0"}
        return (fixed[self._wants],) if self._wants in fixed else (close, b"0")

    def _take(self, byte: int) -> bool:
        match self._wants:
            case "string":
                return self._in_string(byte)
            case "escape":
                return self._in_escape(byte)
            case "hex":
                return self._in_hex(byte)
            case "word":
                return self._in_word(byte)
            case "number":
                return self._in_number(byte)
        if byte in _SPACE:
            self._space += 1
            return self._wants not in ("open", "end") and self._space <= _MOST_SPACE
        self._space = 0
        return self._structure(byte)

    def _structure(self, byte: int) -> bool:
        wants, c = self._wants, chr(byte)
        if wants == "open":
            return c == "{" and self._open(byte)
        if wants in ("first", "more", "first_key") and self._stack and byte == self._stack[-1]:
            return self._close()
        if wants in ("key", "first_key"):
            return c == '"' and self._string(key=True)
        if wants == "colon":
            self._wants = "value"
            return c == ":"
        if wants == "more":
            self._wants = "key" if self._stack[-1] == ord("}") else "value"
            return c == ","
        return wants != "end" and self._value(byte)

    def _value(self, byte: int) -> bool:
        c = chr(byte)
        if c in "{[":
            return self._open(byte)
        if c == '"':
            return self._string(key=False)
        if c == "-" or byte in _DIGITS:
            self._wants, self._part = "number", "-" if c == "-" else "0" if c == "0" else "1"
            return True
        word = next((w for w in _WORDS if w[0] == byte), b"")
        self._wants, self._rest = "word", word[1:]
        return bool(word)

    def _open(self, byte: int) -> bool:
        self._stack = (*self._stack, byte + 2)  # in ASCII, } and ] stand two after { and [
        self._wants = "first_key" if byte == ord("{") else "first"
        return len(self._stack) <= _MOST_DEPTH

    def _close(self) -> bool:
        self._stack = self._stack[:-1]
        self._valued()
        return True

    def _valued(self) -> None:
        self._wants = "more" if self._stack else "end"

    def _string(self, *, key: bool) -> bool:
        self._wants, self._is_key = "string", key
        return True

    def _in_string(self, byte: int) -> bool:
        if self._utf8:
            self._utf8 -= 1
            return 0x80 <= byte < 0xC0
        if byte == ord('"'):
            if self._is_key:
                self._wants = "colon"
            else:
                self._valued()
        elif byte == ord("\\"):
            self._wants = "escape"
        elif byte >= 0x80:
            self._utf8 = 1 if 0xC2 <= byte < 0xE0 else 2 if 0xE0 <= byte < 0xF0 else 3 if 0xF0 <= byte < 0xF5 else 0
            return self._utf8 > 0
        return byte >= 0x20

    def _in_escape(self, byte: int) -> bool:
        self._wants = "string"
        if byte == ord("u"):
            self._wants, self._rest = "hex", b"...."
        return byte in b'"\\/bfnrtu'

    def _in_hex(self, byte: int) -> bool:
        self._rest = self._rest[1:]
        if not self._rest:
            self._wants = "string"
        return byte in b"0123456789abcdefABCDEF"

    def _in_word(self, byte: int) -> bool:
        right = byte == self._rest[0]
        self._rest = self._rest[1:]
        if not self._rest:
            self._valued()
        return right

    def _in_number(self, byte: int) -> bool:
        for bytes_, part in _NUMBER[self._part].items():
            if byte in bytes_:
                self._part = part
                return True
        if self._part not in _NUMBER_ENDS:
            return False
        self._valued()
        return self._take(byte)
