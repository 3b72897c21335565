"""Guesses from the target itself, seeing only the last tokens and the first few: for long contexts.

What a step over long contexts costs is reading their keys and values; with a window it reads a small part of them, and
mostly says the same (MagicDec, arXiv 2408.11049; sinks: arXiv 2309.17453). A pass through the window reads all weights,
so one pass guesses a token for every answer that is to have one. Nothing is kept: the keys and values of the guesses
stand behind what an answer has computed, where the next pass writes its own before any row reads them. Knows the model
by a small port; `draft_model_run.py` is that port over the engine's own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .draft import NOTHING, Draft
from .draft_model import Timed

_LEAST = 4  # times what the window reads: a shorter context has little to save
_LEAST_PATH = 0.1  # a guess is not gone on with when all of it is less likely than this


class WindowedModel(Protocol):
    """The target model over its answers' own pages. An answer is whatever it knows one by."""

    window: int  # tokens that a windowed row reads, first and last ones together

    def ready(self, answer: Any, rows: int) -> bool:
        """Whether there are places for the keys and values of so many rows behind the answer's computed ones."""
        ...

    def glance(self, answers: Sequence[Any], tokens: Sequence[int], at: Sequence[int]) -> list[tuple[int, float]]:
        """What each answer would say behind its token at that position, drawn as the target draws it but seen through
        the window, and how probable it was. All before is computed, or was glanced at just before."""
        ...


@dataclass(slots=True)
class Asked:
    """At most `most` guesses, one or more, behind the `tokens` of an answer; what is `said` so far, and how `sure`."""

    answer: Any
    tokens: Sequence[int]
    most: int
    said: list[int] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)
    path: float = 1.0

    def take(self, token: int, chance: float) -> bool:
        """One token more, unless the guess has become unlikely; whether to go on."""
        self.path *= chance
        if self.said and self.path < _LEAST_PATH:
            return False
        self.said.append(token)
        self.sure.append(max(0.01, min(chance, 0.99)))
        return len(self.said) < self.most


class WindowDrafter:
    """Guesses for many answers at once. `now` is a monotonic clock in seconds."""

    name = "window"

    def __init__(self, model: WindowedModel, timed: Timed, now: Callable[[], float]) -> None:
        self.window = model.window
        self._model, self._timed, self._now = model, timed, now

    def long_enough(self, tokens: Sequence[int]) -> bool:
        """Whether there is anything to save behind these."""
        return len(tokens) >= _LEAST * self.window

    def propose(self, asked: Sequence[Asked]) -> list[Draft]:
        """A draft for each; none where there is no room."""
        going = [one for one in asked if self._model.ready(one.answer, one.most)]
        start = self._now()
        while going:
            last = [one.said[-1] if one.said else one.tokens[-1] for one in going]
            at = [len(one.tokens) - 1 + len(one.said) for one in going]
            found = self._model.glance([one.answer for one in going], last, at)
            going = [one for one, says in zip(going, found, strict=True) if one.take(*says)]
        self._timed(sum(len(one.said) for one in asked), self._now() - start)
        return [Draft(tuple(one.said), (), tuple(one.sure), self.name) if one.said else NOTHING for one in asked]
