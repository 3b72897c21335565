"""Walks a text line by line and cuts it into units; it knows the constructs of `layout.py`, and prose."""

from __future__ import annotations

from collections.abc import Callable

from . import layout
from .deadline import Deadline
from .sentences import sentences
from .unit import Unit, UnitKind

_TABLE_ROWS = 4  # lines with the same number of separators that make a table without a rule under its head
_CHECK_EVERY = 64  # steps between two looks at the clock


class Cutter:
    """Walks a text line by line; each construct takes the lines that belong to it and gives back the next line."""

    def __init__(
        self, text: str, start: int, end: int, document: int, heading: str, first: int, deadline: Deadline | None
    ) -> None:
        self.text, self.start, self.end = text, start, end
        self.document, self.title, self.first = document, heading, first
        self.deadline = deadline
        self.found: list[Unit] = []
        self.lines = _lines(text, start, end)
        self.sections: list[tuple[int, int, str]] = []  # level, index of the unit, title
        self.no_table_before = 0
        self.steps = 0
        # In this order: a fence may hold anything, and a rule under a head tells a table from a list of names.
        self.constructs: tuple[Callable[[int], int], ...] = (
            self._fence,
            self._heading,
            self._hunks,
            self._log,
            self._ruled_table,
            self._items,
            self._values,
            self._indented,
        )

    def run(self) -> None:
        """Cut all of it. Raises OutOfTime."""
        at = 0
        while at < len(self.lines):
            at = self._step(at)

    def _step(self, at: int) -> int:
        self._check()
        if not self._line(at).strip():
            return at + 1
        for construct in self.constructs:
            after = construct(at)
            if after > at:
                return after
        return self._paragraph(at)

    def _check(self) -> None:
        self.steps += 1
        if self.deadline is not None and self.steps % _CHECK_EVERY == 0:
            self.deadline.check()

    def _line(self, at: int) -> str:
        begin, end = self.lines[at]
        return self.text[begin:end]

    def _blank(self, at: int) -> bool:
        return at >= len(self.lines) or not self._line(at).strip()

    def add(self, start: int, end: int, kind: UnitKind, parent: int | None = None) -> int:
        """Add what stands there, without the white space around it; its index in the caller's list."""
        self._check()
        while start < end and self.text[start].isspace():
            start += 1
        while end > start and self.text[end - 1].isspace():
            end -= 1
        if start < end:
            titles = [self.title, self.sections[-1][2] if self.sections else ""]
            under = self.sections[-1][1] if parent is None and self.sections else parent
            heading = " / ".join(title for title in titles if title)
            self.found.append(Unit(self.text[start:end], heading, self.document, start, end, kind, parent=under))
        return self.first + len(self.found) - 1

    def _add_lines(self, at: int, after: int, kind: UnitKind, parent: int | None = None) -> int:
        return self.add(self.lines[at][0], self.lines[after - 1][1], kind, parent)

    # Constructs: each takes a line's index and gives back the index after it, the same one if it is not there.

    def _fence(self, at: int) -> int:
        opening = layout.FENCE.match(self._line(at))
        if opening is None:
            return at
        mark, after = opening.group(1), at + 1
        while after < len(self.lines):
            line = self._line(after).strip()
            after += 1
            if line.startswith(mark) and not line.strip(mark[0]):
                break
        self._add_lines(at, after, "code")
        return after

    def _heading(self, at: int) -> int:
        line = self._line(at)
        hashes = layout.HEADING.match(line)
        if hashes is None and not layout.BOLD_HEADING.match(line):
            return at
        level = len(hashes.group(1)) if hashes else 7
        while self.sections and self.sections[-1][0] >= level:
            self.sections.pop()
        index = self._add_lines(at, at + 1, "heading")
        self.sections.append((level, index, line.strip("#* \t:\r")[:200]))
        return at + 1

    def _hunks(self, at: int) -> int:
        """A diff: each hunk is one unit under its file's header."""
        line = self._line(at)
        if not (layout.HUNK.match(line) or (layout.DIFF.match(line) and self._is_diff(at))):
            return at
        parent, begin = None, at
        after = at
        while after < len(self.lines) and layout.DIFF.match(self._line(after)):
            after += 1
            while after < len(self.lines) and not self._blank(after) and not layout.HUNK.match(self._line(after)):
                after += 1
        if after > begin:
            parent = self._add_lines(begin, after, "heading")
        while after < len(self.lines) and layout.HUNK.match(self._line(after)):
            begin, after = after, after + 1
            while after < len(self.lines) and self._line(after)[:1] in ("+", "-", " ", "\\"):
                if self._line(after).startswith("--- ") and self._is_diff(after):
                    break
                after += 1
            self._add_lines(begin, after, "code", parent)
        return after

    def _is_diff(self, at: int) -> bool:
        """Whether a hunk begins within the header's few lines."""
        return any(layout.HUNK.match(self._line(i)) for i in range(at + 1, min(at + 8, len(self.lines))))

    def _log(self, at: int) -> int:
        """One entry with the lines that go on with it, such as a stack trace."""
        if not layout.LOG.match(self._line(at)):
            return at
        after = at + 1
        while after < len(self.lines) and layout.LOG_GOES_ON.match(self._line(after)):
            if layout.LOG.match(self._line(after)):
                break
            after += 1
        self._add_lines(at, after, "line")
        return after

    def _ruled_table(self, at: int) -> int:
        """A Markdown table: its head and the rule under it stay where a row does."""
        if at + 1 >= len(self.lines) or "|" not in self._line(at) or not layout.table_rule(self._line(at + 1)):
            return at
        head = self._add_lines(at, at + 2, "heading")
        after = at + 2
        while after < len(self.lines) and "|" in self._line(after):
            self._add_lines(after, after + 1, "row", head)
            after += 1
        return after

    def _values(self, at: int) -> int:
        """Lines of separated values: the first stays where another does."""
        if at < self.no_table_before:
            return at
        shape = layout.separators(self._line(at))
        after = at + 1
        while shape is not None and after < len(self.lines) and layout.separators(self._line(after)) == shape:
            after += 1
        if after - at < _TABLE_ROWS:
            self.no_table_before = after
            return at
        head = self._add_lines(at, at + 1, "heading")
        for row in range(at + 1, after):
            self._add_lines(row, row + 1, "row", head)
        return after

    def _items(self, at: int) -> int:
        """A list; an item takes the lines that go on with it, and stands under the one that it is indented below."""
        if not layout.ITEM.match(self._line(at)):
            return at
        lead = self._lead()
        outer: list[tuple[int, int]] = []  # indentation, index
        after = at
        while after < len(self.lines) and (item := layout.ITEM.match(self._line(after))) is not None:
            begin, after = after, after + 1
            while not self._blank(after) and not layout.ITEM.match(self._line(after)) and self._goes_on(after):
                after += 1
            indent = len(item.group(1).expandtabs(4))
            while outer and outer[-1][0] >= indent:
                outer.pop()
            index = self._add_lines(begin, after, "item", outer[-1][1] if outer else lead)
            outer.append((indent, index))
            if self._blank(after) and not self._blank(after + 1) and layout.ITEM.match(self._line(after + 1)):
                after += 1
        return after

    def _goes_on(self, at: int) -> bool:
        line = self._line(at)
        return not (layout.HEADING.match(line) or layout.FENCE.match(line))

    def _lead(self) -> int | None:
        """The sentence just before a list that leads up to it ("You need:")."""
        last = self.found[-1] if self.found else None
        leads = last is not None and last.kind == "sentence" and last.text.endswith((":", "："))
        return self.first + len(self.found) - 1 if leads else None

    def _indented(self, at: int) -> int:
        """Code that is indented rather than fenced."""
        if not layout.INDENTED.match(self._line(at)) or (at > 0 and not self._blank(at - 1)):
            return at
        after = at + 1
        while after < len(self.lines) and layout.INDENTED.match(self._line(after)):
            after += 1
        if all(layout.LONG_SENTENCE.match(self._line(i)) for i in range(at, after)):
            return at  # a template's indentation
        self._add_lines(at, after, "code")
        return after

    def _paragraph(self, at: int) -> int:
        """Prose: sentences, over line ends where the lines were wrapped. Keys with values: one unit for all of them."""
        after = at + 1
        while not self._blank(after) and not self._special(after):
            after += 1
        keys = sum(1 for i in range(at, after) if layout.KEY_VALUE.match(self._line(i)))
        if after - at >= 3 and keys * 5 >= (after - at) * 3:
            self._add_lines(at, after, "line")
            return after
        begin = at
        for i in range(at + 1, after + 1):
            if i == after or not _wrapped(self._line(i - 1), self._line(i)):
                for start, end in sentences(self.text, self.lines[begin][0], self.lines[i - 1][1]):
                    self.add(start, end, "sentence")
                begin = i
        return after

    def _special(self, at: int) -> bool:
        line = self._line(at)
        tests = (layout.FENCE, layout.HEADING, layout.BOLD_HEADING, layout.LOG, layout.ITEM, layout.HUNK)
        return any(test.match(line) for test in tests) or ("|" in line and self._ruled_at(at))

    def _ruled_at(self, at: int) -> bool:
        return at + 1 < len(self.lines) and layout.table_rule(self._line(at + 1))


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The lines as offsets, line ends left out."""
    found = []
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        found.append((start, stop))
        start = stop + 1
    return found


def _wrapped(line: str, following: str) -> bool:
    """Whether a sentence may run over this line's end: the line was filled, or a small letter follows."""
    if following.lstrip()[:1].islower():
        return len(line) >= 30 or not line.rstrip().endswith((".", "!", "?", ":"))
    return 60 <= len(line.rstrip()) <= 120 and not line.rstrip().endswith((".", "!", "?", ":", ";"))
