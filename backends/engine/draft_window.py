"""Guesses from the target itself, seeing only the last tokens and the first few: for long contexts.

What a step over a long context costs is reading its keys and values; with a window it reads a small part of them, and
mostly says the same (MagicDec, arXiv 2408.11049; sinks: arXiv 2309.17453). Nothing is kept: the keys and values of the
guesses stand behind what the answer has computed, where the next pass writes its own before any row reads them. Knows
the model by a small port; `draft_model_run.py` is that port over the engine's own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .draft import NOTHING, Draft
from .draft_model import Draw, Timed, Worth, drawn

_LEAST = 4  # times what the window reads: a shorter context has little to save


class WindowedModel(Protocol):
    """The target model over one answer's own pages."""

    window: int  # tokens that a windowed row reads, first and last ones together

    def ready(self, rows: int) -> bool:
        """Whether there are places for the keys and values of so many rows behind the computed ones."""
        ...

    def glance(self, token: int, at: int) -> Any:
        """The logits behind `token` at position `at`, seen through the window; all before `at` is computed, or was
        glanced at just before. Good until the next glance. Raises MemoryError when the answer has no page for it."""
        ...


class WindowDrafter:
    """A Drafter of one answer that begins behind `prompt` tokens. `now` is a monotonic clock in seconds."""

    name = "window"

    def __init__(
        self, model: WindowedModel, draw: Draw, prompt: int, worth: Worth, timed: Timed, now: Callable[[], float]
    ) -> None:
        self._model, self._draw, self._prompt = model, draw, prompt
        self._worth, self._timed, self._now = worth, timed, now

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        if len(tokens) < _LEAST * self._model.window or most <= 0:
            return NOTHING
        most = min(most, self._worth(len(tokens)))
        if most <= 0 or not self._model.ready(most):
            return NOTHING
        start, at, position = self._now(), len(tokens) - 1, len(tokens) - self._prompt
        places = iter(range(at, at + most))
        row = self._model.glance(tokens[-1], next(places))
        said, sure = drawn(
            row, lambda token: self._model.glance(token, next(places)), lambda r, i: self._draw(r, position + i), most
        )
        self._timed(len(said), self._now() - start)
        return Draft(tuple(said), (), tuple(sure), self.name)

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        """Nothing is kept."""
