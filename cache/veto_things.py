"""One thing in another's place: the same words but for a guitar in one and a piano in the other.

Only where all else is the same, and only for words that name things and living beings in most of their use; two that
share a meaning, or of which one is a kind of the other, may stand for each other.
"""

from __future__ import annotations

from functools import cache

from . import lexicon
from .stems import stem
from .wording import Wording, surplus

_LIGHT = lexicon.words("a an the is are be do some any my your i we you to of in on for should can best good")
_Meanings = tuple[frozenset[str], frozenset[str]]


def thing(asked: Wording, stored: Wording) -> str | None:
    ours = surplus(asked, stored) - _LIGHT
    if len(ours) != 1:
        return None
    theirs = surplus(stored, asked) - _LIGHT
    if len(theirs) != 1:
        return None
    known = _things()
    one, other = known.get(ours.pop()), known.get(theirs.pop())
    return "thing" if one is not None and other is not None and not _related(one, other) else None


def _related(one: _Meanings, other: _Meanings) -> bool:
    """Whether they share a meaning, or one's is above the other's."""
    return not (one[0].isdisjoint(other[0]) and one[0].isdisjoint(other[1]) and one[1].isdisjoint(other[0]))


@cache
def _things() -> dict[str, _Meanings]:
    """Stems, and their meanings and what is above these."""
    found: dict[str, _Meanings] = {}
    for row in lexicon.lines("things.txt.gz"):
        word, own, above = row.split(" ")
        found.setdefault(stem(word), (_ids(own), _ids(above)))
    return found


def _ids(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()
