"""What a name is the name of: New York City and New York State, the Golden Gate Bridge and its Park; vitamin C and D.

The word beside a name that says what kind of thing it is; where each wording has one that the other lacks, beside a
name that both have, they ask about two things. Whether a name stands there without such a word says nothing: New York
is either. Not case-sensitive where the name is of the lists, so that questions in small letters are told apart, too.
Letters that stand alone are names as well, where each wording has one that the other lacks.
"""

from __future__ import annotations

from . import lexicon
from .wording import Wording

# Those in one row may stand for each other.
_KINDS = """
    city town metro metropolitan | state | county | province | district | country nation republic kingdom
    island islands | university college | school academy | institute | hospital clinic | airport | station | bridge
    port harbor harbour | park | beach | bay | lake | river | sea ocean gulf | mountain mount mountains peak hills
    valley | desert | forest | street road avenue boulevard | square plaza | museum | library | palace castle | temple
    church cathedral | mosque | hotel resort | restaurant cafe | bank | stadium arena | theatre theater cinema | tower
    dam | canal | tunnel | empire dynasty | army | navy | police | court | parliament senate congress | language
    airlines airways
"""
_KIND = {word: at for at, row in enumerate(_KINDS.replace("\n", " | ").split("|")) for word in row.split()}


def named(asked: Wording, stored: Wording) -> str | None:
    return "entity" if _letters(asked, stored) or _kinds(asked, stored) else None


def _letters(asked: Wording, stored: Wording) -> bool:
    ours = _lone(asked)
    if not ours:
        return False
    theirs = _lone(stored)
    return not (ours <= theirs or theirs <= ours)


def _lone(wording: Wording) -> set[str]:
    """Letters that are no words: "a" and "i" are, but for an A within a question that is not written as a title."""
    found = {word for word in wording.bag if len(word) == 1 and word.isalpha() and word not in "ai"}
    if "A" in wording.raw[1:] and not wording.title:
        found.add("a")
    return found


def _kinds(asked: Wording, stored: Wording) -> bool:
    """Whether they name two kinds of things, beside one name."""
    ours = {word for word in asked.bag - stored.bag if word in _KIND}
    theirs = {word for word in stored.bag - asked.bag if word in _KIND}
    if not ours or not theirs or {_KIND[word] for word in ours} & {_KIND[word] for word in theirs}:
        return False
    both = _beside_names(asked, ours, stored) & _beside_names(stored, theirs, asked)
    return bool(both)


def _beside_names(wording: Wording, kinds: set[str], other: Wording) -> set[str]:
    """The names beside one of these words, with or without an "of" between, that the other wording has, too."""
    words = wording.raw
    found = set()
    for at, word in enumerate(words):
        if word.lower() not in kinds:
            continue
        places = [at - 1, at + 2 if words[at + 1 : at + 2] == ["of"] else at + 1]
        found |= {words[place].lower() for place in places if 0 <= place < len(words) and _name(words, place)}
    return {name for name in found if name in other.written}


def _name(words: list[str], place: int) -> bool:
    word = words[place]
    low = word.lower()
    return low in lexicon.names() or (place > 0 and word[0].isupper() and low not in lexicon.light())
