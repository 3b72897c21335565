"""The one forward pass of a step: over all its turns at once, or over each alone where one of them makes it fail.

Knows turns, rows and logits; nothing of why a row is computed or what is drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from .attention import Sight
from .batch import Batch
from .memory import Memory
from .model import Model
from .turn import Turn

if TYPE_CHECKING:
    from .graphs import Graphs


class Forward:
    """`broken` is told of a turn that fails by itself, from within the exception. `graphs`: captured steps, where the
    device has such."""

    def __init__(self, model: Model, memory: Memory, sight: Sight, broken: Callable[[Turn], None]) -> None:
        self.graphs: Graphs | None = None
        self._model, self._memory, self._sight, self._broken = model, memory, sight, broken

    def run(self, turns: list[Turn]) -> torch.Tensor:
        """Float32 logits [wanted, vocabulary] of the rows that are needed, good until the next run. A turn that fails
        is taken out of `turns`."""
        try:
            return self._over(turns, self.graphs)
        except Exception:
            if len(turns) == 1:
                self._broken(turns.pop())
                return torch.empty((0, self._model.shape.vocabulary))
        # One of them is to blame: each is tried alone. Its keys and values are written once more, to the same places.
        # No graph here: the logits of one would stand where those of the one before do.
        out = []
        for turn in list(turns):
            try:
                out.append(self._over([turn], None))
            except Exception:
                turns.remove(turn)
                self._broken(turn)
        _number(turns)
        return torch.cat(out) if out else torch.empty((0, self._model.shape.vocabulary))

    def _over(self, turns: Sequence[Turn], graphs: Graphs | None) -> torch.Tensor:
        _number(turns)
        rows = [turn.to_compute(self._sight.marks) for turn in turns]
        logits = None if graphs is None else graphs.logits(rows)
        if logits is not None:
            return logits
        batch = Batch(rows, self._memory, self._model.shape.heads, self._sight, self._model.tiles)
        return self._model.forward(batch, self._memory)


def _number(turns: Sequence[Turn]) -> None:
    for turn in turns:
        turn.wanted = len(turn.wants())
    for turn, row in zip(turns, accumulate((t.wanted for t in turns), initial=0), strict=False):
        turn.row = row
