"""Speculation of one engine: who guesses for each answer, and how much of the guesses a step verifies.

Off, it makes no drafter and costs nothing. Knows tokens; nothing of models, pages or text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field

from .draft import Draft, Drafter
from .draft_best import BestDrafter
from .draft_chance import Record
from .draft_given import GivenDrafter
from .draft_length import Lengths, Want
from .draft_model import Draw, ModelDrafter, SmallModel, Timed, Worth
from .draft_suffix import SuffixDrafter
from .draft_trie import AnswerStore, TrieDrafter
from .draft_window import WindowDrafter, WindowedModel

GIVEN = GivenDrafter.name


@dataclass(slots=True)
class Guess:
    """Who guesses for one answer, and how lucky they were."""

    drafter: Drafter
    suffix: SuffixDrafter
    record: Record = field(default_factory=Record)


class Guesses:
    """`most` tokens a guess; 0 turns speculation off. `small` is a smaller model that may guess too."""

    def __init__(self, most: int, tree: bool = False, now: Callable[[], float] = time.perf_counter) -> None:
        self._most, self._tree, self._now = most, tree, now
        self.small: SmallModel | None = None
        self.answers = 1  # that get a token in the step
        self._drafting = 0.0  # seconds of this step that drafters with a model took
        self._lengths = Lengths(most)
        self._store = AnswerStore()

    def open(
        self,
        tenant: str,
        prompt: int,
        given: List[List[int]],
        draw: Draw | None = None,
        look: WindowedModel | None = None,
    ) -> Guess | None:
        """For an answer that begins behind `prompt` tokens; `draw` is how the target draws its tokens, and `look` the
        target through a window."""
        if not self._most:
            return None
        record, suffix = Record(), SuffixDrafter()
        drafters: list[Drafter] = [GivenDrafter(text, prompt, tree=self._tree) for text in given]
        drafters += [suffix, TrieDrafter(self._store, tenant.encode(), prompt, tree=self._tree)]
        judge = lambda draft: self._lengths.chances.of(record, draft)  # noqa: E731
        costly = [] if draw is None else list(self._costly(draw, prompt, record, look))
        return Guess(BestDrafter(drafters, judge, tree=self._tree, costly=costly), suffix, record)

    def _costly(self, draw: Draw, prompt: int, record: Record, look: WindowedModel | None) -> Iterator[Drafter]:
        if self.small is not None:
            yield ModelDrafter(self.small, draw, prompt, *self._prices(record, ModelDrafter.name, 0), self._now)
        if look is not None:
            yield WindowDrafter(look, draw, prompt, *self._prices(record, WindowDrafter.name, look.window), self._now)

    def _prices(self, record: Record, name: str, reads: int) -> tuple[Worth, Timed]:
        """How a drafter with a model asks what its guesses are worth, and tells what they took. Until then one that
        `reads` the target's own keys is believed to take what a step over so many takes; another, nothing."""

        def worth(kv_tokens: int) -> int:
            unknown = self._lengths.cost.seconds(1, reads) if reads else 0.0
            return self._lengths.worth(record, name, kv_tokens, answers=self.answers, unknown=unknown)

        def timed(tokens: int, seconds: float) -> None:
            self._drafting += seconds
            self._lengths.timed_draft(name, tokens, seconds)

        return worth, timed

    def propose(self, guess: Guess, tokens: List[int], room: int) -> Draft:
        """What could follow `tokens`, at most `room` tokens of it."""
        return guess.drafter.propose(tokens, min(self._most, room))

    def choose(
        self, guesses: List[tuple[Guess, Draft]], rows: int, kv_tokens: int, room: int, others: int = 0
    ) -> list[Draft]:
        """How much of each draft is worth a place among `room` more rows; as Lengths.choose."""
        wants = [Want(guess.record, draft) for guess, draft in guesses]
        return self._lengths.choose(wants, rows, kv_tokens, room, others) if wants else []

    def learn(self, guess: Guess, emitted: List[int]) -> None:
        """The answer's new tokens, the target's own."""
        self._lengths.learn(guess.record, emitted)

    def timed(self, rows: int, kv_tokens: int, seconds: float) -> None:
        """A step of so many rows took so long, guessing included."""
        if self._most:
            self._lengths.timed(rows, kv_tokens, seconds - self._drafting)
        self._drafting = 0.0


def close(guess: Guess | None, tokens: List[int], whole: bool) -> None:
    """The answer is over; `whole` if it ended by itself."""
    if guess is not None:
        guess.drafter.close(tokens, whole)
