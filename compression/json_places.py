"""Where the values of a JSON array or object stand: byte ranges, not a tree.

What a value is, and that it is valid, is msgspec's word; only keys, commas and the space between values are walked
here, and each step checks that the next value's bytes are the ones that msgspec read. So a key given twice, or
anything that we would read otherwise than a parser does, is found out and not guessed at.
"""

from __future__ import annotations

import re
from itertools import islice

import msgspec

Place = tuple[int, int]

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode

_SPACE = re.compile(rb"[ \t\n\r]*+")
_KEY = re.compile(rb'[ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*+:[ \t\n\r]*+')
_NEXT = re.compile(rb"[ \t\n\r]*+([,\]}])")
_TOKEN = re.compile(rb',|"[^"\\]*+(?:\\.[^"\\]*+)*+"')


class Odd(Exception):
    """Not a shape that is read here; whoever asked leaves it as it is."""


def items(raw: bytes, place: Place, most: int = 1_000_000) -> list[Place]:
    """The elements of the array at `place`. Raises Odd where there is none or it has more than `most`, and
    msgspec.DecodeError or RecursionError where it is not valid JSON."""
    start, end = place
    if raw[start : start + 1] != b"[":
        raise Odd
    values = _decode_list(memoryview(raw)[start:end])
    if len(values) > most:
        raise Odd
    at, found = start + 1, []
    for value in values:
        at = _end_of(_SPACE, raw, at)
        found.append((at, _value_end(raw, at, value)))
        at = _end_of(_NEXT, raw, found[-1][1])
    return found


def members(raw: bytes, place: Place) -> dict[str, Place]:
    """The values of the object at `place` by key, in order. Raises as `items`, and Odd for a key given twice."""
    start, end = place
    if raw[start : start + 1] != b"{":
        raise Odd
    values = _decode_object(memoryview(raw)[start:end])
    at, found = start + 1, dict[str, Place]()
    while len(found) < len(values):
        match = _KEY.match(raw, at)
        if match is None:
            raise Odd
        key = _decode_string(match[1])
        if key in found or key not in values:
            raise Odd
        found[key] = (match.end(), _value_end(raw, match.end(), values[key]))
        at = _end_of(_NEXT, raw, found[key][1])
    if values and at != end:
        raise Odd
    return found


def string(raw: bytes, place: Place | None) -> str | None:
    """What the string at `place` says; None where something else stands there, or nothing."""
    if place is None or raw[place[0]] != 0x22:
        return None
    return _decode_string(memoryview(raw)[place[0] : place[1]])


def is_null(raw: bytes, place: Place | None) -> bool:
    return place is None or raw[place[0]] == 0x6E


def exceeds(raw: bytes, most: int) -> bool:
    """Whether there are more than `most` strings and separating commas. Cheap where there are few commas at all."""
    if raw.count(b",") <= most // 4:
        return False
    return sum(1 for _ in islice(_TOKEN.finditer(raw), most + 1)) > most


def _end_of(pattern: re.Pattern[bytes], raw: bytes, at: int) -> int:
    match = pattern.match(raw, at)
    if match is None:
        raise Odd
    return match.end()


def _value_end(raw: bytes, at: int, value: msgspec.Raw) -> int:
    end = at + memoryview(value).nbytes
    if raw.find(value, at, end) != at:
        raise Odd
    return end
