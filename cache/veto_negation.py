"""Negation that one wording has and the other has not: "is it safe" and "isn't it safe", "with" and "without".

Compared is whether the negations are even or odd in number: two of them say yes. "Stop smoking" and "not smoke" go
together; "stop" and nothing do not.
"""

from __future__ import annotations

from . import lexicon
from .wording import Wording

_NOT = {
    "en": "not no never without none neither nothing nobody nowhere cannot unable non except unless excluding hardly",
    "de": "nicht kein keine keinen keinem keiner keines nie niemals ohne nichts niemand außer weder",
    "fr": "pas jamais sans aucun aucune rien personne sauf",
    "es": "no nunca sin nadie ningún ninguna ninguno nada jamás tampoco excepto",
    "it": "non no mai senza nessuno nessuna niente nulla",
    "pt": "não nunca sem ninguém nenhum nenhuma nada jamais",
    "nl": "niet geen nooit zonder niemand niets",
}
_WORDS = {language: frozenset(words.split()) for language, words in _NOT.items()}
# They turn a question round ("how do I stop ..."), and others say the same more loosely.
_STOPPING = frozenset(
    ["stop", "quit", "avoid", "prevent", "refuse", "fail", "lack", "deny", "cease", "abstain", "refrain"]
)
_STOPPING_FORMS = frozenset(
    form for verb in _STOPPING for form in (verb, verb + "s", verb + "ed", verb + "ing", verb[:-1] + "ing")
) | frozenset(
    ["stopped", "stopping", "quitting", "denied", "denies", "lacks", "unable", "failure", "prevention", "avoidance"]
)
_LOOSELY = lexicon.words(
    """
    rid reduce reducing control controlling cure curing remove removing overcome overcoming block blocking end
    ending fight fighting deal dealing eliminate eliminating treat treating resist resisting less lessen
    decrease minimize break breaking beat kick disable ban leave leaving off conquer
    handle manage protect against from away escape instead save without anti evade skip lose losing bypass
    halt terminate cancel kill fix solve delete hold shut pause refused problem addiction difficult hard
    """
)
_NO_NEGATION = (("or", "not"), ("not", "only"), ("no", "matter"), ("yes", "no"), ("or", "no"), ("why", "not"))
_HAN = "不没沒無无未別别非"


def negation(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = count(asked), count(stored)
    our_stops, their_stops = _stops(asked), _stops(stored)
    if ours % 2 != theirs % 2:
        # "Not be late" and "avoid being late" deny the same thing.
        same = (ours + our_stops) % 2 == (theirs + their_stops) % 2 and our_stops != their_stops
        return None if same else "negation"
    if our_stops != their_stops and (our_stops + their_stops) % 2:
        stopping, other = (asked, stored) if our_stops > their_stops else (stored, asked)
        if ours == theirs and _LOOSELY.isdisjoint(other.bag - stopping.bag):
            return "negation"
    return "negation" if ours and theirs and _of_each_other(asked, stored) else None


def count(wording: Wording) -> int:
    """How often the text denies."""
    words = _WORDS["en"]
    if wording.language not in ("en", None):
        words = _WORDS[wording.language or "en"]
    total = 0
    if not words.isdisjoint(wording.bag):
        list_of = wording.words
        total = sum(1 for word in list_of if word in words)
        if wording.language in ("en", None):
            total -= sum(1 for at in range(len(list_of) - 1) if (list_of[at], list_of[at + 1]) in _NO_NEGATION)
    if not wording.text.isascii():
        total += sum(map(wording.text.count, _HAN))
    return total


def _stops(wording: Wording) -> int:
    return 0 if _STOPPING_FORMS.isdisjoint(wording.bag) else sum(1 for word in wording.words if word in _STOPPING_FORMS)


def _of_each_other(asked: Wording, stored: Wording) -> bool:
    """Whether each denies what the other says: "not smoke but drink" and "smoke but not drink"."""
    ours, theirs = _denied(asked), _denied(stored)
    if not ours or not theirs or asked.stem_bag != stored.stem_bag:
        return False
    return ours[0] not in theirs and theirs[0] not in ours


_LIGHT = lexicon.words(
    """
    be a an the to have do i you we they it he she is are any get able
    """
)


def _denied(wording: Wording) -> list[str]:
    """The next content words after each negation."""
    found = []
    for at, word in enumerate(wording.words):
        if word in _WORDS["en"]:
            after = range(at + 1, min(at + 6, len(wording.words)))
            found += [wording.stems[i] for i in after if wording.words[i] not in _LIGHT][:3]
    return found
