"""How often guesses come true: what a drafter says of each token, corrected by what has been seen.

Counts by drafter, by how sure it said it was, and by how deep the token stands, each observation fading as others come
(a discounted Beta law whose prior is the drafter's own word); on top of it each answer's own luck, over all guesses and
over those as sure as this one, since a text that is easy to guess is mostly so from end to end. What is not verified is
observed too: the next token shows whether the first guess would have been right, so an answer for which nothing is
drafted is still watched, at no cost. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .draft import NOTHING, Draft

_FADE = 0.995  # of all answers' counts, an observation
_PRIOR = 4.0  # observations that the drafter's own word is worth
_OWN_FADE = 0.94  # of one answer's
_LUCK_PRIOR = 2.0
_OWN_PRIOR = 10.0
_MOST = 0.985  # nothing is surer

_Key = tuple[str, int, int]


@dataclass(slots=True)
class Record:
    """One answer's luck with each drafter: guesses that came true, and those that should have; the same by certainty,
    with those that were made; and the last guess."""

    luck: dict[str, tuple[float, float]] = field(default_factory=dict)
    own: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    last: Draft = NOTHING
    chances: Sequence[float] = ()
    drafted: bool = False  # whether anything was verified at the last step
    due: bool = False  # whether what the step says of it is to be entered in the ledger
    rest: dict[str, tuple[int, int]] = field(default_factory=dict)  # of drafters that cost: steps to wait, and had to


class Chances:
    """The counts of all answers."""

    def __init__(self) -> None:
        self._counts: dict[_Key, tuple[float, float]] = {}

    def of(self, record: Record, draft: Draft) -> list[float]:
        """For each token how likely it is to be right if its parent is."""
        out: list[float] = []
        depths: list[int] = []
        luck = {source: _luck(record, source) for source in set(draft.sources or (draft.source,))}
        for i, sure in enumerate(draft.confidence):
            parent = draft.parent(i)
            depths.append(0 if parent < 0 else depths[parent] + 1)
            source = draft.source_of(i)
            base = min(_MOST, self._usual((source, _bin(sure), _level(depths[i])), sure) * luck[source])
            hits, tries = record.own.get((source, _bin(sure)), (0.0, 0.0))
            out.append(min(_MOST, (hits + _OWN_PRIOR * base) / (tries + _OWN_PRIOR)))
        return out

    def learn(self, record: Record, emitted: Sequence[int]) -> int:
        """The answer goes on with `emitted`; compares it with `record.last`, and gives how many of those came true."""
        draft, came, node = record.last, 0, -1
        children: dict[int, list[int]] = {}
        for i in range(len(draft.tokens)):
            children.setdefault(draft.parent(i), []).append(i)
        for depth, token in enumerate(emitted):
            right = -1
            for child in children.get(node, ()):
                true = draft.tokens[child] == token
                right = child if true else right
                self._count(record, child, depth, true)
            if right < 0:
                break
            node, came = right, came + 1
        record.last, record.chances = NOTHING, ()
        return came

    def _count(self, record: Record, node: int, depth: int, true: bool) -> None:
        draft = record.last
        source, sure = draft.source_of(node), draft.confidence[node]
        key = (source, _bin(sure), _level(depth))
        usual = self._usual(key, sure)
        hits, tries = self._counts.get(key, (0.0, 0.0))
        self._counts[key] = (hits * _FADE + true, tries * _FADE + 1)
        had, due = record.luck.get(source, (0.0, 0.0))
        record.luck[source] = (had * _OWN_FADE + true, due * _OWN_FADE + usual)
        hits, tries = record.own.get((source, _bin(sure)), (0.0, 0.0))
        record.own[source, _bin(sure)] = (hits * _OWN_FADE + true, tries * _OWN_FADE + 1)

    def _usual(self, key: _Key, sure: float) -> float:
        hits, tries = self._counts.get(key, (0.0, 0.0))
        return (hits + _PRIOR * sure) / (tries + _PRIOR)


def _luck(record: Record, source: str) -> float:
    had, due = record.luck.get(source, (0.0, 0.0))
    return min(2.0, (had + _LUCK_PRIOR) / (due + _LUCK_PRIOR))


def _bin(sure: float) -> int:
    """Tenths; what a grammar forces is a bin of its own, above."""
    return 11 if sure >= 0.999 else int(sure * 10)


def _level(depth: int) -> int:
    return depth.bit_length()  # 0 | 1 | 2-3 | 4-7 | ...
