"""Fenced code in a text: where it is, so that nobody touches it, and what is left around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .deadline import Deadline

Bounds = tuple[int, int]

# Wider than CommonMark: a fence in a list or a quotation is one too, however far it is indented.
_FENCE = re.compile(r"^[ \t>]*+(`{3,}+|~{3,}+)([^\n]*+)", re.MULTILINE)


def fences(text: str, deadline: Deadline) -> list[Bounds]:
    """Fenced blocks as whole lines, both fences included; one that is never closed goes on to the end.
    Raises OutOfTime."""
    if "```" not in text and "~~~" not in text:
        return []
    found: list[Bounds] = []
    start, mark = 0, ""
    for steps, line in enumerate(_FENCE.finditer(text)):
        if steps % 512 == 0:
            deadline.check()
        if not mark:
            start, mark = line.start(), line[1]
        elif line[1][0] == mark[0] and len(line[1]) >= len(mark) and not line[2].strip():
            found.append((start, line.end()))
            mark = ""
    return [*found, (start, len(text))] if mark else found


def outside(text: str, within: Iterable[Bounds], holes: Iterable[Bounds]) -> Iterator[Bounds]:
    """The whole lines of `text` that lie in one of `within` and in none of `holes`; both in order. A range ends before
    the line break that follows it; empty ones are left out."""
    closed = list(holes)
    for start, end in within:
        at = start
        for first, last in closed:
            if last <= at or first >= end:
                continue
            yield from _lines(text, at, first)
            at = last
        yield from _lines(text, at, end)


def _lines(text: str, start: int, end: int) -> Iterator[Bounds]:
    if start > 0 and text[start - 1 : start] != "\n":
        cut = text.find("\n", start, end)
        start = end if cut < 0 else cut + 1
    if end > start and text[end - 1] == "\n":
        end -= 1
    elif end < len(text) and text[end] != "\n":
        end = text.rfind("\n", start, end)
    if end > start:
        yield start, end
