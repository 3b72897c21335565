"""What must be the same before and after: each difference is a violation, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_FENCE = re.compile(r"```[^\n]*\n.*?\n```", re.DOTALL)
_KEPT = re.compile(r'https?://[^\s",\\]+|\d+(?:\.\d+)?|\b(?:not|never|no|must|unless|without)\b|n\'t\b')


def violations(
    before: bytes, after: bytes, instructions: list[str], fences: list[str], lossless: bool
) -> Iterator[str]:
    """`lossless`: nothing may be lost at all. Otherwise what is left of a result must stand in it word for word."""
    old, new = _parse(before), _parse(after)
    if list(old) != list(new):
        yield f"the fields are {list(new)}, not {list(old)}"
        return
    for name in old:
        if name != "messages" and old[name] != new[name]:
            yield f"the field {name} has another value"
    yield from _messages(old["messages"], new["messages"], lossless)
    everything = "\n".join(text for message in new["messages"] for text in _texts(message))
    yield from (f"the instruction {text!r} is gone" for text in instructions if text not in everything)
    yield from (f"the code {text[:40]!r} is changed" for text in fences if text not in everything)


def _messages(old: list[Any], new: list[Any], lossless: bool) -> Iterator[str]:
    if [message["role"] for message in old] != [message["role"] for message in new]:
        yield "the roles are others"
        return
    everything = "\n".join(text for message in new for text in _texts(message))
    frozen = max((i for i, message in enumerate(old) if '"cache_control":' in json.dumps(message)), default=-1)
    for i, (a, b) in enumerate(zip(old, new, strict=True)):
        if {**a, "content": 0} != {**b, "content": 0}:
            yield f"message {i}: something besides the content is changed"
        if (a["role"] not in ("tool", "user") or i <= frozen) and a["content"] != b["content"]:
            yield f"message {i}: {a['role']} text is changed"
        before, after = _texts(a), _texts(b)
        if len(before) != len(after):
            yield f"message {i}: {len(after)} texts, not {len(before)}"
            continue
        for x, y in zip(before, after, strict=True):
            yield from (f"message {i}: {complaint}" for complaint in _text(x, y, lossless, everything))


def _text(old: str, new: str, lossless: bool, everything: str) -> Iterator[str]:
    """`everything`: all the texts of the request, since a block may be said once and referred to afterwards."""
    if old == new:
        return
    if len(new) > len(old):
        yield "the text has grown"
    value = _value(old)
    if value is not _NONE:
        after = _value(new)
        if after is _NONE:
            yield "was JSON and is none any more"
        elif lossless and after != value:
            yield "the JSON has another value"
        return
    for fence in _FENCE.findall(old) if lossless else ():
        if fence not in new:
            yield f"the code {fence[:40]!r} is changed"
    if lossless:
        lost = set(_KEPT.findall(_spelt(old))) - set(_KEPT.findall(_spelt(everything)))
        if lost:
            yield f"{sorted(lost)[:5]} are gone"
        words = set(_spelt(old).split()) - set(_spelt(everything).split())
        if words and not any(mark in old for mark in "{["):
            yield f"words are gone: {sorted(words)[:5]}"


def _spelt(text: str) -> str:
    """Without escapes: a letter may be written either way in JSON."""
    return re.sub(r"\\u[0-9a-fA-F]{4}", lambda match: chr(int(match[0][2:], 16)), text)


class _None:
    pass


_NONE = _None()


def _value(text: str) -> Any:
    """The value of a text that is one JSON array or object, numbers as spelt; `_NONE` for any other text."""
    if text.lstrip()[:1] not in ("{", "["):
        return _NONE
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return _NONE


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _parse(text: str | bytes) -> Any:
    """JSON with its numbers as spelt and its objects' keys in order, duplicates too."""
    return json.loads(
        text,
        parse_int=lambda s: ("number", s),
        parse_float=lambda s: ("number", s),
        parse_constant=_refuse,
        object_pairs_hook=_Pairs,
    )


class _Pairs(dict[str, Any]):
    """An object that remembers the order of its keys when it is compared."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs

    def __eq__(self, other: object) -> bool:
        return self.pairs == other.pairs if isinstance(other, _Pairs) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _texts(message: Any) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]
