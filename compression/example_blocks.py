"""Few-shot prompts inside one text: repeated blocks such as `Q: … A: …`, the last of which waits for its answer.

Recognised are blocks that open with the same label and hold the same answer's label (or, as chain-of-thought prompts
do, the same line, "Let's think step by step"). A list of records, a transcript or a file of questions that are all
answered is none. This module only says where the blocks are; what to do with them is `demonstrations.py`'s business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .deadline import Deadline


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_LEAST_DEMONSTRATIONS = 3
_MOST_DEMONSTRATIONS = 1_000
_SHORTEST = 200  # characters; nothing shorter holds examples worth a thought
_LINES_TRIED = 40  # of a block, when a line that all blocks share is looked for

_LABEL = re.compile(r"[ \t>*#-]{0,6}([A-Za-z][A-Za-z' /-]{0,30}?) {0,2}#?\d{0,4}[ \t]{0,2}\*{0,2}[:：]\*{0,2}")
_RULE = re.compile(r"[ \t]*([#=*_~-])\1{2,}\s*$")
_HEADING = re.compile(r"\W{0,6}(?:example|sample|demonstration|shot|case|exercise)s? ?#?\d{0,4}\W{0,6}$", re.IGNORECASE)
_ANNOUNCED = re.compile(r"\b(?:examples?|translat\w{0,4}|classif\w{0,7}|convert|few-shot|label)\b", re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(?:```|~~~)")

_SPEAKERS = frozenset(("human", "user", "customer", "student"))
_OPENERS = _SPEAKERS | _words(
    "q question problem exercise task query input text sentence review tweet passage premise statement comment context"
    " prompt instruction word example"
)
_ANSWERS = _words(
    "a answer solution response output label sentiment category class classification result translation summary"
    " target completion intent emotion ai assistant bot agent model teacher"
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the demonstrations stand in a text: character ranges that follow each other without a gap, and where the
    unanswered one begins. `answers` is what each demonstration says behind its answer's label."""

    demonstrations: tuple[tuple[int, int], ...]
    question: int
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Label:
    name: str
    line: int
    end: int  # character offset behind the colon


def blocks(text: str, deadline: Deadline) -> Blocks | None:
    """The demonstrations of a text, or None where it is no few-shot prompt. Raises OutOfTime."""
    if len(text) < _SHORTEST:
        return None
    starts = [0, *(m.end() for m in re.finditer("\n", text))]
    ends = [*(start - 1 for start in starts[1:]), len(text)]
    lines = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    labels = list(_labels(lines, starts, deadline))
    counted = Counter(label.name for label in labels)
    often = [name for name, count in counted.items() if count > _LEAST_DEMONSTRATIONS]  # in order of appearance
    for opener in often[:6]:
        deadline.check()
        own = [label for label in labels if label.name == opener]
        preamble = text[: starts[own[0].line]]
        if opener not in _OPENERS and not _ANNOUNCED.search(preamble[-2000:]):
            continue
        found = _read(text, lines, starts, labels, own)
        if found is not None:
            return found
    return None


def _labels(lines: Sequence[str], starts: Sequence[int], deadline: Deadline) -> Iterator[_Label]:
    fenced = False
    for i, line in enumerate(lines):
        if i % 512 == 0:
            deadline.check()
        if _FENCE.match(line):
            fenced = not fenced
        match = None if fenced else _LABEL.match(line)
        if match is not None:
            yield _Label(match[1].strip().lower(), i, starts[i] + match.end())


def _read(
    text: str, lines: Sequence[str], starts: Sequence[int], labels: Sequence[_Label], own: Sequence[_Label]
) -> Blocks | None:
    """Blocks that begin with the labels `own`; None where they are not alike, or the last one has its answer."""
    if len(own) > _MOST_DEMONSTRATIONS:
        return None
    first = [_with_heading(lines, label.line) for label in own]
    if own[0].name in _SPEAKERS and not all(_set_apart(lines, first[i], own[i].line) for i in range(1, len(own))):
        return None  # a transcript: its turns are history, not examples
    if first[0] == own[0].line:
        first = [label.line for label in own]  # what stands between the blocks ends one, and does not begin the next
    at = [starts[line] for line in first]
    bounds = [*at, len(text)]
    inside = [[label for label in labels if a.line < label.line < b] for a, b in _pairs(own, first, len(lines))]
    answer = _answer_label(own[0].name, inside[:-1])
    if answer is not None:
        places = [next((label.end for label in found if label.name == answer), None) for found in inside]
    else:
        line = _shared_line(lines, [(a.line, b) for a, b in _pairs(own, first, len(lines))][:-1])
        if line is None:
            return None
        places = [_behind(text, bounds[i], bounds[i + 1], line) for i in range(len(own))]
    said = [None if place is None else text[place : bounds[i + 1]].strip() for i, place in enumerate(places)]
    if not all(said[:-1]) or said[-1]:
        return None
    demonstrations = tuple((bounds[i], bounds[i + 1]) for i in range(len(own) - 1))
    return Blocks(demonstrations, bounds[len(own) - 1], tuple(answer or "" for answer in said[:-1]))


def _pairs(own: Sequence[_Label], first: Sequence[int], lines: int) -> list[tuple[_Label, int]]:
    return list(zip(own, [*first[1:], lines], strict=True))


def _with_heading(lines: Sequence[str], line: int) -> int:
    """The line where a block really begins: above its label may stand `###` or `Example 3`, and blank lines."""
    at = line
    while at > 0 and line - at < 4:
        above = lines[at - 1]
        if above.strip() and not _RULE.match(above) and not _HEADING.match(above):
            break
        at -= 1
    while at < line and not lines[at].strip():
        at += 1  # blank lines above it belong to the block before
    return at


def _set_apart(lines: Sequence[str], first: int, label: int) -> bool:
    return first < label or not lines[first - 1].strip() or _RULE.match(lines[first - 1]) is not None


def _answer_label(opener: str, inside: Sequence[Sequence[_Label]]) -> str | None:
    """The label that every demonstration has behind its opener, one that names an answer if there is such."""
    shared = [label.name for label in inside[0] if label.name != opener]
    for found in inside[1:]:
        names = {label.name for label in found}
        shared = [name for name in shared if name in names]
    known = [name for name in shared if name in _ANSWERS]
    return known[0] if known else shared[-1] if shared else None


def _shared_line(lines: Sequence[str], ranges: Sequence[tuple[int, int]]) -> str | None:
    """A line of at least two words that every demonstration has behind its first one."""
    a, b = ranges[0]
    candidates = [line for line in lines[a + 1 : min(b, a + _LINES_TRIED)] if len(line.split()) > 1]
    for line in candidates:
        if all(line in lines[a + 1 : min(b, a + _LINES_TRIED)] for a, b in ranges[1:]):
            return line
    return None


def _behind(text: str, start: int, end: int, line: str) -> int | None:
    at = text.find("\n" + line, start, end)
    return None if at < 0 else at + 1 + len(line)
