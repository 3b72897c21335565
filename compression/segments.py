"""What a text is made of, line by line: code, JSON, values, markup, logs, diffs, tables, lists, headings, prose.

A tier that takes words out may touch prose and nothing else, so what looks like two things is not called prose.
Segments are whole lines with their line breaks, and cover the text without a gap. Documents are found elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from . import layout
from .block import Page
from .deadline import Deadline
from .document_records import values
from .fences import fences

SegmentKind = Literal["code", "json", "csv", "markup", "log", "diff", "table", "list", "heading", "prose", "blank"]
_ROWS = 3  # lines alike before they are rows of values, or settings
_LONG = 2000  # characters of a line that are looked at
_MARKUP = re.compile(r"[ \t]*</?[A-Za-z!?][^<>]{0,400}>")
_DIFF_GOES_ON = ("index ", "--- ", "+++ ", "===", "new file", "deleted file", "old mode", "similar", "@@ -")
_IN_DIFF = (" ", "+", "-", "@", "\\", "diff --git ", "index ", "Index: ", "===", "new file", "deleted file", "similar")


@dataclass(frozen=True, slots=True)
class Segment:
    """`text[start:end]` is of one kind; offsets are characters."""

    kind: SegmentKind
    start: int
    end: int


def segments(text: str, deadline: Deadline | None = None) -> tuple[Segment, ...]:
    """The segments of `text`, in order. Linear in it. Raises OutOfTime."""
    deadline = deadline or Deadline(math.inf)
    page = Page(text, deadline)
    whole = [Segment("code", start, end) for start, end in fences(text, deadline)]
    whole += [Segment("json", start, end) for start, end, _ in values(page, 0, len(page.starts))]
    lines: list[Segment] = []
    at = 0
    for one in sorted(whole, key=lambda one: one.start):
        start, end = page.start(page.line_of(one.start)), page.start(page.line_of(one.end - 1) + 1)
        lines += [*_plain(page, at, start), Segment(one.kind, start, end)]
        at = end
    return tuple(_joined([*lines, *_plain(page, at, len(text))]))


def _joined(lines: list[Segment]) -> Iterator[Segment]:
    for _, run in groupby(lines, key=lambda line: line.kind):
        same = [*run]
        yield Segment(same[0].kind, same[0].start, same[-1].end)


def _plain(page: Page, start: int, end: int) -> Iterator[Segment]:
    """The lines of a range without fences and JSON, with what they are by themselves and by their neighbours."""
    first, last = page.line_of(start), page.line_of(end - 1) + 1 if end > start else page.line_of(start)
    lines = [(page.start(n), page.start(n + 1)) for n in range(first, last)]
    said = [page.text[a : min(b, a + _LONG)].rstrip("\r\n") for a, b in lines]
    kinds = _neighbours(page, said, _each(page, said))
    at = 0
    for may_be_code, run in groupby(kinds, key=lambda kind: kind in ("prose", "code")):
        own: list[SegmentKind] = [*run]
        code = may_be_code and ("code" in own or layout.solid(said[at : at + len(own)]))
        for kind, place in zip(own, lines[at : at + len(own)], strict=True):
            yield Segment("code" if code else kind, *place)
        at += len(own)


def _each(page: Page, said: list[str]) -> list[SegmentKind]:
    kinds: list[SegmentKind] = []
    for number, line in enumerate(said):
        if number % 256 == 0:
            page.check()
        kinds.append(_kind(line, kinds[-1] if kinds else "blank", said[number + 1] if number + 1 < len(said) else ""))
    return kinds


def _kind(line: str, before: SegmentKind, after: str) -> SegmentKind:
    """What a line is, given what the one before it is and what the one after it says."""
    if before == "diff" and line.startswith(_IN_DIFF):
        return "diff"
    if not line.strip():
        return "blank"
    if layout.HUNK.match(line) or (layout.DIFF.match(line) and after.startswith(_DIFF_GOES_ON)):
        return "diff"
    if layout.table_rule(line) or layout.table_rule(after) or (before == "table" and "|" in line):
        return "table"
    if layout.LOG.match(line) or (before == "log" and layout.LOG_GOES_ON.match(line)):
        return "log"
    if _MARKUP.match(line) or (before == "markup" and line.rstrip().endswith(">")):
        return "markup"
    if layout.HEADING.match(line) or layout.BOLD_HEADING.match(line):
        return "heading"
    if layout.ITEM.match(line) or (before == "list" and line[0] in " \t"):
        return "list"
    return "code" if layout.INDENTED.match(line) else "prose"


def _neighbours(page: Page, said: list[str], kinds: list[SegmentKind]) -> list[SegmentKind]:
    """Prose lines that are rows of values, or settings, because their neighbours are too."""
    out = kinds[:]
    looks = [_looks(line) if kind in ("prose", "list") else None for line, kind in zip(said, kinds, strict=True)]
    at = 0
    for look, run in groupby(looks):
        count = sum(1 for _ in run)
        if look is not None and count >= _ROWS:
            kind: SegmentKind = "code" if look == ("", 0) else "csv"
            for place in range(at, at + count):
                out[place] = kind
        at += count
    page.check()
    return out


def _looks(line: str) -> tuple[str, int] | None:
    """The separator of a row of values and how many of it; ("", 0) for a setting such as `name: value`."""
    found = layout.separators(line)
    if found is None and len(line) < 200 and layout.KEY_VALUE.match(line):
        return "", 0
    return found
