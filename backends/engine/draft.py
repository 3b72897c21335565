"""The port of speculation: who may guess what an answer says next.

A guess changes how many tokens one pass of the model yields, never which: the target's own token is drawn first
(`verify.py`). So a drafter needs no probabilities and may be wrong at will. Knows nothing of models or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens, each behind its parent: an index into `tokens` before its own, or -1 for the answer so far.

    No `parents` means a chain. `confidence` is, for each token, the drafter's own estimate that it is right if its
    parent is; the controller corrects it by what it has seen. `source` names who guessed, for figures and learning.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    source: str = ""

    @property
    def chain(self) -> bool:
        return not self.parents

    def cut(self, length: int) -> Draft:
        """The first `length` tokens; a tree's nodes come parents first, so that what is left is a tree again."""
        return Draft(self.tokens[:length], self.parents[:length], self.confidence[:length], self.source)


NOTHING = Draft()


class Drafter(Protocol):
    """Guesses for one answer. Made when the answer begins, closed when it ends, however it ends."""

    name: str

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        """At most `most` tokens behind `tokens`, the prompt and the answer so far, which only ever grow."""
        ...

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        """The answer is over; `whole` if it ended by itself and may serve later ones."""
        ...
