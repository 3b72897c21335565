"""Small edits for training the cache's verifier: some make another question of a question, some change nothing.

No word of the lists below is one of those that benchmarks/cache_traps.py reports on (tests/benchmarks/test_cache.py
holds the two apart): what is measured there is what the verifier makes of words that it was not taught.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

OPPOSITES = """attract repel|deposit withdraw|debit credit|ally rival|hardware software|supply demand
|question answer|cause effect|victory defeat|heaven hell|plus minus|multiply divide|bright dark|sharp blunt|tight loose
|deep shallow|narrow broad|smooth rough|sweet sour|generous stingy|brave cowardly|polite rude|humble arrogant
|front back|top bottom|entrance exit|morning evening|sunrise sunset|uncle aunt|brother sister|son daughter|king queen
|actor actress|hero villain|predator prey|winner loser|landlord tenant|debtor creditor|plaintiff defendant|host guest
|guilty innocent|domestic foreign|ordinary special|simple complex|odd even
|former latter|majority minority|import-only export-only|wholesale retail|analog digital|online offline|manual automatic
|natural artificial|organic synthetic|solid liquid|acid base|cathode anode|proton electron|dominant recessive
|artery vein|sympathetic parasympathetic|bull bear|equity debt|asset liability|surplus deficit|inflow outflow|bid ask
|stocks bonds|gross net|fixed variable|nominal real|micro macro|monopoly competition|democracy dictatorship
|capitalism socialism|theory practice|offense defense|batsman bowler|soprano bass|vowel consonant|noun verb|past future
|prefix suffix|singular plural|active-voice passive-voice|fiction nonfiction|comedy tragedy|compiler interpreter
|client server|stack queue|breadth depth|row column|numerator denominator|sine cosine|union intersection|encode decode
|serialize deserialize|attach detach|inhale exhale|ascend descend|reward punish|praise criticize|forgive condemn
|laugh cry|sit stand|wake sleep|whisper shout|confess deny|trustworthy unreliable|relevant irrelevant|regular irregular
|moral immoral|mature immature|patient impatient|perfect imperfect|formal informal|rational irrational|logical illogical
|able unable|fair unfair|likely unlikely|lucky unlucky|certain uncertain|usual unusual|known unknown|paid unpaid"""

UNITS = """ounce gram|litre pint|acre hectare|furlong league|watt joule|volt ampere|knots mps|decade century|second
millisecond|fortnight quarter|yen won|franc peso|bitcoin ethereum|bits bytes|pixels points|calories kilojoules"""

NEVER = ("not", "never", "hardly", "no longer")
AUXILIARIES = frozenset(
    ("is", "are", "was", "were", "do", "does", "did", "can", "could", "should", "would", "will", "has")
)
CONNECTIVES = "than|versus|vs|to|from|into|over|against|without|before|after|of"
POLITE = ("Kindly tell me: ", "Quick question: ", "Hello, ", "I was wondering, ", "Just curious: ", "Hey! ")
CLOSING = (" Cheers.", " Many thanks.", " Much appreciated!", "??", " ...")
SHORTER = {
    "what is": "what's",
    "do not": "don't",
    "does not": "doesn't",
    "how is": "how's",
    "cannot": "can't",
    "i am": "i'm",
    "who is": "who's",
    "should not": "shouldn't",
    "is not": "isn't",
    "where is": "where's",
}

Edit = Callable[[str, random.Random], str | None]


def _pairs(text: str) -> dict[str, str]:
    swaps: dict[str, str] = {}
    for pair in text.replace("\n", " ").split("|"):
        a, b = pair.split()
        swaps |= {a: b, b: a}
    return swaps


_OPPOSITE, _UNIT = _pairs(OPPOSITES), _pairs(UNITS)
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def _number(question: str, rng: random.Random) -> str | None:
    found = re.search(r"\d+", question)
    if found is None:
        return None
    old = int(found.group()[:9])
    new = rng.choice([old + 1, old + rng.randint(2, 9), old * 10, max(0, old - 1), old + 100])
    return question[: found.start()] + str(new) + question[found.end() :]


def _negation(question: str, rng: random.Random) -> str | None:
    words = question.split()
    spots = [i for i, word in enumerate(words) if word.lower() in AUXILIARIES and i + 2 < len(words)]
    if not spots:
        return None
    at = rng.choice(spots) + rng.choice((1, 2))
    return " ".join([*words[:at], rng.choice(NEVER), *words[at:]])


def _swap(swaps: dict[str, str]) -> Edit:
    def edit(question: str, rng: random.Random) -> str | None:
        spots = [found for found in _WORD.finditer(question) if found.group().lower() in swaps]
        if not spots:
            return None
        found = rng.choice(spots)
        return question[: found.start()] + swaps[found.group().lower()] + question[found.end() :]

    return edit


def _reversal(question: str, rng: random.Random) -> str | None:
    """The two words around a connective change places."""
    spots = list(re.finditer(rf"\b(\w{{3,30}}) ((?:{CONNECTIVES})(?: (?:a|an|the))?) (\w{{3,30}})\b", question))
    if not spots:
        return None
    found = rng.choice(spots)
    a, between, b = found.groups()
    return question[: found.start()] + f"{b} {between} {a}" + question[found.end() :]


def _flipped(question: str, rng: random.Random) -> str | None:
    """Two names of one question change places."""
    names = [found for found in _WORD.finditer(question) if found.start() and found.group()[0].isupper()]
    if len(names) < 2:
        return None
    a, b = sorted(rng.sample(names, 2), key=lambda found: found.start())
    return question[: a.start()] + b.group() + question[a.end() : b.start()] + a.group() + question[b.end() :]


class Entities:
    """Swaps a name of a question for one that other questions hold in the same place (after the same word)."""

    def __init__(self, questions: Sequence[str]) -> None:
        self._after: dict[str, list[str]] = {}
        for question in questions:
            for before, name in self._spots(question):
                self._after.setdefault(before, []).append(name.group())

    def __call__(self, question: str, rng: random.Random) -> str | None:
        spots = self._spots(question)
        if not spots:
            return None
        before, found = rng.choice(spots)
        other = rng.choice(self._after.get(before) or [found.group()])
        if other.lower() == found.group().lower():
            return None
        return question[: found.start()] + other + question[found.end() :]

    @staticmethod
    def _spots(question: str) -> list[tuple[str, re.Match[str]]]:
        words = list(_WORD.finditer(question))
        return [
            (before.group().lower(), word)
            for before, word in pairwise(words)
            if word.group()[0].isupper() and word.group() != "I"
        ]


def _polite(question: str, rng: random.Random) -> str:
    return (
        rng.choice(POLITE) + question[:1].lower() + question[1:]
        if rng.random() < 0.6
        else question + rng.choice(CLOSING)
    )


def _cased(question: str, rng: random.Random) -> str:
    return rng.choice((str.lower, str.upper, str.title, lambda text: text.rstrip("?. ")))(question)


def _shorter(question: str, rng: random.Random) -> str | None:
    lowered = question.lower()
    for long, short in SHORTER.items():
        if long in lowered:
            return lowered.replace(long, short, 1)
    return None


def _typo(question: str, rng: random.Random) -> str | None:
    """Two letters within a long word of small letters change places."""
    spots = list(re.finditer(r"\b[a-z]{7,20}\b", question))
    if not spots:
        return None
    found = rng.choice(spots)
    at = found.start() + rng.randint(1, len(found.group()) - 3)
    return question[:at] + question[at + 1] + question[at] + question[at + 2 :]


def _spaced(question: str, rng: random.Random) -> str:
    return rng.choice(("  ", "\n")).join(question.split(" ")) if rng.random() < 0.5 else f" {question} "


def made(questions: Sequence[str], entities: Entities, rng: random.Random) -> list[tuple[str, str, bool]]:
    """(a question, an edit of it, whether it still asks the same), at most one of each kind for each question."""
    different: tuple[Edit, ...] = (_number, _negation, _swap(_OPPOSITE), _swap(_UNIT), _reversal, _flipped, entities)
    same: tuple[Edit, ...] = (_polite, _cased, _shorter, _typo, _spaced)
    found = []
    for question in questions:
        for edit in different:
            other = edit(question, rng)
            if other is not None and other.lower() != question.lower():
                found.append((question, other, False))
        other = rng.choice(same)(question, rng)
        if other is not None:
            found.append((question, other, True))
    return found
