"""What a line of a text begins or belongs to: a fence, a heading, a list item, a table, a log entry, a hunk.

Every pattern is anchored and without nested repetition, so a line costs no more than its length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"(#{1,6})[ \t]+\S")
BOLD_HEADING = re.compile(r"\*\*[^*\n]{1,80}\*\*:?\s*$")
ITEM = re.compile(r"([ \t]*)(?:[-*+•‣◦·]|\d{1,3}[.)]|\(?[a-zA-Z\d]{1,2}\))[ \t]+\S")
HUNK = re.compile(r"@@ -\d")
DIFF = re.compile(r"(?:diff --git |Index: |--- \S|\+\+\+ \S)")
LOG = re.compile(
    r"\W{0,3}(?:\d{4}[-/]\d\d[-/]\d\d[T ,]\s?\d\d:\d\d|\d\d:\d\d:\d\d\b|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
    r"|\d{1,3}(?:\.\d{1,3}){3} \S+ \S+ \[|(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)\b)"
)
LOG_GOES_ON = re.compile(r"[ \t]+\S|Traceback|Caused by|\.\.\.|\w+(?:\.\w+){0,10}(?:Error|Exception)\b")
INDENTED = re.compile(r"(?: {4}|\t)")
LONG_SENTENCE = re.compile(r".{80,}[.!?。！？][\"'”’»)\]]{0,3}\s*$")
KEY_VALUE = re.compile(r"[ \t]*(?:- )?[\"']?[\w.][\w .\-/]{0,40}[\"']?[ ]?[:=](?:[ \t]|$)")
_RULE_CHARACTERS = frozenset("|:- \t")
_CODE_ENDS = (";", "{", "}", ");", "},", "):", "(", "};", "],", "=>", "->", ")")
_CODE_STARTS = re.compile(
    r"\s*(?:def |class |import |from \S+ import |return\b|if \(|else\b|for \(|while \(|function\b|const |let |var "
    r"|public |private |static |#include|func |fn |package |use |@\w|//|/\*|\* |elif |try:|except )"
)
_MARKUP = re.compile(r"\s*</?[A-Za-z!?][^<>]{0,400}/?>")


def table_rule(line: str) -> bool:
    """Whether it is the line under a Markdown table's head."""
    return "|" in line and "-" in line and not set(line) - _RULE_CHARACTERS


def separators(line: str) -> tuple[str, int] | None:
    """The separator of a line of values and how many there are of it outside quotes; None if it looks like none."""
    if line.rstrip().endswith((".", "!", "?", ":")):
        return None
    if '"' in line:
        line = "".join(line.split('"')[::2])
    for mark, least in (("\t", 1), (";", 2), (",", 2)):
        count = line.count(mark)
        if count >= least and (mark == "\t" or line.count(mark + " ") < count or len(line) < 80):
            return mark, count
    return None


def solid(lines: Sequence[str]) -> bool:
    """Whether lines look like source code or markup, of which a part has no meaning of its own."""
    filled = [line for line in lines[:400] if line.strip()]
    if len(filled) < 3:
        return False
    markup = sum(1 for line in filled if _MARKUP.match(line))
    code = sum(1 for line in filled if line.rstrip().endswith(_CODE_ENDS) or _CODE_STARTS.match(line))
    return markup * 2 >= len(filled) or code * 2 >= len(filled)
