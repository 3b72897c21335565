"""The one forward pass of a step: over all its turns at once, or over each alone where one of them makes it fail.

Knows turns, rows and logits; nothing of why a row is computed or what is drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from .attention import Sight
from .batch import Batch, Rows
from .memory import Memory
from .model import Model
from .turn import Turn

if TYPE_CHECKING:
    from .graphs import Graphs


class Pass:
    """The model over one memory, whose rows see what `sight` says. `graphs`: captured steps, where the device has
    such."""

    def __init__(self, model: Model, memory: Memory, sight: Sight) -> None:
        self.graphs: Graphs | None = None
        self.model, self.memory, self.sight = model, memory, sight

    def logits(self, rows: Sequence[Rows], *, captured: bool = True) -> torch.Tensor:
        """Float32 [wanted, vocabulary]; if they come of a captured step, good until the next one."""
        logits = self.graphs.logits(rows) if captured and self.graphs is not None else None
        if logits is not None:
            return logits
        batch = Batch(rows, self.memory, self.model.shape.heads, self.sight, self.model.tiles)
        return self.model.forward(batch, self.memory)


class Forward:
    """`broken` is told of a turn that fails by itself, from within the exception."""

    def __init__(self, over: Pass, broken: Callable[[Turn], None]) -> None:
        self.over, self._broken = over, broken

    def run(self, turns: list[Turn]) -> torch.Tensor:
        """Float32 logits [wanted, vocabulary] of the rows that are needed, good until the next run. A turn that fails
        is taken out of `turns`."""
        try:
            return self._over(turns, captured=True)
        except Exception:
            if len(turns) == 1:
                self._broken(turns.pop())
                return torch.empty((0, self.over.model.shape.vocabulary))
        # One of them is to blame: each is tried alone. Its keys and values are written once more, to the same places.
        # No graph here: the logits of one would stand where those of the one before do.
        out = []
        for turn in list(turns):
            try:
                out.append(self._over([turn], captured=False))
            except Exception:
                turns.remove(turn)
                self._broken(turn)
        _number(turns)
        return torch.cat(out) if out else torch.empty((0, self.over.model.shape.vocabulary))

    def _over(self, turns: Sequence[Turn], *, captured: bool) -> torch.Tensor:
        _number(turns)
        return self.over.logits([turn.to_compute(self.over.sight.marks) for turn in turns], captured=captured)


def _number(turns: Sequence[Turn]) -> None:
    for turn in turns:
        turn.wanted = len(turn.wants())
    for turn, row in zip(turns, accumulate((t.wanted for t in turns), initial=0), strict=False):
        turn.row = row
