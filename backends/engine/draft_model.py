"""Guesses from a smaller model that shares the vocabulary (arXiv 2211.17192, 2302.01318).

It draws each guess with the very noise that the target will draw with at that place, so where the two agree on what is
likely they often draw the same token, at any temperature (arXiv 2408.07978); no probabilities need be compared. Knows
the small model by a small port; `draft_model_run.py` is that port over the engine's own model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ...protocol.errors import ModelUnavailable
from .draft import NOTHING, Draft

# (a row of logits, the position in the answer) -> the token drawn there, and how probable it was.
Draw = Callable[[Any, int], tuple[int, float]]
# How many guesses are worth their price behind so many tokens.
Worth = Callable[[int], int]
# So many guesses took so many seconds.
Timed = Callable[[int, float], None]

_USUAL = 40  # tokens that come between two guesses at most; more is a prompt
_CATCH_UP = 256  # tokens read at most before a guess: a long prompt is read over several steps
_LEAST_PATH = 0.1  # a guess is not gone on with when all of it is less likely than this


class SmallModel(Protocol):
    """A model with memories of what it has read; a memory is whatever it likes."""

    context: int

    def open(self) -> Any:
        """An empty memory. Raises MemoryError when there is no room for one more."""
        ...

    def read(self, memory: Any, tokens: Sequence[int], at: int) -> Any:
        """Go on behind the first `at` tokens of the memory, forgetting what it had there; gives the logits behind the
        last of `tokens`, good until the next reading. Raises MemoryError when there is no room."""
        ...

    def close(self, memory: Any) -> None: ...


class ModelDrafter:
    """A Drafter of one answer that begins behind `prompt` tokens. `now` is a monotonic clock in seconds."""

    name = "model"

    def __init__(
        self, model: SmallModel, draw: Draw, prompt: int, worth: Worth, timed: Timed, now: Callable[[], float]
    ) -> None:
        self._model, self._draw, self._prompt = model, draw, prompt
        self._worth, self._timed, self._now = worth, timed, now
        self._memory: Any = None
        self._read: list[int] = []  # what the memory holds
        self._open = True

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        most = min(most, self._model.context - len(tokens) - 1)
        if not self._open or not tokens or most <= 0 or (most := min(most, self._worth(len(tokens)))) <= 0:
            return NOTHING
        start = self._now()
        try:
            if self._memory is None:
                self._memory = self._model.open()
            known = len(self._read)
            row = self._caught_up(tokens)
            if row is None or len(tokens) - known > _USUAL:
                self._timed(0, self._now() - start)  # a prompt's reading is nobody's price
                start = self._now()
            return NOTHING if row is None else self._guess(row, tokens, most, start)
        except MemoryError:
            self._give_up()
            return NOTHING

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        self._give_up()

    def _caught_up(self, tokens: Sequence[int]) -> Any | None:
        """The logits behind `tokens`; None while there is more to read than one step may."""
        known = min(len(self._read), len(tokens) - 1)
        # What was accepted is what was guessed, up to the first difference; before the guess nothing differs.
        first = next((i for i in range(max(0, known - _CATCH_UP), known) if self._read[i] != tokens[i]), known)
        piece = list(tokens[first : first + _CATCH_UP])
        del self._read[first:]
        row = self._model.read(self._memory, piece, first)
        self._read += piece
        return row if len(self._read) == len(tokens) else None

    def _guess(self, row: Any, tokens: Sequence[int], most: int, start: float) -> Draft:
        position = len(tokens) - self._prompt
        said, sure = drawn(row, lambda token: self._go_on(token), lambda r, i: self._draw(r, position + i), most)
        self._timed(len(said), self._now() - start)
        return Draft(tuple(said), (), tuple(sure), self.name)

    def _go_on(self, token: int) -> Any:
        row = self._model.read(self._memory, [token], len(self._read))
        self._read.append(token)
        return row

    def _give_up(self) -> None:
        if self._memory is not None:
            self._model.close(self._memory)
        self._memory, self._read, self._open = None, [], False


def drawn(row: Any, go_on: Callable[[int], Any], draw: Draw, most: int) -> tuple[list[int], list[float]]:
    """Tokens drawn one behind the other, until there are `most` or all of them together are unlikely."""
    said: list[int] = []
    sure: list[float] = []
    path = 1.0
    while True:
        token, chance = draw(row, len(said))
        path *= chance
        if said and path < _LEAST_PATH:
            return said, sure
        said.append(token)
        sure.append(max(0.01, min(chance, 0.99)))
        if len(said) == most:
            return said, sure
        row = go_on(token)


def check_vocabulary(small: Sequence[bytes], small_name: str, target: Sequence[bytes], target_name: str) -> None:
    """Raises ModelUnavailable, naming both, unless every token of one is the same token of the other.

    Either may have more of them at the end that nothing is written with: room that its tables were padded with.
    """
    common = min(len(small), len(target))
    other = next((i for i in range(common) if small[i] != target[i]), None)
    if other is None and not any(small[common:]) and not any(target[common:]):
        return
    where = f"token {other} is another" if other is not None else f"{len(small)} and {len(target)} tokens"
    raise ModelUnavailable(f"'{small_name}' cannot draft for '{target_name}': they do not share a vocabulary ({where})")
