"""Tools that begin alike: what several descriptions say word for word is said once.

Generated tool sets repeat an introduction in every description ("This tool belongs to the file system, which ...").
Here the first tool keeps it, and the ones that follow say "As above: " (or "As in NAME: " where others stand between)
and go on with what is their own. `expand` gives the descriptions back, which is checked before anything leaves. Of the
schemas goes what says nothing (tool_schema.py); nothing else of a tool changes. Other than whitespace, a model does see
this: a tenant opts in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ..protocol.exchange import Part
from ..protocol.tokens import estimate
from .deadline import Deadline
from .tool_schema import tidy

_LEAST = 48  # characters of a beginning that is worth a reference
_ABOVE = "As above: "
_REFERENCE = re.compile(r"As (?:above|in [^:]{1,200}): ")
_SCHEMAS = ("parameters", "input_schema")
_BOUNDARY = re.compile(r"[.:;!?] ")

_tools = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def share(raw: bytes, deadline: Deadline) -> tuple[bytes, Part] | None:
    """The `tools` field with shared beginnings said once, and what that saved; None where there is nothing to share.

    Causal in the order of the tools: a tool added at the end changes none before it.
    """
    try:
        tools = _tools.decode(raw)
        described = [_described(tool) for tool in tools]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    names = [name for name, _ in described]
    before = [description for _, description in described]
    after = shorten(names, before, deadline)
    if expand(names, after, before) != before:
        return None
    try:
        out = [_changed(tool, old, new, deadline) for tool, old, new in zip(tools, before, after, strict=True)]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    changed = [(_encode(old), _encode(new)) for old, new in zip(tools, out, strict=True) if new is not old]
    if not changed:
        return None
    saved = sum(estimate(old.decode()) - estimate(new.decode()) for old, new in changed)
    return _encode(out), Part("shared tool introductions", "tools", tokens=saved, count=len(changed))


def shorten(names: Sequence[str], descriptions: Sequence[str], deadline: Deadline | None = None) -> list[str]:
    """Each description, with a beginning that an earlier one has too replaced by a reference to that one.

    The reference leads to the tool that says the beginning in full, over "As above" from one to the next.
    """
    out: list[str] = []
    heads: list[int] = []  # the tools that speak for themselves
    above: tuple[int, int] | None = None  # the head of the tool before, and how much of its beginning was meant
    for i, description in enumerate(descriptions):
        if deadline is not None:
            deadline.check()
        head, length = _nearest(descriptions, heads, description)
        if length < _LEAST:
            out.append(description)
            if description and not _REFERENCE.match(description):
                heads.append(i)
            above = None
            continue
        reference = _ABOVE if head == i - 1 or above == (head, length) else f"As in {names[head]}: "
        rest = description[length:]
        if not rest or len(reference) + 8 > length or _REFERENCE.match(rest):
            out.append(description)
            above = None
            continue
        out.append(reference + rest)
        above = (head, length)
    return out


def expand(names: Sequence[str], shortened: Sequence[str], originals: Sequence[str]) -> list[str]:
    """What `shorten` was given, from what it made: each reference resolved against the descriptions before it.

    How much of the beginning a reference means is taken from `originals`; that it is the same text is what is proved.
    """
    out: list[str] = []
    head = -1
    for i, (text, original) in enumerate(zip(shortened, originals, strict=True)):
        match = _REFERENCE.match(text)
        if text == original or match is None:
            out.append(text)
            head = -1
            continue
        if match[0] != _ABOVE:
            head = list(names).index(match[0][6:-2])
        elif head < 0:
            head = i - 1
        rest = text[match.end() :]
        out.append(out[head][: len(original) - len(rest)] + rest)
    return out


def _nearest(descriptions: Sequence[str], heads: Sequence[int], description: str) -> tuple[int, int]:
    """The head with the longest common beginning, the latest of equals, and its length; (-1, 0) without one."""
    best = (-1, 0)
    for head in heads[-64:]:
        length = _common(descriptions[head], description)
        if length >= best[1] and length:
            best = (head, length)
    return best


def _common(a: str, b: str) -> int:
    """Length of the common beginning of two texts, cut behind the last punctuation and space in it."""
    if a[:_LEAST] != b[:_LEAST]:
        return 0
    low, high = _LEAST, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    ends = [match.end() for match in _BOUNDARY.finditer(a, 0, low)]
    return ends[-1] if ends else 0


def _described(tool: dict[str, msgspec.Raw]) -> tuple[str, str]:
    """A tool's name and description ("" where there is none), nested under `function` or not."""
    inner = _fields.decode(tool["function"]) if "function" in tool else tool
    name = _text.decode(inner["name"]) if "name" in inner else ""
    description = inner.get("description")
    return name, "" if description is None or bytes(description) == b"null" else _text.decode(description)


def _changed(tool: dict[str, msgspec.Raw], old: str, new: str, deadline: Deadline) -> dict[str, msgspec.Raw]:
    """A tool with its new description and a tidy schema; the same object where nothing changes. Raises OutOfTime."""
    deadline.check()
    inner = _fields.decode(tool["function"]) if "function" in tool else tool
    fields = dict(inner)
    if new != old:
        fields["description"] = msgspec.Raw(_encode(new))
    for name in _SCHEMAS:
        # A strict schema has to name what is required, also where that is nothing.
        if name in inner and bytes(inner.get("strict", b"")) != b"true":
            fields[name] = msgspec.Raw(tidy(bytes(inner[name])))
    if all(bytes(fields[name]) == bytes(value) for name, value in inner.items()):
        return tool
    return {**tool, "function": msgspec.Raw(_encode(fields))} if "function" in tool else fields
