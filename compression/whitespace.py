"""Space that nobody reads: at the ends of lines, and more than two blank lines in a row.

Kept: Markdown's hard line break (two spaces before a line that follows), indentation, and every text with tabs between
its values. Whether a text may be changed at all (no code, no diff) is for the caller to know.
"""

from __future__ import annotations

import re
from typing import Final

from ..protocol.tokens import estimate
from .deadline import Deadline
from .edit import Edit

_WHAT: Final = "trailing space"
_LEAST = 4  # tokens, together
_RUN = re.compile(r"(?<![ \t\n])[ \t]*+\n[ \t\n]*+")
_TABLE = re.compile(r"[^\s]\t")
_MOST_BREAKS = 3  # two blank lines


def edits(text: str, deadline: Deadline) -> list[Edit]:
    """The runs of space that can be shorter; none if together that saves next to nothing."""
    if not (" \n" in text or "\t\n" in text or "\n\n\n\n" in text) or _TABLE.search(text):
        return []
    found = []
    for steps, run in enumerate(_RUN.finditer(text)):
        if steps % 512 == 0:
            deadline.check()
        new = shorter(run[0])
        if len(new) < len(run[0]):
            found.append(Edit(run.start(), run.end(), new, _WHAT, estimate(run[0]) - estimate(new)))
    return found if sum(edit.tokens for edit in found) >= _LEAST else []


def shorter(run: str) -> str:
    """A run of space from the end of a line to the beginning of the next that says something."""
    before, *_, indentation = run.split("\n")
    breaks = min(run.count("\n"), _MOST_BREAKS)
    hard = breaks == 1 and len(before) > 1 and not before.strip(" ")
    return ("  " if hard else "") + "\n" * breaks + indentation
