"""Where runs of tokens have been seen before in one growing list, and what followed them.

An index of n-grams of a few lengths: growing by a token costs the same however long the list is, and so does a lookup
(a scan of a long prompt at every step is what slows n-gram speculation elsewhere). Knows nothing of requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

LENGTHS = (1, 2, 3, 5, 8)
_OCCURRENCES = 8  # the most recent ones that vote on what comes next
HARDLY = 0.002  # a guess less likely than that is not worth making: nobody would verify it
_BEHIND = 32  # tokens; a longer match is no surer

# How often the next token is right by the length of the match: where learning starts, rounded from real answers.
_SURE = (0.0, 0.25, 0.5, 0.65, 0.7, 0.75, 0.79, 0.82, 0.85, 0.87, 0.89, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95)


@dataclass(frozen=True, slots=True)
class Match:
    """The last `length` tokens stand before each of `places` too, most recent first; never longer than `_BEHIND`."""

    length: int
    places: tuple[int, ...]


class Ngrams:
    """The n-grams of a list of tokens that only ever grows; the list itself belongs to the caller.

    A token below zero is a seam between texts: nothing is found or continued across it.
    """

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self._lengths = tuple(sorted(lengths, reverse=True))
        self._last: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in self._lengths)
        self._before: tuple[list[int], ...] = tuple([] for _ in self._lengths)
        self.grown = 0  # places indexed: those of tokens[0] to tokens[grown - 1]

    def grow(self, tokens: Sequence[int], most: int) -> bool:
        """Index up to `most` further tokens; whether all are now. About a microsecond a token."""
        start, end = self.grown, min(len(tokens), self.grown + most)
        for n, last, before in zip(self._lengths, self._last, self._before, strict=True):
            # A place is known by the n tokens before it; too near the beginning there are not enough.
            skipped = max(0, min(end, n) - start)
            before.extend([-1] * skipped)
            at = start + skipped
            columns = [tokens[at - n + i : end - n + i] for i in range(n)]
            for place, key in enumerate(zip(*columns, strict=True), at):
                before.append(last.get(key, -1))
                last[key] = place
        self.grown = end
        return end == len(tokens)

    def find(self, tokens: Sequence[int], context: Sequence[int], least: int = 1) -> Match | None:
        """The places in `tokens` behind the longest n-gram that `context` ends with, of `least` tokens or more."""
        for n, last, before in zip(self._lengths, self._last, self._before, strict=True):
            if n < least or n > len(context):
                continue
            place = last.get(tuple(context[-n:]), -1)
            if place < 0:
                continue
            places: list[int] = []
            while place >= 0 and len(places) < _OCCURRENCES:
                places.append(place)
                place = before[place]
            return _longest(tokens, context, n, places) if n == self._lengths[0] else Match(n, tuple(places))
        return None


def follow(tokens: Sequence[int], match: Match, most: int, least: float = 0.0) -> tuple[list[int], list[float]]:
    """What most often came behind the match, at most `most` tokens, and how sure each is if those before are right;
    up to where it is less than `least` likely that all are.

    Where the list ends the guess goes on in itself: a text that repeats itself goes on repeating.
    """
    alive = list(match.places)
    said: list[int] = []
    sure: list[float] = []
    all_right = 1.0
    for i in range(most):
        votes: dict[int, int] = {}
        for place in alive:
            token = _at(tokens, said, place + i)
            votes[token] = votes.get(token, 0) + 1
        best = max(votes, key=votes.__getitem__)  # the most recent one's, where votes are even
        if best < 0:
            break
        own = confidence(match.length + i) * votes[best] / len(alive)
        all_right *= own
        if all_right < least:
            break
        sure.append(own)
        if votes[best] < len(alive):
            alive = [place for place in alive if _at(tokens, said, place + i) == best]
        said.append(best)
    return said, sure


def branch(tokens: Sequence[int], match: Match, most: int) -> tuple[list[int], list[int], list[float]]:
    """The likeliest `most` nodes of the tree of all that came behind the match: tokens, parents, and how sure each is.

    A node's parent is an index before its own, or -1. Taken best first, so any beginning is the best smaller tree.
    """
    said: list[int] = []
    parents: list[int] = []
    sure: list[float] = []
    # (minus the chance of the whole path, order of arrival, depth, parent, token, its own chance, places that lead on)
    heap: list[tuple[float, int, int, int, int, float, list[int]]] = []
    _push_children(heap, tokens, match, list(match.places), 0, -1, 1.0)
    while heap and len(said) < most:
        chance, _, depth, parent, token, own, places = heapq.heappop(heap)
        said.append(token)
        parents.append(parent)
        sure.append(own)
        _push_children(heap, tokens, match, places, depth + 1, len(said) - 1, -chance)
    return said, parents, sure


def _push_children(
    heap: list[tuple[float, int, int, int, int, float, list[int]]],
    tokens: Sequence[int],
    match: Match,
    places: list[int],
    depth: int,
    parent: int,
    chance: float,
) -> None:
    groups: dict[int, list[int]] = {}
    for place in places:
        token = tokens[place + depth] if place + depth < len(tokens) else -1
        groups.setdefault(token, []).append(place)
    base = confidence(match.length + depth)
    for token, group in groups.items():
        own = base * len(group) / len(places)
        if token >= 0:
            heapq.heappush(heap, (-chance * own, len(heap) + parent, depth, parent, token, own, group))


def confidence(length: int) -> float:
    """How likely the token behind a match of `length` tokens is to come again."""
    return _SURE[min(length, len(_SURE) - 1)]


def _at(tokens: Sequence[int], said: Sequence[int], place: int) -> int:
    return tokens[place] if place < len(tokens) else said[place - len(tokens)]


def _longest(tokens: Sequence[int], context: Sequence[int], n: int, places: Sequence[int]) -> Match:
    """Of the places, those with the most in common with the context further back."""
    lengths = [_common(tokens, context, n, place) for place in places]
    length = max(lengths)
    return Match(length, tuple(p for p, found in zip(places, lengths, strict=True) if found == length))


def _common(tokens: Sequence[int], context: Sequence[int], n: int, place: int) -> int:
    most = min(_BEHIND, place, len(context))
    while n < most and tokens[place - n - 1] == context[-n - 1] >= 0:
        n += 1
    return n
