"""Speculation of one engine: who guesses for each answer, and how much of the guesses a step verifies.

Off, it makes no drafter and costs nothing. Knows tokens; nothing of models, pages or text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import Any

from .draft import NOTHING, Draft, Drafter
from .draft_best import BestDrafter
from .draft_chance import Record
from .draft_given import GivenDrafter
from .draft_length import Lengths, Want
from .draft_model import Draw, ModelDrafter, SmallModel, Timed
from .draft_suffix import SuffixDrafter
from .draft_trie import AnswerStore, TrieDrafter
from .draft_window import Asked, WindowDrafter, WindowedModel

log = logging.getLogger("trimtab.engine")

_SELDOM = ((64, 4), (16, 2))  # steps in vain, and how seldom an answer is asked then


@dataclass(slots=True)
class Guess:
    """Who guesses for one answer, and how lucky they were. `look` is what a windowed model knows it by; `idle` counts
    the steps since a guess that was verified came true."""

    drafter: BestDrafter
    suffix: SuffixDrafter
    record: Record = field(default_factory=Record)
    look: Any = None
    steady: bool = False
    idle: int = 0
    given: tuple[GivenDrafter, ...] = ()

    @property
    def rests(self) -> bool:
        """Whether it is not asked at this step: to guess costs a few percent of one, so an answer that could long not
        be guessed is asked every second time, then every fourth."""
        every = 1 if self.steady else next((n for idle, n in _SELDOM if self.idle >= idle), 1)
        return self.idle % every != 0

    def predicted(self, draft: Draft) -> int:
        """How many of the tokens to be verified stood in a text that came with the request. Another drafter that says
        the same takes nothing from it: whoever predicts an answer is told how much of it was right."""
        own = sum(draft.source_of(i) == GivenDrafter.name for i in range(len(draft.tokens)))
        return max([own, *(g.agrees(draft) for g in self.given)]) if draft.chain else own


class Guesses:
    """`most` tokens a guess; 0 turns speculation off. `small` is a smaller model that may guess too."""

    def __init__(self, most: int, tree: bool = False, now: Callable[[], float] = time.perf_counter) -> None:
        self._most, self._tree, self._now = most, tree, now
        self.small: SmallModel | None = None
        self.answers = 1  # that get a token in the step
        self._window: WindowDrafter | None = None
        self._drafting = 0.0  # seconds of this step that drafters with a model took
        self._lengths = Lengths(most)
        self._store = AnswerStore()

    def look_through(self, model: WindowedModel) -> None:
        """Let the target itself guess over long contexts."""
        self._window = WindowDrafter(model, self._timed(WindowDrafter.name), self._now)

    def open(
        self, tenant: str, prompt: int, given: List[List[int]], draw: Draw | None = None, look: Any = None
    ) -> Guess | None:
        """For an answer that begins behind `prompt` tokens; `draw` is how the target draws its tokens, and `look` what
        a windowed model knows it by."""
        if not self._most:
            return None
        record, suffix = Record(), SuffixDrafter()
        texts = tuple(GivenDrafter(text, prompt, tree=self._tree) for text in given)
        drafters: list[Drafter] = [*texts, suffix, TrieDrafter(self._store, tenant.encode(), prompt, tree=self._tree)]
        judge = lambda draft: self._lengths.chances.of(record, draft)  # noqa: E731
        costly = [] if self.small is None or draw is None else [self._modelled(self.small, draw, prompt, record)]
        best = BestDrafter(drafters, judge, tree=self._tree, costly=costly)
        return Guess(best, suffix, record, look, steady=bool(given or costly), given=texts)

    def _modelled(self, small: SmallModel, draw: Draw, prompt: int, record: Record) -> Drafter:
        def worth(kv_tokens: int) -> int:
            return self._lengths.worth(record, ModelDrafter.name, kv_tokens, answers=self.answers)

        return ModelDrafter(small, draw, prompt, worth, self._timed(ModelDrafter.name), self._now)

    def _timed(self, name: str) -> Timed:
        def timed(tokens: int, seconds: float) -> None:
            self._drafting += seconds
            self._lengths.timed_draft(name, tokens, seconds)

        return timed

    def propose(self, asked: List[tuple[Guess, List[int], int]]) -> list[Draft]:
        """What could follow the tokens of each answer, at most so many tokens of it."""
        drafts = [self._proposed(guess, tokens, min(self._most, room)) for guess, tokens, room in asked]
        if self._window is not None:
            self._glance(self._window, asked, drafts)
        return drafts

    def _proposed(self, guess: Guess, tokens: List[int], most: int) -> Draft:
        guess.idle += 1
        return NOTHING if guess.rests else guess.drafter.propose(tokens, most)

    def _glance(self, window: WindowDrafter, asked: List[tuple[Guess, List[int], int]], drafts: list[Draft]) -> None:
        """Put what the window shows in the place of drafts that have little to say, where it is worth its price."""
        poor = [
            i
            for i, (guess, tokens, _) in enumerate(asked)
            if guess.look is not None and window.long_enough(tokens) and guess.drafter.lacks(drafts[i])
        ]
        # What one pass takes, shared by all for whom it guesses: believed as long as none has been timed.
        price = self._lengths.cost.seconds(len(poor), len(poor) * window.window) / len(poor) if poor else 0.0
        wants: dict[int, Asked] = {}
        for i in poor:
            guess, tokens, room = asked[i]
            worth = self._lengths.worth(guess.record, window.name, len(tokens), answers=self.answers, unknown=price)
            if (most := min(self._most, room, worth)) > 0:
                wants[i] = Asked(guess.look, tokens, most)
        try:
            found = window.propose(list(wants.values()))
        except Exception as why:  # out of memory, say: the answers need none of it
            log.warning("no more guesses through a window: %s", why)
            self._window = None
            return
        for i, draft in zip(wants, found, strict=True):
            drafts[i] = asked[i][0].drafter.best([drafts[i], draft], min(self._most, asked[i][2]))

    def choose(
        self, guesses: List[tuple[Guess, Draft]], rows: int, kv_tokens: int, room: int, others: int = 0
    ) -> list[Draft]:
        """How much of each draft is worth a place among `room` more rows; as Lengths.choose."""
        wants = [Want(guess.record, draft) for guess, draft in guesses]
        return self._lengths.choose(wants, rows, kv_tokens, room, others) if wants else []

    def learn(self, guess: Guess, emitted: List[int]) -> None:
        """The answer's new tokens, the target's own."""
        drafted = guess.record.drafted
        if self._lengths.learn(guess.record, emitted) and drafted:
            guess.idle = 0

    def timed(self, rows: int, kv_tokens: int, seconds: float) -> None:
        """A step of so many rows took so long, guessing included."""
        if self._most:
            self._lengths.timed(rows, kv_tokens, seconds - self._drafting)
        self._drafting = 0.0


def close(guess: Guess | None, tokens: List[int], whole: bool) -> None:
    """The answer is over; `whole` if it ended by itself."""
    if guess is not None:
        guess.drafter.close(tokens, whole)
