"""One place of a text that would read otherwise, and what is saved by it.

This module knows nothing of why; each stage of the lossless tier makes edits, and `verify.py` judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..protocol.tokens import estimate

What = Literal["JSON whitespace", "JSON escapes", "trailing space", "repeated log lines", "duplicate blocks"]

_SAMPLE = 4096  # characters that are counted; what is longer is taken to go on like its beginning


class Edit(NamedTuple):
    """`text[start:end]` becomes `new`; `tokens` is an estimate of what that takes out."""

    start: int
    end: int
    new: str
    what: What
    tokens: int


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text with its edits made; they are in order and do not overlap."""
    if not edits:
        return text
    out, at = [], 0
    for edit in edits:
        out += [text[at : edit.start], edit.new]
        at = edit.end
    return "".join([*out, text[at:]])


def tokens(text: str) -> int:
    """An estimate whose cost does not grow with the text."""
    if len(text) <= _SAMPLE:
        return estimate(text)
    return estimate(text[:_SAMPLE]) * len(text) // _SAMPLE
