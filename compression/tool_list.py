"""The tools of a request: where each stands, what it says of itself, and the list without some of them.

Knows nothing of questions, or of which tools should go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from .json_places import Odd, Place, items

_DEEPEST = 5
_JOINTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_./-]")

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool; `place` is its byte range. A provider's own has no name."""

    place: Place
    name: str
    description: str
    parameters: str


def read(raw: bytes) -> list[Tool]:
    """The tools in order; none where the field is not what it should be."""
    try:
        return [_tool(raw, place) for place in items(raw, (0, len(raw)))]
    except (Odd, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _tool(raw: bytes, place: Place) -> Tool:
    value = _decode(memoryview(raw)[place[0] : place[1]])
    if not isinstance(value, dict):
        raise Odd
    inner = value.get("function", value)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        return Tool(place, "", "", "")
    description = inner.get("description")
    return Tool(place, name, description if isinstance(description, str) else "", parameters_text(inner))


def parameters_text(function: Mapping[str, Any]) -> str:
    """Names, descriptions and values of a function's parameters."""
    return " ".join(_words_of(function.get("parameters"), 0))


def apart(name: str) -> str:
    """A name's words: `getUserName`, `get_user.name` -> get User Name, get user name."""
    return _JOINTS.sub(" ", name)


def _words_of(schema: Any, depth: int) -> Iterator[str]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or depth > _DEEPEST:
        return
    for name, inner in properties.items():
        yield apart(name)
        if isinstance(inner, dict):
            yield str(inner.get("description", ""))
            values = inner.get("enum")
            yield " ".join(map(str, values[:50])) if isinstance(values, list) else ""
            yield from _words_of(inner, depth + 1)


def spliced(raw: bytes, places: Sequence[Place], stays: Sequence[bool]) -> bytes:
    """The array without some elements: what stood before a kept one still does, but for the first."""
    out: list[bytes] = [raw[: places[0][0]]]
    first = True
    for i, (start, end) in enumerate(places):
        if stays[i]:
            out += [b"" if first else raw[places[i - 1][1] : start], raw[start:end]]
            first = False
    return b"".join([*out, raw[places[-1][1] :]])
