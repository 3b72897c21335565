"""Which units of a message stay, given how they score: pure, and the same for the same input.

The conformal set for the recall asked for, then what it needs to be understood (the sentence before a pronoun, the
heading above, what a second look with the names found brings), what stays whatever it scores, and more by score until
the tenant's floor is met. It knows neither where vectors come from nor what a request is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol.tokens import estimate
from . import bm25, cohesion
from .abstain import everything, words
from .conformal import Calibration, keep, relevant
from .deadline import Deadline
from .evidence import Reader
from .material import Material, announcements, holds_passage, length, without
from .second_hop import second_hop
from .units import Unit

Floats = NDArray[np.float64]

_LEAST_UNITS = 3
_LEAST_GAP = 6  # tokens; a smaller one costs about as much as the mark in its place
_LEAST_SAVED = 48  # tokens of a message below which its text is better left alone
_CHAIN = 3  # sentences that are kept in front of a pronoun
_CORRECTIONS = 8  # times that the floor is measured and met again before everything is kept
_DATA = frozenset({"row", "record", "line"})


@dataclass(frozen=True, slots=True)
class Aim:
    """`floor` is the share of the message's tokens that must stay; `strings` are texts that the caller wants kept."""

    recall: float
    floor: float
    strings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """`kept[i]` is whether unit i stays; `why` says why all of them do; `counts` is what goes, by kind of unit."""

    kept: tuple[bool, ...]
    why: str | None
    counts: dict[str, int] = field(default_factory=dict)


def select(
    material: Material,
    query: str,
    query_vector: NDArray[Any],
    vectors: NDArray[Any],
    aim: Aim,
    calibration: Calibration,
    deadline: Deadline | None = None,
) -> Selection:
    """What stays of a material for a question. Rows of `vectors` are those of the units. Raises OutOfTime."""
    units = material.units
    if len(units) <= _LEAST_UNITS:
        return _everything(units, "there is too little to choose from")
    deadline = deadline or Deadline(math.inf)
    reader = Reader(units, deadline.check)
    scored = reader.scores(query, query_vector, vectors)
    if not relevant(scored, calibration):
        return _everything(units, "nothing scored as relevant")
    wanted = _values_wanted(material, query)
    if wanted is None:
        return _everything(units, "no row or record names what is asked about")
    choice = _Choice(material, query, reader, np.asarray(vectors), scored, wanted, aim, calibration, deadline)
    kept = choice.make(np.asarray(query_vector))
    if choice.sizes[~kept].sum() < _LEAST_SAVED:
        return _everything(units, "all of it may bear on the question")
    counts: dict[str, int] = {}
    for unit, stays in zip(units, kept, strict=True):
        if not stays:
            counts[unit.kind] = counts.get(unit.kind, 0) + 1
    return Selection(tuple(bool(stays) for stays in kept), None, counts)


def _everything(units: Sequence[Unit], why: str) -> Selection:
    return Selection((True,) * len(units), why)


class _Choice:
    """One selection in the making: each step adds units to `kept`, only the duplicates' takes some out."""

    def __init__(
        self,
        material: Material,
        query: str,
        reader: Reader,
        vectors: NDArray[Any],
        scored: Floats,
        wanted: NDArray[np.bool_],
        aim: Aim,
        calibration: Calibration,
        deadline: Deadline,
    ) -> None:
        self.material, self.units, self.query, self.reader = material, material.units, query, reader
        self.vectors, self.scored, self.aim, self.calibration = vectors, scored, aim, calibration
        self.wanted = wanted
        self.deadline = deadline
        # They come with what stands under them, never alone.
        self.headings = np.array([unit.kind == "heading" for unit in self.units])
        self.duplicate = np.zeros(len(scored), dtype=np.bool_)
        # Tokens counted once for all the text, and shared out by bytes: a count for each unit is half of all the work.
        texts = [passage.text for passage in material.passages]
        self.whole = sum(map(estimate, texts))
        density = self.whole / max(1, sum(map(length, texts)))
        self.sizes = np.array([length(unit.text) * density for unit in self.units])
        # Of equal scores the earlier unit is the better one, so that the choice never depends on the sort.
        self.order = np.lexsort((np.arange(len(scored)), -scored))

    def make(self, query_vector: NDArray[Any]) -> NDArray[np.bool_]:
        kept = keep(self.scored, self.sizes, self.aim.recall, self.calibration).copy()
        kept[self.headings] = False
        self.deadline.check()
        kept |= second_hop(self.reader, self.query, query_vector, self.vectors, self.order, kept)
        self.deadline.check()
        pinned = self._pinned()
        self._drop_duplicates(kept, pinned)
        kept |= pinned
        least = math.ceil(self.aim.floor * self.whole)
        target = least
        for _ in range(_CORRECTIONS):
            self._fill(kept, target)
            self._explain(kept)
            self._close_small_gaps(kept)
            self._explain(kept)
            # Tokens do not add up to the unit: the text itself has the last word.
            missing = least - self._left_by(kept)
            if missing <= 0:
                return kept
            target += missing
        return np.ones_like(kept)

    def _pinned(self) -> NDArray[np.bool_]:
        """What stays whatever it scores."""
        pinned = np.array([unit.fixed or (unit.kind in _DATA and cohesion.warns(unit.text)) for unit in self.units])
        pinned |= self.wanted
        self._pin_polar(pinned)
        for passage in self.material.passages:
            for i in range(passage.first, passage.last if self.aim.strings else passage.first):
                pinned[i] |= any(_overlaps(passage.text, self.units[i], wanted) for wanted in self.aim.strings)
        return pinned

    def _pin_polar(self, pinned: NDArray[np.bool_]) -> None:
        """Where the question turns on "not" or "must", so may every unit that says so about the same things."""
        asked = set(words(self.query))
        if not cohesion.polar(self.query) or not asked:
            return
        for i, unit in enumerate(self.units):
            if not pinned[i] and 2 * len(asked & set(words(unit.text))) >= len(asked) and cohesion.polar(unit.text):
                pinned[i] = True

    def _drop_duplicates(self, kept: NDArray[np.bool_], pinned: NDArray[np.bool_]) -> None:
        """Of passages that are said twice under the same heading, the first stays in place of the others.

        Word for word: vectors put "the seller bears the cost" beside "the buyer bears the cost". And never a sentence
        alone: what "the shop opens at nine" speaks of, only the sentences around it tell.
        """
        first: dict[tuple[str, ...], int] = {}
        for i, unit in enumerate(self.units):
            if unit.kind in ("heading", "code"):
                continue
            ways = self._contexts(i)
            original = min((first[way] for way in ways if way in first), default=i)
            for way in ways:
                first.setdefault(way, original)
            self.duplicate[i] = original != i
            if original != i and kept[i] and not pinned[i]:
                kept[i], kept[original] = False, True

    def _contexts(self, i: int) -> list[tuple[str, ...]]:
        """Keys of which two units share one where one says what the other does: with the unit before, with the one
        after, or alone in its document. Data stands for itself, under the same head."""
        unit = self.units[i]
        leans = unit.kind == "sentence" and cohesion.leans_back(unit.text)
        above = "" if unit.parent is None else self.units[unit.parent].text
        own: tuple[str, ...] = (unit.kind, unit.heading, above, cohesion.normal(unit.text))
        if unit.kind in _DATA:
            return [own]
        before, after = self._beside(i, -1), self._beside(i, 1)
        if before is None and after is None:
            return [] if leans else [("alone", *own)]
        ways: list[tuple[str, ...]] = []
        if before is not None:
            ways.append(("after", cohesion.normal(before.text), *own))
        if after is not None and not leans:
            ways.append(("before", cohesion.normal(after.text), *own))
        return ways

    def _beside(self, i: int, step: int) -> Unit | None:
        """The unit before or after one, in its document."""
        at = i + step
        near = 0 <= at < len(self.units) and self.units[at].document == self.units[i].document
        return self.units[at] if near else None

    def _left_by(self, kept: NDArray[np.bool_]) -> int:
        """Tokens of the texts without what is not kept."""
        return sum(estimate(without(passage, self.units, list(kept))) for passage in self.material.passages)

    def _fill(self, kept: NDArray[np.bool_], target: int) -> None:
        """More units by score, until there are three and about `target` tokens stay. Duplicates last."""
        announced = dict(announcements(self.material))
        for at in np.flatnonzero(kept):
            announced.pop(self.units[at].document, None)
        have = self.whole - float(self.sizes[~kept].sum()) - sum(announced.values())
        count = int(kept.sum())
        for i in sorted(map(int, self.order), key=self.duplicate.__getitem__):
            if have >= target and count >= _LEAST_UNITS:
                return
            if not kept[i] and not self.headings[i]:
                kept[i] = True
                have += float(self.sizes[i]) + announced.pop(self.units[i].document, 0)
                count += 1

    def _explain(self, kept: NDArray[np.bool_]) -> None:
        """The sentences before those that begin with a pronoun, and what each kept unit stands under."""
        for i in np.flatnonzero(kept):
            at, steps = int(i), 0
            while steps < _CHAIN and self._leans(at):
                at, steps = at - 1, steps + 1
                kept[at] = True
        for i in np.flatnonzero(kept):
            parent = self.units[i].parent
            while parent is not None and not kept[parent]:
                kept[parent] = True
                parent = self.units[parent].parent

    def _leans(self, at: int) -> bool:
        unit, before = self.units[at], self.units[at - 1] if at else None
        near = before is not None and before.document == unit.document and before.kind == "sentence"
        return near and unit.kind == "sentence" and cohesion.leans_back(unit.text)

    def _close_small_gaps(self, kept: NDArray[np.bool_]) -> None:
        """A gap that is smaller than its mark is none."""
        at, n = 0, len(self.units)
        while at < n:
            after = at + 1
            if not kept[at]:
                while after < n and not kept[after] and self._together(at, after):
                    after += 1
                if self.sizes[at:after].sum() < _LEAST_GAP:
                    kept[at:after] = True
            at = after

    def _together(self, one: int, other: int) -> bool:
        """Whether two units that are left out can be one gap."""
        a, b = self.units[one], self.units[other]
        return a.document == b.document or (a.kind == "record" and b.kind == "record")


def _values_wanted(material: Material, query: str) -> NDArray[np.bool_] | None:
    """The rows, records and lines of values that must stay: what a sentence says of likeness is nothing to a number.

    All of them where they are asked about together; else each that names something asked about which not all of them
    name. None where these are all that the material has, and none names anything.
    """
    units = material.units
    values = np.array([unit.kind in _DATA and not holds_passage(unit) for unit in units])
    if not values.any() or everything(query, "data") is not None:
        return values
    held = [_terms(unit.text) if value else frozenset[str]() for unit, value in zip(units, values, strict=True)]
    common = frozenset.intersection(*(found for found, value in zip(held, values, strict=True) if value))
    asked = _terms(" ".join(words(query))) - common
    named = np.array([not asked.isdisjoint(found) for found in held])
    return named if named.any() or material.kind != "data" else None


def _terms(text: str) -> frozenset[str]:
    """Stems, of plurals also without their "s"."""
    found = frozenset(bm25.terms(text))
    return found | {term[:-1] for term in found if term.endswith("s") and len(term) > 3}


def _overlaps(text: str, unit: Unit, wanted: str) -> bool:
    """Whether `wanted` stands in the unit, or in part: it may run over its ends."""
    reach = len(wanted) - 1
    return wanted in text[max(0, unit.start - reach) : unit.end + reach]
