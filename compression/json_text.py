"""JSON in fewer characters: the space between tokens goes, and letters that were written as escapes are letters again.

Number spellings (1.0, 1e-7, 2^64, -0), the order of keys, a key given twice and every other escape are kept byte for
byte. A serialiser that writes `\\u4e2d` for one letter makes a model read five tokens for one. JSON inside a JSON
string is a value, and is not touched. What is not valid JSON (trailing commas, comments, NaN, cut off, nested too
deeply) is left as it is.

This module knows nothing of messages, and does not check itself: `verify.py` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec

from .deadline import Deadline
from .edit import Edit

LEAST = 16  # characters; below it a change is not worth making
# What leaves a prompt with a line break and its indentation, and with a space beside a colon or comma, in tokens of
# cl100k, fitted to 1,053 tool sets (BFCL live_multiple).
_PER_LINE = 1.9
_PER_SPACE = 0.97
_PER_ESCAPE = 3.0

_CLOSER = {"{": "}", "[": "]"}
_CANDIDATE = re.compile(r"^[\[{][^\n]*+", re.MULTILINE)
# How the first line of a value of several lines goes on; `[INFO] ...` and `[1] A title` do not.
_GOES_ON = re.compile(r"\{[ \t\r]*+(?:\"|$)|\[[ \t\r]*+(?:[\[{\"]|$)")
_LINE_ENDS = re.compile(r"[ \t\r]*+(?:\n|\Z)")
_ESCAPES = re.compile(r"((?:\\u[0-9a-fA-F]{4})++)|\\.")
_CHARACTER = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}")

_check = msgspec.json.Decoder(msgspec.Raw).decode


def is_json(text: str) -> bool:
    """Whether it is one valid JSON array or object, with space around it or none."""
    body = text.strip(" \t\r\n")
    return body[:1] in _CLOSER and body[-1] == _CLOSER[body[0]] and valid(body)


def valid(text: str | bytes) -> bool:
    try:
        _check(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def compact(text: str) -> str | None:
    """A JSON value without space between its tokens; None where it is not valid."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def spelt_out(text: str, deadline: Deadline) -> str:
    """Valid JSON with escapes of printable letters outside ASCII written as the letters they mean.

    Escapes of ASCII, of control characters and of what cannot be seen stay: there, the escape says more.
    """
    if "\\u" not in text:
        return text

    def written(match: re.Match[str]) -> str:
        deadline.check()
        return _CHARACTER.sub(_letter, match[1]) if match[1] else match[0]

    return _ESCAPES.sub(written, text)


def _letter(match: re.Match[str]) -> str:
    letter: str = json.loads(f'"{match[0]}"')
    return letter if letter.isprintable() and not letter.isascii() else match[0]


def edits(text: str, deadline: Deadline) -> list[Edit]:
    """Every JSON value that stands in `text` on lines of its own (the whole text, a line of JSON Lines, a block of
    lines that begins and ends at the margin), compacted; none if together that saves next to nothing."""
    found = [edit for place in _places(text, deadline) if (edit := _edit(text, *place, deadline)) is not None]
    saved = sum(edit.end - edit.start - len(edit.new) for edit in found)
    return found if saved >= LEAST else []


def _edit(text: str, start: int, end: int, short: str, deadline: Deadline) -> Edit | None:
    long = text[start:end]
    saved = _saved(long, short)
    letters = spelt_out(short, deadline)
    if len(letters) == len(long):
        return None
    if letters == short:
        return Edit(start, end, short, "JSON whitespace", saved)
    escapes = short.count("\\u") - letters.count("\\u")
    return Edit(start, end, letters, "JSON escapes", saved + round(_PER_ESCAPE * escapes))


def _saved(long: str, short: str) -> int:
    lines = long.split("\n")
    indented = len(long) - sum(map(len, map(str.lstrip, lines)))
    return round(_PER_LINE * (len(lines) - 1) + _PER_SPACE * max(0, len(long) - len(short) - indented))


_Value = tuple[int, int, str]  # where it stands, and how it reads when compacted


def _places(text: str, deadline: Deadline) -> Iterator[_Value]:
    whole = _whole(text)
    if whole is not None:
        yield whole
        return
    closers = _Closers(text)
    at = steps = 0
    while (line := _CANDIDATE.search(text, at)) is not None:
        steps += 1
        if steps % 256 == 0:
            deadline.check()
        value = _line_value(line)
        at = line.end()
        if value is None and _GOES_ON.match(line[0]):
            end = closers.after(_CLOSER[line[0][0]], at)
            if end is not None:
                # What is not valid is left as it is to its end: no value is looked for inside a broken one.
                deadline.check()
                short = compact(text[line.start() : end]) if _LINE_ENDS.match(text, end) else None
                value, at = (None if short is None else (line.start(), end, short)), end
        if value is not None:
            yield value


def _whole(text: str) -> _Value | None:
    start = len(text) - len(text.lstrip(" \t\r\n"))
    end = len(text.rstrip(" \t\r\n"))
    if text[start : start + 1] not in _CLOSER or text[end - 1] != _CLOSER[text[start]]:
        return None
    short = compact(text[start:end])
    return None if short is None else (start, end, short)


def _line_value(line: re.Match[str]) -> _Value | None:
    body = line[0].rstrip()
    if body[-1] != _CLOSER[body[0]] or not ("," in body or ":" in body):
        return None
    short = compact(body)
    return None if short is None else (line.start(), line.start() + len(body), short)


class _Closers:
    """Where the next closing bracket stands at the margin; each part of the text is searched once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = {"}": 0, "]": 0}

    def after(self, bracket: str, at: int) -> int | None:
        """The offset behind it, or None."""
        found = self._next[bracket]
        if 0 <= found < at:
            found = self._next[bracket] = self._text.find("\n" + bracket, at)
        return None if found < 0 else found + 2
