"""Runs of the same line, said once with how often it came: `line [repeated 12 times]`.

Only identical lines are folded. Lines that differ in a time or a counter are all kept: each is what a model reads.
`expand` is the inverse. Whether a text may be folded at all (no code, no JSON) is for the caller to know.
"""

from __future__ import annotations

import re
from itertools import groupby, islice
from operator import eq
from typing import Final

from ..protocol.tokens import estimate
from .deadline import Deadline
from .edit import Edit
from .json_text import is_json

_WHAT: Final = "repeated log lines"
_LEAST = 32  # characters saved by one fold
_FOLDED = re.compile(r" \[repeated (\d{1,9}) times\](\r?)\Z")
MARK = re.compile(r" \[repeated \d{1,9} times\]\r?$", re.MULTILINE)


def edits(text: str, deadline: Deadline) -> list[Edit]:
    """Each run of identical lines that is worth folding."""
    lines = text.split("\n")
    if not any(map(eq, lines, islice(lines, 1, None))):
        return []
    found, at = [], 0
    for steps, (line, group) in enumerate(groupby(lines)):
        if steps % 512 == 0:
            deadline.check()
        times = sum(1 for _ in group)
        end = at + times * (len(line) + 1) - 1
        if times > 1 and (new := fold(line, times)) is not None:
            found.append(Edit(at, end, new, _WHAT, estimate(line) * (times - 1) - estimate(new[len(line) :])))
        at = end + 1
    return found


def fold(line: str, times: int) -> str | None:
    """The folded line; None where that is not worth it, or the line is a row, a rule or a value that must stay one."""
    body = line.removesuffix("\r")
    new = f"{body} [repeated {times} times]{line[len(body) :]}"
    if times * (len(line) + 1) - len(new) < _LEAST or not any(map(str.isalnum, body)):
        return None
    return None if row(body) or MARK.search(body) or is_json(body) else new


def expand(folded: str, most: int) -> str | None:
    """The lines that a folded line stands for; None where it is none, or stands for more than `most` characters."""
    mark = _FOLDED.search(folded)
    if mark is None:
        return None
    line, times = folded[: mark.start()] + mark[2], int(mark[1])
    return None if times * (len(line) + 1) - 1 > most else "\n".join([line] * times)


def row(line: str) -> bool:
    """Whether it looks like a row of a table: values between bars, tabs, commas or semicolons without a space."""
    if "\t" in line or line.lstrip().startswith("|"):
        return True
    return any(line.count(mark) > 1 and mark + " " not in line for mark in ",;")
