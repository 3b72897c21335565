"""What is said to whoever answers, where it stands among documents: "Answer in one word.", "Cite sources as [n]."

No document is announced by its end, so only its look tells a request from the last passage. It would rather take a
passage for a request: that costs a saving, the opposite an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .block import Page

_INSTRUCTS = re.compile(
    r"(?:please|now|then|finally)?[ ,]{0,2}(?:answer|use|using|based|given|respond|reply|write|read|do|don't|if|you|"
    r"your|only|note|think|let|provide|explain|return|summari[sz]e|translate|list|remember|important|according|tell|"
    r"what|who|which|how|the (?:above|following|question|answer)|bitte|beantworte|antworte|nutze|verwende|gib|wenn|"
    r"nur|anhand|根据|请|回答|使用|仅|只|如果|不要|基于)(?![\w-])|.*[?？:：][ \t\r]*$",
    re.IGNORECASE | re.MULTILINE,
)
# Said to whoever answers, wherever it stands among documents.
_TO_THE_MODEL = re.compile(
    r"(?<!\w)(?:answers?|answering|reply|replies|repl(?:y|ies)ing|respond|responses?|cite|citations?|citing|your task|"
    r"the (?:question|query|user)|you (?:must|should|are an?|will)|important|instructions?|"
    r"(?:be)?antworte\w*|antwort(?:en)?|zitier\w*|die frage|anweisung\w*|wichtig)(?!\w)"
    r"|回答|答案|答复|引用|问题|指令|注意",
    re.IGNORECASE,
)
_SHORT = 400  # characters; a longer line is no request to answer
_LONG = 200
_LAST = 80  # characters of a line by itself, with which documents end: shorter than a passage


def without_requests(page: Page, first: int, last: int) -> int:
    """The line number before which a range of lines ends, if blank lines and what reads like a request are left off its
    end."""
    while last > first:
        said = page.says(last - 1).strip()
        request = not said or (len(said) <= _SHORT and _INSTRUCTS.match(said) is not None)
        if not (request or (_alone(page, last - 1) and _after_blank(page, last - 1, first))):
            break
        last -= 1
    # A short line of its own may be one in any words ("Keep it polite."): one more passage costs less than a request.
    short = last > first and len(page.says(last - 1).strip()) <= _LAST
    return last - 1 if short and _after_blank(page, last - 1, first) else last


def without_asides(page: Page, first: int, last: int) -> int:
    """The same for a document that another one follows: only what is said to whoever answers ends it."""
    end = last
    while end > first:
        while end > first and not page.says(end - 1).strip():
            end -= 1
        if not _after_blank(page, end - 1, first) or not _alone(page, end - 1):
            return last
        end = last = end - 1
    return last


def asides(page: Page, first: int, last: int) -> Iterator[int]:
    """The line numbers in a range that hold, by themselves between blank lines, what is said to whoever answers."""
    fenced = iter([*page.fenced, (len(page.text) + 1, 0)])
    start, end = next(fenced)
    for line in range(first, last):
        while page.start(line) >= end > start:
            start, end = next(fenced)
        between = not page.says(line - 1).strip() and not page.says(line + 1).strip()
        if page.start(line) < start and between and _alone(page, line):
            yield line


def _alone(page: Page, line: int) -> bool:
    return is_aside(page, page.start(line), page.start(line + 1))


def _after_blank(page: Page, line: int, first: int) -> bool:
    """Whether it is not the first line, and the one before it is blank."""
    return line > first and not page.says(line - 1).strip()


def is_aside(page: Page, start: int, end: int) -> bool:
    """Whether a range is one line that speaks of the answer."""
    said = page.text[slice(*page.trimmed(start, end))]
    return "\n" not in said and 0 < len(said) <= _LONG and _TO_THE_MODEL.search(said) is not None
