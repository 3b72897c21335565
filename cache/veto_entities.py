"""Names that differ: people, places, firms, products, languages, acronyms, and words that no list of English knows.

A name is a word with a capital that does not open a sentence, a name of the lists whatever its case, or a word that is
neither common English nor a slip of the pen of one of the other wording's. Two wordings differ where each has a name
that the other lacks, or where one has a sure name with nothing in its place.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from . import lexicon
from .stems import near, stem
from .veto_units import units_and_dates
from .wording import Wording, unaccented

_SENTENCE_END = frozenset(".?!:;\n\"'()[]-–—*>•")
_NO_NAMES = lexicon.words(
    """
    i im ok okay god internet web mr mrs ms dr sir phd mba faq diy asap fyi btw lol tv pc cv resume ceo cto hr
    ui ux what why how who when where which is are do does did can could should would will the a an in of or and
    my your one please thanks hello hi hey not if it so but you we
    """
)

_ACRONYM = 4  # letters: a longer word of English in capitals is only said aloud
_ROMAN = lexicon.words("ii iii iv vi vii viii ix xi xii xiii xiv xv xvi xvii xviii xix xx")  # numbers, not names


def entity(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = _unmatched(asked, stored), _unmatched(stored, asked)
    if not ours and not theirs:
        return None
    if ours and theirs:
        return "entity"
    return "entity" if any(ours.values()) or any(theirs.values()) else None


def _unmatched(wording: Wording, other: Wording) -> dict[str, bool]:
    """The names that the other wording has not, and whether they are sure to be names and have to be there."""
    found: dict[str, bool] = {}
    lone = _lone(wording, other)
    if not lone:
        return found
    english = wording.language in ("en", None)
    for word in lone - units_and_dates() - _NO_NAMES:
        base = word.removesuffix("'s")
        place = wording.written.get(base)
        if place is None:
            continue
        raw = wording.raw[place]
        if raw.islower() and known(base) and base not in lexicon.names() and base not in lexicon.aliases():
            continue
        sure = _sure(wording, raw, base, english)
        if sure is None:
            continue
        if base in other.bag:  # there, but not as often: whose place it has taken is no matter
            found[base] = False
        elif not _elsewhere(base, raw, other) and not _joined(wording, other, place):
            found[base] = sure and not _by_the_way(wording, other, place)
    return found


def _by_the_way(wording: Wording, other: Wording, place: int) -> bool:
    """Whether the name is part of a longer one that both have ("Donald" Trump), or only added in brackets."""
    if "(" + wording.raw[place] in wording.text:
        return True
    around = [wording.raw[i] for i in (place - 1, place + 1) if 0 <= i < len(wording.raw)]
    beside = [word.lower().removesuffix("'s") for word in around if word[0].isupper()]
    names = lexicon.names()
    return len(other.words) < len(wording.words) and any(word in other.bag and word in names for word in beside)


def _joined(wording: Wording, other: Wording, place: int) -> bool:
    """Whether the other wording writes it and its neighbour as one word: node.js and nodejs."""
    word = wording.raw[place].lower()
    pairs = [wording.raw[place - 1].lower() + word] if place else []
    pairs += [word + after.lower() for after in wording.raw[place + 1 : place + 2]]
    return any(len(pair) > 3 and pair in other.bag for pair in pairs)


def _lone(wording: Wording, other: Wording) -> set[str]:
    """The words that the other has not, or not as often."""
    if len(wording.words) == len(wording.bag) or len(wording.words) != len(other.words):
        return set(wording.bag - other.bag)
    return set(Counter(wording.words) - Counter(other.words))


def _sure(wording: Wording, raw: str, low: str, english: bool) -> bool | None:
    """True for a sure name, False for what may be one, None for what is none."""
    if not raw[0].isalpha() or len(low) < 2 or (low == "us" and raw != "US"):
        return None
    if low in lexicon.names() or low in lexicon.aliases():
        return True
    if english and not raw.islower() and not wording.title and low not in lexicon.light() and low not in _ROMAN:
        if raw[1:] != raw[1:].lower() and low.isalpha():
            return not (raw.isupper() and len(low) > _ACRONYM and known(low))
        if raw[0].isupper() and not _opens(wording, raw):
            return not known(low)
    return False if english and low.isascii() and low.isalpha() and len(low) > 2 and not known(low) else None


def _opens(wording: Wording, raw: str) -> bool:
    """Whether the word opens a sentence where it stands first."""
    before = wording.text[: wording.text.find(raw)].rstrip(" ")
    return not before or before[-1] in _SENTENCE_END


@lru_cache(maxsize=16_384)
def known(word: str) -> bool:
    """Whether it is a common English word or a form of one."""
    if word in lexicon.common() or stem(word) in _stems():
        return True
    bases = {
        word.removesuffix(ending) for ending in ("est", "er", "ly", "r", "st", "ers", "ness") if word.endswith(ending)
    }
    return any(stem(base[:-1] + "y" if base.endswith("i") else base) in _stems() for base in bases if len(base) > 2)


@lru_cache(maxsize=1)
def _stems() -> frozenset[str]:
    return frozenset(stem(word) for word in lexicon.common())


def _elsewhere(word: str, raw: str, other: Wording) -> bool:
    """Whether the other wording has the name spelt otherwise: a slip, an accent, joined up, an acronym, a people."""
    aliases = lexicon.aliases()
    same = aliases.get(word)
    if stem(word) in other.stem_bag or (same is not None and any(aliases.get(w) == same for w in other.bag)):
        return True
    plain = unaccented(word)
    if len(plain) >= 4 and plain in other.squeezed:
        return True
    if not plain.isalpha() and plain in other.couples:
        return True  # T20 and T-20
    if raw.isupper() and len(raw) >= 2 and plain in "".join([w[0] for w in other.words]):
        return True
    names = lexicon.names()
    for token in other.bag:
        if token.isascii() and len(token) > 3 and len(plain) > 3:
            if token[:4] == plain[:4] and _people(token, plain):
                return True
            if near(plain, unaccented(token)) and not (plain in names and token in names):
                return True
    return False


_PEOPLE = ("n", "an", "ian", "ean", "ese", "i", "ish", "ic", "s", "er", "ers", "ns", "ians", "ans")


def _people(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return any(longer == shorter + ending or longer == shorter[:-1] + ending for ending in _PEOPLE)
