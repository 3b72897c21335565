"""The same words with their roles exchanged: "cats afraid of tigers" and "tigers afraid of cats", "km to miles" and
"miles to km". "A vs B" and "A and B" may change places.
"""

from __future__ import annotations

from . import lexicon
from .wording import Wording

_MANY = 60  # words; longer ones are compared by their template
_SKIPPED = lexicon.words(
    """
    a an the is are was were be do does did has have had will would can could should so really very much
    """
)
_EVEN = lexicon.words("and or vs versus between both nor near same similar plus equal")
_EVENLY = lexicon.words(
    """
    difference differences similarity similarities compare comparison compared distance relation relationship
    differ different common better mix combine talk fight
    """
)
_REACH = 6  # words between the two
_QUESTIONS = frozenset(["who", "whom", "what", "which"])
_HELPERS = frozenset(["do", "does", "did"])


def role(asked: Wording, stored: Wording) -> str | None:
    if max(len(asked.words), len(stored.words)) > _MANY or asked.stems == stored.stems:
        return None
    if asked.plain == stored.plain:
        return None
    ours, theirs = _content(asked), _content(stored)
    both = set(ours).intersection(theirs)
    if len(both) < 2 or [word for word in ours if word in both] == [word for word in theirs if word in both]:
        return None  # nothing has changed its place
    if _exchanged(ours, theirs, _uneven(asked, stored)) or _turned(ours, theirs, asked, stored):
        return "role"
    return "role" if _who_does(asked, stored) or _who_does(stored, asked) else None


def _uneven(asked: Wording, stored: Wording) -> bool:
    return _EVENLY.isdisjoint(asked.bag) or ("better" in asked.bag and "than" in asked.bag)


def _content(wording: Wording) -> list[str]:
    return [stem for word, stem in zip(wording.words, wording.stems, strict=True) if word not in _SKIPPED]


def _exchanged(ours: list[str], theirs: list[str], uneven: bool) -> bool:
    """Whether X link Y stands in one and Y link X in the other, with the same words for the link."""
    places = {word: at for at, word in enumerate(theirs) if theirs.count(word) == 1 == ours.count(word)}
    for start, first in enumerate(ours):
        there = places.get(first)
        if there is None:
            continue
        for end in range(start + 2, min(start + 2 + _REACH, len(ours))):
            back = places.get(ours[end])
            gap = end - start
            if back is None or there - back != gap or ours[end] == first:
                continue
            link = ours[start + 1 : end]
            if link == theirs[back + 1 : there] and _EVEN.isdisjoint(link) and uneven:
                return True
    return False


def _turned(ours: list[str], theirs: list[str], asked: Wording, stored: Wording) -> bool:
    """The same for names and things of several words: what differs is P link Q in one and Q link P in the other."""
    if sorted(ours) != sorted(theirs) or not _uneven(asked, stored):
        return False
    start = 0
    while start < len(ours) and ours[start] == theirs[start]:
        start += 1
    end = len(ours)
    while end > start and ours[end - 1] == theirs[end - 1]:
        end -= 1
    one, other = ours[start:end], theirs[start:end]
    size = len(one)
    for p in range(1, min(5, size)):
        for q in range(1, min(5, size - p)):
            link = one[p : size - q]
            if link and _EVEN.isdisjoint(link) and other == one[size - q :] + link + one[:p]:
                return True
    return False


def _who_does(one: Wording, other: Wording) -> bool:
    """ "Who did Brutus kill" and "who killed Brutus"."""
    asked = [i for i, word in enumerate(one.words[:-3]) if word in _QUESTIONS and one.words[i + 1] in _HELPERS]
    if not asked or not _HELPERS.isdisjoint(other.bag) or _QUESTIONS.isdisjoint(other.bag):
        return False
    subject, verb = one.stems[asked[0] + 2], one.stems[-1]
    if subject in other.stem_bag and "by" not in other.bag:  # "who defeated Napoleon at Waterloo", however it ends
        for at, word in enumerate(other.words[1:]):
            does = other.stems[at + 1]
            if other.words[at] in _QUESTIONS and word not in _SKIPPED and does in one.stems[asked[0] + 3 :]:
                return True
    return (
        subject in other.stem_bag
        and verb in other.stem_bag
        and other.stems.index(verb) < other.stems.index(subject)
        and "by" not in other.bag
    )
