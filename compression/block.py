"""A document in a text, and the page that it is looked for on: the text, its lines, what each line begins with.

Knows the words by which people announce documents; what makes a document of them is said elsewhere.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .deadline import Deadline
from .fences import fences

BlockKind = Literal["tag", "numbered", "section", "context", "chunk", "record"]


@dataclass(frozen=True, slots=True)
class Block:
    """`text[start:end]` is a document with whatever announces it, `text[body_start:body_end]` what it says.

    Of a "record" (a JSON object) the body is the object: it goes or stays whole. `title`: as written, or empty.
    """

    start: int
    end: int
    kind: BlockKind
    title: str
    body_start: int
    body_end: int


_NOUNS = (
    r"(?:search |retrieved |reference |source |relevant |supporting |provided |web )?"
    r"(?:documents?|docs|passages?|sources?|articles?|snippets?|excerpts?|chunks?|paragraphs?|references|"
    r"(?:search |web )results?|retrieved (?:text|results?|information)|knowledge base|evidence|contexts?|"
    r"dokumente?|quellen?|textstellen?|abschnitte?|absätze?|kontexte?|suchergebnisse?|textauszüge?|"
    r"文档|文件|资料|段落|文章|来源|片段|上下文|背景|搜索结果|检索结果|材料)"
)
_ONE = (
    r"(?:document|doc|passage|source|article|snippet|excerpt|chunk|paragraph|context|reference|search result|"
    r"dokument|quelle|abschnitt|absatz|auszug|textstelle|文档|文件|资料|段落|文章|来源|片段)"
)
_ASKS = (
    r"(?:user |the )?(?:questions?|query|q|instructions?|tasks?|answer|a|response|request|user|assistant|note|"
    r"frage|aufgabe|antwort|anweisung|hinweis|问题|提问|任务|回答|答案|指令|要求)"
)

CUE = re.compile(rf"(?<!\w)(?:{_NOUNS}|texts?)(?!\w)|文档|资料|段落|文章|来源|片段|上下文|材料", re.IGNORECASE)
HEADS_DOCUMENTS = re.compile(
    rf"(?:the |all |your |given |available |additional |background |relevante |gefundene ){{0,2}}(?:{_NOUNS}|texts?)",
    re.IGNORECASE,
)
TITLE_LINE = re.compile(r"(?:title|titel|标题)[ \t]*[:：][ \t]*(.{1,300})", re.IGNORECASE)

_NUMBER = r"(?:\[(?P<n1>\d{1,4})\]|\#?(?P<n2>\d{1,4})(?=[ \t]*(?:\*\*)?(?:[:：(.-]|\r?$)))"
_LINE = re.compile(
    rf"(?:\#{{1,6}}[ \t]+)?(?:\*\*)?(?P<label>{_ONE})[ \t]*{_NUMBER}[ \t]*(?:\*\*)?[:：.-]?(?:\*\*)?[ \t]*"
    r"|(?P<heading>\#{1,6})[ \t]+\S"
    r"|(?P<rule>-{3,}|={3,}|\*{3,})[ \t]*\r?$"
    rf"|(?:\*\*)?(?P<ask>{_ASKS})[ \t]*(?:\*\*)?[:：]"
    r"|\[(?P<bracket>\d{1,4})\][ \t:]"
    rf"|(?:\*\*)?(?P<context>{_NOUNS}|text)[ \t]*(?:\*\*)?[:：](?:\*\*)?"
    r"|(?P<json>[\[{])",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that begins with something that may matter; `at` is its number."""

    at: int
    kind: str
    match: re.Match[str]


class Page:
    """A text by lines. Lines inside fenced code are plain: nothing begins there. Raises OutOfTime as it is read, and
    wherever somebody asks `check`, once a deadline that was given has passed."""

    def __init__(self, text: str, deadline: Deadline | None = None) -> None:
        self.text = text
        self._deadline = deadline or Deadline(math.inf)
        self.starts = [0]
        at = text.find("\n")
        while at >= 0:
            self.starts.append(at + 1)
            at = text.find("\n", at + 1)
        self.fenced = fences(text, self._deadline)
        self.marked = [*self._marks()]
        self._at = [line.at for line in self.marked]

    def _marks(self) -> Iterator[Line]:
        fenced = iter([*self.fenced, (len(self.text) + 1, 0)])
        first, last = next(fenced)
        for number, start in enumerate(self.starts):
            if number % 256 == 0:
                self.check()
            if start >= last > first:
                first, last = next(fenced)
            match = _LINE.match(self.text, start) if start < first else None
            if match is not None:
                yield Line(number, "label" if match["label"] else match.lastgroup or "", match)

    def check(self) -> None:
        self._deadline.check()

    def between(self, first: int, last: int) -> Iterator[Line]:
        """The lines that begin with something, from number `first` up to before `last`."""
        for place in range(bisect_left(self._at, first), len(self._at)):
            if self._at[place] >= last:
                return
            yield self.marked[place]

    def line_of(self, offset: int) -> int:
        return bisect_right(self.starts, offset) - 1

    def start(self, line: int) -> int:
        """Where a line begins; for the number after the last, where the text ends."""
        return self.starts[line] if line < len(self.starts) else len(self.text)

    def says(self, line: int) -> str:
        return self.text[self.start(line) : self.start(line + 1)]

    def first_blank(self, first: int, last: int) -> int:
        """The number of the first blank line in the range, or `last`."""
        return next((line for line in range(first, last) if not self.says(line).strip()), last)

    def trimmed(self, start: int, end: int) -> tuple[int, int]:
        """The range without space at its edges."""
        said = self.text[start:end]
        left = len(said) - len(said.lstrip())
        return (start, start) if left == len(said) else (start + left, start + len(said.rstrip()))
