"""Where an answer's text ends, and which of it may already be shown.

Tokens are walked one at a time. Text that could still become a stop string is held back, so that no part of a stop
string is ever sent; the earliest stop in the text wins, whatever its place in the list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .request import Choice
from .tokenizer import Detokenizer


class Finish:
    """The text side of one answer. `feed` and `flush` give the text that may be shown, with the tokens it came from."""

    def __init__(self, detokenizer: Detokenizer, stops: Iterable[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = tuple(stops)
        self._held = ""
        self._shown = 0  # characters
        self._waiting: deque[tuple[int, Choice]] = deque()  # where a token's text begins, in characters
        self.stopped = False

    def feed(self, choice: Choice) -> tuple[str, tuple[Choice, ...]]:
        self._waiting.append((self._shown + len(self._held), choice))
        self._held += self._detokenizer.feed(choice.token)
        return self._show(len(self._held) - self._undecided())

    def flush(self) -> tuple[str, tuple[Choice, ...]]:
        """The rest, when the answer ends for another reason than a stop string."""
        self._held += self._detokenizer.flush()
        text, choices = self._show(len(self._held))
        rest = tuple(choice for _, choice in self._waiting)
        self._waiting.clear()
        return text, choices + rest

    def _undecided(self) -> int:
        """How many characters must wait; a whole stop string found sets `stopped` and cuts the text there."""
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return 0
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)

    def _show(self, length: int) -> tuple[str, tuple[Choice, ...]]:
        text, self._held = self._held[:length], self._held[length:]
        self._shown += length
        choices = []
        while text and self._waiting and self._waiting[0][0] < self._shown:
            choices.append(self._waiting.popleft()[1])
        return text, tuple(choices)


def _overlap(text: str, stop: str) -> int:
    """The longest proper beginning of `stop` that `text` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
