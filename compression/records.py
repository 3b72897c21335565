"""The records of a JSON text: the elements of its outermost arrays of objects, or the lines of JSON Lines.

Only whole records can be left out of a JSON text, so this is all that is asked of it: where they begin and end. Values
are not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

# Unrolled, so that a string of any length is one step; the text is valid JSON before this ever sees it.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|[^\s"\[\]{},:]+', re.DOTALL)
_LOOKS = re.compile(r'\s*(?:\{\s*["}]|\[\s*[{\["\]])')
_MOST = 4_000_000  # characters: above it a text is left as it is

_decode = msgspec.json.Decoder().decode

Bounds = tuple[int, int]


def looks_like_json(text: str, start: int, end: int) -> bool:
    """Whether it begins as JSON objects, arrays of them or of strings do (`[1] A title` and `[INFO]` do not)."""
    return _LOOKS.match(text, start, min(end, start + 1000)) is not None


def records(text: str, start: int, end: int) -> list[Bounds] | None:
    """Offsets of every record of `text[start:end]`, in order; None if it is not JSON that we could put together again.

    An array counts when it has two elements or more and all are objects. Linear in the text.
    """
    if end - start > _MOST:
        return None
    if _valid(text[start:end]):
        return _elements(text, start, end)
    return _lines(text, start, end)


def _valid(text: str) -> bool:
    try:
        _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _lines(text: str, start: int, end: int) -> list[Bounds] | None:
    """JSON Lines: each line that is not blank holds one object."""
    found: list[Bounds] = []
    at = start
    while at < end:
        line_end = text.find("\n", at, end)
        line_end = end if line_end < 0 else line_end
        line = text[at:line_end]
        body = line.strip()
        if body:
            if not (body[0] == "{" and body[-1] == "}" and _valid(body)):
                return None
            begin = at + len(line) - len(line.lstrip())
            found.append((begin, begin + len(body)))
        at = line_end + 1
    return found if len(found) > 1 else None


@dataclass(slots=True)
class _Open:
    """An array or object whose end has not come yet; `only_objects` is for arrays."""

    start: int
    array: bool
    only_objects: bool = True
    objects: list[Bounds] = field(default_factory=list)


def _elements(text: str, start: int, end: int) -> list[Bounds]:
    stack: list[_Open] = []
    found: list[list[Bounds]] = []
    for token in _TOKEN.finditer(text, start, end):
        first = text[token.start()]
        if first in "[{":
            if stack and stack[-1].array and first == "[":
                stack[-1].only_objects = False
            stack.append(_Open(token.start(), first == "["))
        elif first in "]}":
            closed = stack.pop()
            if closed.array and closed.only_objects and len(closed.objects) > 1:
                while found and found[-1][0][0] > closed.start:  # arrays inside its records
                    found.pop()
                found.append(closed.objects)
            elif not closed.array and stack and stack[-1].array:
                stack[-1].objects.append((closed.start, token.end()))
        elif stack and stack[-1].array:
            stack[-1].only_objects = False
    return [bounds for array in found for bounds in array]
