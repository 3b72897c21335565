"""Long prompts, and short jobs on a text: what is not the template has to be the same to the letter.

A service that sends one instruction with ever another text makes prompts that are alike in all but what matters: their
vectors are neighbours, and one answer for all of them is wrong for all but one (a cache that did so gave 198 different
translation jobs one answer). So where two texts share a template, whitespace and case may differ and nothing else.
"""

from __future__ import annotations

from . import lexicon
from .wording import Wording, unthanked

_LONG = 60  # words
_SHARED = 8  # words at the two ends together that make a template
_SHINGLE = 3
_JOBS = lexicon.words(
    """
    translate translation summarize summarise summary classify rewrite paraphrase correct proofread extract
    convert explain solve complete fix evaluate analyze analyse review answer define label categorize categorise
    rephrase shorten expand detect identify find compute calculate simplify transcribe reply respond edit
    improve continue grade score
    """
)


def template(asked: Wording, stored: Wording) -> str | None:
    longest = max(len(asked.words), len(stored.words))
    if longest > _LONG:
        same = _normal(asked) == _normal(stored)
        return None if same or not _one_template(asked.words, stored.words) else "template"
    if ":" in asked.text or "\n" in asked.text:
        return _job(asked, stored)
    return None


def _normal(wording: Wording) -> str:
    """The text as far as a harmless rewrite leaves it: the polite words, and marks at the end, are gone."""
    marks = "".join(c for c in wording.lower if not c.isalnum() and not c.isspace() and c not in ".,!?;:'\"-()")
    return wording.plain + " " + marks


def _one_template(one: list[str], other: list[str]) -> bool:
    least = min(len(one), len(other))
    start = 0
    while start < least and one[start] == other[start]:
        start += 1
    end = 0
    while end < least - start and one[-1 - end] == other[-1 - end]:
        end += 1
    if start + end >= _SHARED:
        return True
    ours, theirs = _shingles(one), _shingles(other)
    return len(ours & theirs) * 10 >= min(len(ours), len(theirs)) or len(ours & theirs) >= _SHARED


def _shingles(words: list[str]) -> set[tuple[str, ...]]:
    return set(zip(*(words[i:] for i in range(_SHINGLE)), strict=False))


def _job(asked: Wording, stored: Wording) -> str | None:
    """An instruction, a colon or a line's end, and a text: the texts have to be equal."""
    for mark in (":", "\n"):
        head, found, tail = asked.lower.strip().partition(mark)
        other_head, also, other_tail = stored.lower.strip().partition(mark)
        if (
            found
            and also
            and len(tail.split()) > 0
            and not _JOBS.isdisjoint(head.split())
            and not _JOBS.isdisjoint(other_head.split())
        ):
            return None if unthanked(tail) == unthanked(other_tail) else "template"
    return None
