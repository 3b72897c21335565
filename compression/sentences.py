"""Where sentences end, in one pass over a text, for scripts with and without spaces.

A full stop is the hard case: it also ends abbreviations, initials and German ordinals. Where the rules cannot tell, two
sentences stay one: a unit that is too long costs tokens, one that is cut in the wrong place costs meaning. Knows
nothing of lists, tables or markup; units.py hands it paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# A run of closing marks at once, never with a look-ahead, so that no text makes it start over.
_END = re.compile(r"[.!?…。！？｡．؟۔।]+[\"'”’»)\]」』】）》]*")
_WIDE = frozenset("。！？｡．؟۔।")  # these end a sentence without a space after them
_OPENING = "\"'“‘«([„¿¡「『（《*_"

# Never the end of a sentence: something follows them.
_FOLLOWED = (
    "mr mrs ms dr prof hon rev gen col capt lt sgt st mt ft fig figs no nos vol vols pp eq sec ch art vs cf eg ie al "
    "ca approx e.g i.e z.b d.h u.a o.ä bzw vgl evtl ggf inkl nr hr fr hrsg bd abb abs kap tel str m mm mme mlle sra "
    "srta dra ud uds núm pág págs ej p.ej av geb gest sog mio mrd jan feb mär apr jun jul aug sep sept oct okt nov dec "
    "dez sen rep gov pres ave blvd dept est"
)
# The end of a sentence only where the next word usually begins one.
_EITHER_WAY = "etc inc ltd co corp jr sr usw u.s u.k u.n u.s.a a.m p.m b.c a.d ph.d m.d usf etw cie llc gmbh"
_BEGINNERS = (
    "the a an this that these those he she it they we you i in on at but and however there when while after before if "
    "his her its their our for as to by from with what who why how der die das ein eine er sie es wir ihr ich in im am "
    "aber und dieser diese dieses le la les un une il elle ils elles ce cette el los las una ella ellos este esta"
)
# What stands before or after an ordinal in German ("am 3. Oktober", "das 19. Jahrhundert").
_DETERMINERS = (
    "der die das dem den des am im vom zum zur bis und ab seit jeder jede jedes ein eine einen einem eines dessen ihr "
    "ihre sein seine dieser dieses beim nach vor"
)
_COUNTED = (
    "januar februar märz april mai juni juli august september oktober november dezember jahrhundert jahrhunderts "
    "jahrhunderte weltkrieg weltkriegs etage stock klasse platz auflage kapitel lebensjahr jahrestag"
)
_LEADING, _EITHER = frozenset(_FOLLOWED.split()), frozenset(_EITHER_WAY.split())
_STARTERS = frozenset(_BEGINNERS.split())
_BEFORE_ORDINAL, _AFTER_ORDINAL = frozenset(_DETERMINERS.split()), frozenset(_COUNTED.split())
_LOOK_BACK = 24  # characters: longer than any abbreviation


def sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """The sentences of `text[start:end]` as offsets; between them there is only white space."""
    stop = len(text) if end is None else end
    begin = start
    for match in _END.finditer(text, start, stop):
        if match.end() < stop and _ends(text, begin, match, stop):
            yield from _trimmed(text, begin, match.end())
            begin = match.end()
    yield from _trimmed(text, begin, stop)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def _ends(text: str, begin: int, match: re.Match[str], stop: int) -> bool:
    marks = match.group()
    if any(mark in _WIDE for mark in marks):
        return True
    after = match.end()
    if not text[after].isspace():
        return False
    following = _next_word(text, after, stop)
    if not following or following[0].islower():
        return not following
    if marks[0] != "." or (len(marks) > 1 and marks[1] == "."):
        return True
    return _full_stop(text, begin, match.start(), following)


def _full_stop(text: str, begin: int, at: int, following: str) -> bool:
    """Whether the single "." at `at` ends a sentence, given the next word, which does not begin with a small letter."""
    words = text[max(begin, at - _LOOK_BACK) : at].split()
    if not words:
        return False
    last = words[-1].lstrip(_OPENING).lower()
    next_word = following.lower()
    if len(last) == 1 and last.isalpha():  # an initial, or "Vitamin C."
        return words[-1].islower() and next_word in _STARTERS
    if last in _LEADING:
        return False
    if last in _EITHER:
        return next_word in _STARTERS
    if last.isdigit() and len(last) <= 3:
        alone = at - begin <= 8 and text[begin:at].strip().isdigit()  # "1. First" is a list's number
        before = words[-2].lower() if len(words) > 1 else ""
        return not (alone or before in _BEFORE_ORDINAL or next_word in _AFTER_ORDINAL)
    return True


def _next_word(text: str, at: int, stop: int) -> str:
    """The word after the white space at `at`, without what opens it; at most a few characters of a long one."""
    while at < stop and text[at].isspace():
        at += 1
    while at < stop and text[at] in _OPENING:
        at += 1
    end = at
    while end < stop and end - at < _LOOK_BACK and (text[end].isalnum() or text[end] in "'’"):
        end += 1
    return text[at : max(end, min(at + 1, stop))]
