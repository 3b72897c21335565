"""Bodies with half of a surrogate pair as an escape (`"\\ud83d"` alone): JSON by its grammar, though no text.

A program that cuts a text inside a character writes such a one; Python, JavaScript and most servers read it, msgspec
does not. Here is the slower way for these bodies alone. Their bytes stay as they are; where a value is asked for, each
half reads as U+FFFD, so nobody is handed a string that cannot be encoded. In every other respect msgspec's word stands
on what is JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")

_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_OPENS = re.compile(r"[ \t\n\r]*+\{[ \t\n\r]*+")
_GAP = re.compile(r"[ \t\n\r]*+[:,]?[ \t\n\r]*+")

_check = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
# Numbers are not looked at, and reading a very long one would cost more than a little.
_scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def masked(raw: bytes) -> bytes | None:
    """The same JSON with U+FFFD for each lone surrogate, as long as before; None where there is none."""
    if b"\\u" not in raw or b"\0" in raw:  # a NUL is no JSON, and serves as a mark below
        return None
    # With the escaped backslashes out of the way, each one that is left begins an escape.
    plain, count = _LONE.subn(rb"\\ufffd", raw.replace(b"\\\\", b"\0\0"))
    return plain.replace(b"\0\0", b"\\\\") if count else None


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    """What the decoder makes of it, each half as U+FFFD. Raises what the decoder raises."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        readable = masked(bytes(raw))
        if readable is None:
            raise
        return decoder.decode(readable)


def members(body: bytes) -> list[tuple[str, msgspec.Raw]] | None:
    """Each name and value of a JSON object with lone surrogates, in order, also of a name given twice; names hold them
    as Python's surrogates, values as their own bytes.

    None where lone surrogates are not all that msgspec refuses about it. Raises RecursionError.
    """
    readable = masked(body)
    if readable is None:
        return None
    try:
        _check(readable)
        text = body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    found: list[tuple[str, msgspec.Raw]] = []
    at = _after(_OPENS, text, 0)
    while text[at] != "}":
        name, end = _scan(text, at)
        at = _after(_GAP, text, end)
        _, end = _scan(text, at)
        found.append((name, msgspec.Raw(text[at:end].encode())))
        at = _after(_GAP, text, end)
    return found


def object_of(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """The JSON object of these fields, whose names may hold lone surrogates."""
    return b"{%s}" % b",".join(b"%s:%s" % (json.dumps(name).encode(), bytes(raw)) for name, raw in fields.items())


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
