"""Blocks of lines that the request has said before, each replaced by one line that names where:

    [same 12 lines as in message 4, beginning "2024-03-01 10:00:00 INFO worker started on"]

Messages count from one. A block is a run of whole lines, long enough to be worth it, equal to lines that still stand
in the request as the model will see it; the quoted words are the beginning of its first line, and lead to that line
and no other in the message. `expand` is the inverse.

This module knows nothing of spans; whether a text may lose lines at all is for the caller to know.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from ..protocol.tokens import estimate
from .deadline import Deadline
from .edit import Edit, tokens
from .json_text import is_json
from .log_lines import row

_WHAT: Final = "duplicate blocks"
_LEAST = 200  # characters of a block
_SAVES = 16  # tokens
_LINES = 3  # and its lines, where it is not a whole paragraph
_ANCHOR = 24  # a shorter line is too common to begin a search
_HEAD = 48  # characters quoted
_PLACES = 4  # earlier places of one line that are looked at

_REFERENCE = re.compile(r'^\[same (\d{1,9}) lines? as in message (\d{1,9}), beginning "([^\n]*)"\]$', re.MULTILINE)


class Reference(NamedTuple):
    """What a reference says: how many lines, of which message (counted from zero), and how the first one begins."""

    lines: int
    message: int
    head: str


class _Place(NamedTuple):
    text: int
    line: int


class Lines(NamedTuple):
    """Lines `first` to `last` (not included) of a text; `changeable` is asked only where it matters."""

    first: int
    last: int
    changeable: Callable[[], bool]


class Seen:
    """What a request has said so far, line by line, as the model will see it."""

    def __init__(self) -> None:
        self._texts: list[list[str | None]] = []  # None: the line was replaced
        self._messages: list[int] = []
        self._places: dict[str, list[_Place]] = {}
        self._heads: dict[tuple[int, str], _Place] = {}

    def take(self, message: int, text: str, deadline: Deadline, where: Sequence[Lines] = ()) -> list[Edit]:
        """Read the next text of whole lines. The edits that make its duplicate blocks references, in `where` only."""
        lines: list[str | None] = [*text.split("\n")]
        number = len(self._texts)
        self._texts.append(lines)
        self._messages.append(message)
        found: list[Edit] = []
        index = at = steps = 0
        while index < len(lines):
            line = lines[index] or ""
            steps += 1
            if steps % 512 == 0:
                deadline.check()
            edit = None
            if len(line) >= _ANCHOR and not line.startswith("[same "):
                edit = self._edit(lines, index, _last(where, index), at, deadline) if line in self._places else None
                if edit is None:
                    self._remember(message, line, _Place(number, index))
            if edit is None:
                index, at = index + 1, at + len(line) + 1
                continue
            found.append(edit)
            count = text.count("\n", edit.start, edit.end) + 1
            lines[index : index + count] = [None] * count
            index, at = index + count, edit.end + 1
        return found

    def _remember(self, message: int, line: str, place: _Place) -> None:
        places = self._places.setdefault(line, [])
        if len(places) < _PLACES:
            places.append(place)
        self._heads.setdefault((message, line[:_HEAD]), place)

    def _edit(self, lines: Sequence[str | None], index: int, last: int, at: int, deadline: Deadline) -> Edit | None:
        """The longest block of lines from `index` to `last` that an earlier place can stand for, as an edit at `at`."""
        best, block = "", list[str]()
        for place in self._places[lines[index] or ""] if last > index else ():
            deadline.check()
            message, head = self._messages[place.text], (lines[index] or "")[:_HEAD]
            if self._heads[message, head] != place:
                continue  # the words would lead to another line
            same = self._same(place, lines, index, last)
            if len(same) > len(block) and _worth(same, lines, index):
                block, best = same, reference(len(same), message, head)
        if not block:
            return None
        removed = "\n".join(block)
        saved = tokens(removed) - estimate(best)
        return Edit(at, at + len(removed), best, _WHAT, saved) if saved >= _SAVES else None

    def _same(self, place: _Place, lines: Sequence[str | None], index: int, last: int) -> list[str]:
        """The lines from `index` on that are also there from `place` on, but for blank ones at the end."""
        earlier, block = self._texts[place.text], list[str]()
        end = index if earlier is lines else len(earlier)
        for old in range(place.line, min(end, place.line + last - index)):
            line = earlier[old]
            if line is None or line != lines[index + len(block)] or _whole(line) or line.startswith("[same "):
                break
            block.append(line)
        while block and not block[-1].strip():
            block.pop()
        return block


def _last(where: Sequence[Lines], index: int) -> int:
    """Where the changeable lines around `index` end; 0: it is not in any."""
    at = bisect_right(where, index, key=attrgetter("first")) - 1
    if at < 0 or index >= where[at].last:
        return 0
    return where[at].last if where[at].changeable() else 0


def _worth(block: Sequence[str], lines: Sequence[str | None], index: int) -> bool:
    if sum(map(len, block)) + len(block) < _LEAST:
        return False
    return len(block) >= _LINES or (_edge(lines, index - 1) and _edge(lines, index + len(block)))


def _edge(lines: Sequence[str | None], index: int) -> bool:
    """Whether a paragraph ends here: a blank line, or none."""
    if not 0 <= index < len(lines):
        return True
    line = lines[index]
    return line is not None and not line.strip()


def _whole(line: str) -> bool:
    """Whether a line must stay a line of its own: a row of a table or a JSON value."""
    return row(line) or (line[:1] in ("{", "[") and is_json(line))


def reference(lines: int, message: int, head: str) -> str:
    """`message` counts from zero."""
    return f'[same {lines} line{"s" if lines > 1 else ""} as in message {message + 1}, beginning "{head}"]'


def references(text: str) -> list[Reference]:
    """Every line of a text that reads like a reference, ours or not."""
    if "[same " not in text:
        return []
    return [Reference(int(found[1]), int(found[2]) - 1, found[3]) for found in _REFERENCE.finditer(text)]


def expand(found: Reference, said: str, most: int) -> str | None:
    """The lines that a reference stands for, in what its message said; None where there are none such, or they are
    longer than `most` characters."""
    said, head = "\n" + said, "\n" + found.head
    at = said.find(head)
    while at >= 0 and said[at + 1 : at + 1 + _HEAD].split("\n")[0] != found.head:
        at = said.find(head, at + 1)
    if at < 0:
        return None
    lines = said[at + 1 : at + most + 2].split("\n")[: found.lines]
    block = "\n".join(lines)
    return block if len(lines) == found.lines and len(block) <= most else None
