"""The lossless tier: the same conversation in fewer tokens, with nothing said less or otherwise.

It acts on tool results and on the parts of a user's text that are data (`documents.py`), never on fenced code: JSON
loses the space between its tokens, lines lose their trailing space, repeated log lines and blocks are said once. Every
stage's work is read back by `verify.py` before it counts.

What a tool read out of a file stays as it is: a later edit must find those very bytes.

Pure, causal and idempotent. A text that holds one of our own marks already is left alone, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache

from ..protocol.exchange import Part
from . import duplicates, json_text, layout, log_lines, whitespace
from .deadline import Deadline
from .documents import data_ranges
from .edit import Edit, apply
from .fences import fences, outside
from .proposal import Proposal
from .spans import Conversation, Span
from .verify import Refused, same_json, verify

_LEAST = 64  # characters: there is nothing to save in less
_MOST = 500_000  # characters of one text; a longer one costs more to read than it is worth
_DIFF = re.compile(r"^(?:@@ -\d|diff --git |Index: \S)", re.MULTILINE)
_NUMBERED = re.compile(
    r"^[ \t]*+(\d{1,7})[ \t]*+[:|\u2192\t][^\n]*+\n(?=[ \t]*+(\d{1,7})[ \t]*+[:|\u2192\t])", re.MULTILINE
)
# Tools that give a file's own text, by their names' words: read_file, ViewFile, cat, str_replace_editor.
_FILES = re.compile(
    r"(?:^|_)(?:read|view|cat|open|show|load|print|get)_?(?:text_?)?(?:files?|notebooks?|source|code)(?:_|$)"
    r"|^(?:read|view|cat|open)$|(?:^|_)(?:editor|edit)(?:_|$)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LOOK = 50_000  # characters that tell what a text is


def lossless(conversation: Conversation, deadline: Deadline) -> Proposal:
    """What can be said shorter, verified. Raises OutOfTime."""
    spans = [span for span in conversation.spans if _readable(span)]
    while spans and not _open(spans[-1]):
        spans.pop()
    walk = _Walk(conversation.field, deadline)
    for span in spans:
        deadline.check()
        walk.read(span)
    return walk.proposal


def alone(span: Span, deadline: Deadline) -> str:
    """What the tier makes of a span by itself: all but the references, which hang on what was said before it. Raises
    OutOfTime."""
    if not (_readable(span) and _open(span)) or len(span.text) > _MOST or _marked(span.text):
        return span.text
    try:
        return _Walk("", deadline).pieces(span, [])[0]
    except Refused:
        return span.text


def refers(text: str) -> bool:
    """Whether it holds a reference to what was said before it, or what reads like one."""
    return bool(duplicates.references(text))


def compact_tools(raw: bytes, deadline: Deadline) -> bytes | None:
    """The raw JSON of `tools` without space between its tokens, and with letters for their escapes; equal by value.

    None where nothing is to be gained or it is not JSON that we can read. Raises Refused (verify.py) and OutOfTime.
    """
    if len(raw) > 4 * _MOST:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    compacted = json_text.compact(text)
    if compacted is None:
        return None
    deadline.check()
    short = json_text.spelt_out(compacted, deadline)
    if len(text) - len(short) < json_text.LEAST:
        return None
    if not same_json(text, short, escapes=True):
        raise Refused("tools: the compacted JSON is another")
    return short.encode()


def _readable(span: Span) -> bool:
    """Whether it may be changed, or referred to."""
    return span.kind == "result" or (span.kind == "text" and span.role == "user")


def _open(span: Span) -> bool:
    return span.protected is None and len(span.text) >= _LEAST and not (span.tool and _gives_files(span.tool))


@lru_cache(maxsize=1024)
def _gives_files(tool: str) -> bool:
    return _FILES.search(_CAMEL.sub("_", tool[:200]).lower().replace("-", "_").replace(".", "_")) is not None


class _Walk:
    """One walk over a conversation, in order; it remembers what was said so far as the model will see it."""

    def __init__(self, field: str, deadline: Deadline) -> None:
        self.proposal = Proposal()
        self._field = field
        self._deadline = deadline
        self._seen = duplicates.Seen()
        self._said: dict[int, str] = {}

    def read(self, span: Span) -> None:
        """Rewrite one span, or only take note of what it says."""
        if len(span.text) > _MOST:
            if _open(span):
                self._part(span, "left as it is", why=f"longer than {_MOST:,} characters")
            return
        made: list[Edit] = []
        text = span.text
        if _open(span) and not _marked(text):
            try:
                text = self._rewritten(span, made)
            except Refused as e:
                made, text = [], span.text
                self._part(span, "verifier refused", why=str(e))
        else:
            self._seen.take(span.message, text, self._deadline)
        self._said[span.message] = self._after(span.message, text)
        if made:
            self.proposal.texts[span] = text
            self._report(span, made)

    def _after(self, message: int, text: str) -> str:
        """All that a message says, when `text` comes next."""
        earlier = self._said.get(message)
        return text if earlier is None else f"{earlier}\n{text}"

    def _rewritten(self, span: Span, made: list[Edit]) -> str:
        """The span in fewer words; adds to `made` what was done. Raises Refused."""
        text, where = self.pieces(span, made)
        edits = self._seen.take(span.message, text, self._deadline, where)
        now = self._after(span.message, apply(text, edits))
        return self._checked(
            text, edits, made, lambda message: now if message == span.message else self._said.get(message, "")
        )

    def pieces(self, span: Span, made: list[Edit]) -> tuple[str, list[duplicates.Lines]]:
        """The span with each piece of data in fewer words by itself, and where its data stands then; adds to `made`.
        Raises Refused."""
        out: list[str] = []
        where: list[duplicates.Lines] = []
        at = line = 0
        for start, end in self._data(span):
            between = span.text[at:start]
            piece, plain = self._piece(span.text[start:end], made)
            line += between.count("\n")
            after = line + piece.count("\n")
            where.append(duplicates.Lines(line, after + 1, plain))
            out += [between, piece]
            at, line = end, after
        return "".join([*out, span.text[at:]]), where

    def _data(self, span: Span) -> Iterator[tuple[int, int]]:
        """What of the span may change: whole lines of data, outside fences."""
        data = [(0, len(span.text))] if span.kind == "result" else data_ranges(span.text, self._deadline)
        return outside(span.text, data, fences(span.text, self._deadline) if data else ())

    def _piece(self, text: str, made: list[Edit]) -> tuple[str, Callable[[], bool]]:
        """One piece of data without what it says twice over by itself, and whether its lines may be taken out."""
        compacted = text = self._checked(text, json_text.edits(text, self._deadline), made)
        plain = cache(lambda: _plain(compacted))
        for stage in (whitespace.edits, log_lines.edits):
            edits = stage(text, self._deadline)
            if edits and plain():
                text = self._checked(text, edits, made)
        return text, plain

    def _checked(self, text: str, edits: Sequence[Edit], made: list[Edit], said: Callable[[int], str] = str) -> str:
        """The text with the edits made. Raises Refused."""
        if not edits:
            return text
        after = apply(text, edits)
        verify(text, after, edits, said, self._deadline)
        made += edits
        return after

    def _report(self, span: Span, made: Sequence[Edit]) -> None:
        for what in dict.fromkeys(edit.what for edit in made):
            edits = [edit for edit in made if edit.what == what]
            self._part(span, what, tokens=sum(edit.tokens for edit in edits), count=len(edits))

    def _part(self, span: Span, what: str, *, tokens: int = 0, count: int = 0, why: str | None = None) -> None:
        """`count` is 0 where nothing was changed."""
        where = f"messages[{span.message}]" if self._field == "messages" else self._field
        self.proposal.parts.append(Part(what, where, tokens, count, why))


def _marked(text: str) -> bool:
    """Whether it holds a mark of ours, or what reads like one."""
    return bool("[repeated " in text and log_lines.MARK.search(text)) or refers(text)


def _plain(text: str) -> bool:
    """Whether lines may be folded and lose trailing space: not JSON, code, markup, a diff or a numbered listing."""
    if json_text.is_json(text) or _DIFF.search(text):
        return False
    beginning = text[:_LOOK]
    if any(int(found[2]) == int(found[1]) + 1 for found in _NUMBERED.finditer(beginning)):
        return False
    return not layout.solid(beginning.split("\n", 400)[:400])
