"""The documents in a text, and what of it is the user's instruction: everything that is surely nothing else.

A false document is damage and a missed one only a saving less, so every form here must be announced by its author.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .asides import asides, without_requests
from .block import Block as Block
from .block import BlockKind, Page
from .deadline import Deadline
from .document_records import records, values
from .document_runs import announced_chunks, chunks, contexts, numbered, ruled_off, sections
from .document_tags import block, elements, items

Ranges = list[tuple[int, int]]

LEAST_TEXT = 200  # characters; a shorter text has no documents worth finding
LEAST_JSON = 256  # bytes; a shorter value is an example as likely as data

_HINT = re.compile(r"</|\d|[{:：#-]")
_WINDOW = 8_192  # characters: a search holds the interpreter to its end, and other requests wait for it
_WORD = 256  # characters behind a window that a word begun in it may go on in
_ABOUT_FORM = re.compile(
    r"(?<!\w)(?:re-?format\w*|format\w*|indent\w*|white-?spaces?|spaces?|spacing|tabs?|newlines?|pretty\w*|prettif\w*|"
    r"exact\w*|verbatim|literal\w*|bytes?|characters?|hash\w*|sha-?\d*|md5|checksums?|lines?|columns?|diffs?|patch\w*|"
    r"lint\w*|minif\w*|serial\w*|quot(?:e|es|ed|ing)|einr\w*|leerzeichen|zeilen?|wörtlich|genau\w*|formatier\w*)(?!\w)"
    r"|格式|缩进|空格|逐字|原样|字节|哈希|行号|第\s?\d+\s?行",
    re.IGNORECASE,
)


def blocks(text: str, deadline: Deadline | None = None) -> tuple[Block, ...]:
    """The documents in `text`, in order, none inside another. Raises OutOfTime."""
    if len(text) < LEAST_TEXT or _HINT.search(text) is None:
        return ()
    return _blocks(Page(text, deadline))


def instruction(text: str, found: Iterable[Block]) -> Ranges:
    """All that stands outside the documents: no tier may change it."""
    return _around(0, len(text), [(one.start, one.end) for one in found])


def data_ranges(text: str, deadline: Deadline | None = None) -> Ranges:
    """What of a user's text is data: documents, and JSON values of at least LEAST_JSON bytes on lines of their own.

    None of it where the rest of the text speaks of form (indentation, lines, bytes, exactness): then the form is asked
    about. Raises OutOfTime.
    """
    if len(text) < LEAST_TEXT or _HINT.search(text) is None:
        return []
    page = Page(text, deadline)
    found = [(one.start, one.end) for one in _blocks(page)]
    large = (
        (start, end)
        for start, end, _ in values(page, 0, len(page.starts))
        if end - start >= LEAST_JSON or len(text[start:end].encode("utf-8", "replace")) >= LEAST_JSON
    )
    ranges = _merged([*found, *large])
    about = (text[start:end] for start, end in _around(0, len(text), ranges))
    return [] if any(_speaks_of_form(said, page) for said in about) else ranges


def _speaks_of_form(said: str, page: Page) -> bool:
    """`_ABOUT_FORM.search` in windows, with a look at the clock before each."""
    for at in range(0, len(said), _WINDOW):
        page.check()
        found = _ABOUT_FORM.search(said, at, at + _WINDOW + _WORD)
        if found is not None and found.start() < at + _WINDOW:
            return True
    return False


def _blocks(page: Page) -> tuple[Block, ...]:
    found: list[Block] = []
    top = elements(page)
    for element in top:
        documents = items(element)
        made = [one for one in (block(page, item) for item in documents) if one is not None]
        found += made or _inside(page, element.inner, element.outer, "tag") if not documents else made
    for start, end in _around(0, len(page.text), [(e.start, e.end) for e in top]):
        first, last = _whole_lines(page, start, end)
        found += _untagged(page, first, last)
    return tuple(sorted(found, key=lambda one: one.start))


def _untagged(page: Page, first: int, last: int) -> list[Block]:
    """Sections first, then a context with its question, then what is announced line by line."""
    claimed: Ranges = []
    found: list[Block] = []
    for start, stop in sections(page, first, last):
        page.check()
        found += _inside(page, page.start(start), page.start(stop), "section")
        claimed.append((start, stop))
    for a, b in _around(first, last, claimed):
        for line, start, stop in contexts(page, a, b):
            found += _inside(page, start, page.start(stop), "context")
            claimed.append((line, stop))
    for a, b in _around(first, last, _merged(claimed)):
        for start, stop in ruled_off(page, a, b):
            found += _inside(page, page.start(start), page.start(stop), "context")
            claimed.append((start, stop))
    for a, b in _around(first, last, _merged(claimed)):
        found += numbered(page, a, b) or announced_chunks(page, a, b) or records(page, a, b)
    return found


def _inside(page: Page, start: int, end: int, kind: BlockKind) -> list[Block]:
    """The documents in a range that is known to hold some: those announced in it, or all of it as one."""
    first, last = _whole_lines(page, start, end)
    if kind != "tag":  # where it ends is only known by what follows
        end = min(end, max(start, page.start(without_requests(page, first, last))))
        first, last = _whole_lines(page, start, end)
    found = numbered(page, first, last) or records(page, first, last) or chunks(page, first, last)
    if found:
        return found
    if kind == "tag":
        start, end = page.trimmed(start, end)
        return [Block(start, end, kind, "", start, end)] if start < end else []
    lines = [(page.start(line), page.start(line + 1)) for line in asides(page, first, last)]
    pieces = [page.trimmed(a, b) for a, b in _around(start, end, lines)]
    long = sum(b - a for a, b in pieces) >= LEAST_TEXT
    return [Block(a, b, kind, "", a, b) for a, b in pieces if a < b] if long else []


def _whole_lines(page: Page, start: int, end: int) -> tuple[int, int]:
    """The numbers of the lines that begin in the range, if nothing but space stands before its first."""
    first, last = page.line_of(start), page.line_of(max(start, end - 1)) + 1
    if page.text[page.start(first) : start].strip():
        first += 1
    if page.text[end : page.start(last)].strip():
        last -= 1
    return first, max(first, last)


def _around(start: int, end: int, claimed: Iterable[tuple[int, int]]) -> Ranges:
    """What is left of a range."""
    out, at = [], start
    for first, last in sorted(claimed):
        if first > at:
            out.append((at, first))
        at = max(at, last)
    return [*out, (at, end)] if at < end else out


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    out: Ranges = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out
