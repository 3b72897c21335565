"""The stem of an English word: what its inflections and its two spellings have in common.

Only so that two words can be compared: a stem is no word ("making" and "make" are both "mak"). It knows no meaning and
no other language, where it does no more than drop an ending from both sides alike.
"""

from __future__ import annotations

from functools import lru_cache

from . import lexicon

_VOWELS = frozenset("aeiouy")
# British and other spellings, as endings of what is left when an inflection is gone.
_SPELLINGS = (("isation", "ization"), ("yse", "yz"), ("ise", "iz"), ("our", "or"), ("ogue", "og"))
_KEEPS = frozenset({"four", "hour", "your", "flour", "sour", "tour", "pour", "wise", "rise"})


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """The stem of a word in lower case. An unknown ending is left as it is."""
    if len(word) <= 3 or not word.isascii():
        return lexicon.irregular().get(word, word)
    base = lexicon.irregular().get(word) or _uninflected(word)
    base = lexicon.irregular().get(base, base)
    return _one_spelling(base)


def _uninflected(word: str) -> str:
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if word.endswith("ies"):
            word = word[:-3] + "y" if len(word) > 4 else word[:-1]
        elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
            word = word[:-2]
        else:
            word = word[:-1]
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= 3 and not _VOWELS.isdisjoint(rest) and not word.endswith("eed"):
            return rest + "e" if _short(rest) else rest
    return word


def _short(rest: str) -> bool:
    """Whether it has one vowel and ends as "mak" does: what lost an ending there has lost an e, or it was doubled."""
    vowels = [c in _VOWELS for c in rest]
    return sum(vowels) == 1 and vowels[-2] and rest[-1] not in "wxy"


def _one_spelling(base: str) -> str:
    if base in _KEEPS or base.endswith("wise"):
        return base
    for british, american in _SPELLINGS:
        if base.endswith(british) and len(base) > len(british) + 1:
            return base[: -len(british)] + american
    if base.endswith("is") and len(base) > 5:  # what "organising" leaves
        return base[:-1] + "z"
    if base.endswith("re") and len(base) > 4 and base[-3] in "tb":
        return base[:-2] + "er"
    if base.endswith("e") and not _short(base[:-1]) and len(base) > 3:
        base = base[:-1]
        if base.endswith(("mm", "tt")):  # programme, cigarette
            return base[:-1]
    if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "aeiousz":
        return base[:-1]
    return base


@lru_cache(maxsize=4_096)
def near(one: str, other: str) -> bool:
    """Whether two words are within one slip of the pen: a letter more, less or other, or two that changed places."""
    if abs(len(one) - len(other)) > 1 or min(len(one), len(other)) < 4:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and len(b) > 1 and a[2:] == b[2:])
