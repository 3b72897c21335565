"""The engine's own model as a drafter's: a small one over pages of its own, or the target itself through a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .attention import Sight
from .batch import Rows
from .draft_model import Draw
from .forward import Pass
from .memory import Memory
from .model import Model
from .pages import PagePool
from .sample import Law, draw
from .sequence import Sequence as Answer


@dataclass(slots=True)
class _Read:
    pages: list[int] = field(default_factory=list)


class OwnPages:
    """A SmallModel: a model with a memory of its own for keys and values, beside the target's of `vocabulary` tokens.

    Either vocabulary may be padded with tokens that nothing is written with: one of those is as good as another.
    """

    def __init__(self, model: Model, memory: Memory, vocabulary: int) -> None:
        self._vocabulary, self._last = vocabulary, model.shape.vocabulary - 1
        self.context = min(model.shape.context, memory.pages * memory.page)
        self.over = Pass(model, memory, Sight())
        self._pool = PagePool(memory.pages)

    def open(self) -> _Read:
        return _Read()

    def read(self, memory: _Read, tokens: Sequence[int], at: int) -> torch.Tensor:
        lacking = -(-(at + len(tokens)) // self.over.memory.page) - len(memory.pages)
        pages = self._pool.take(max(0, lacking))
        if pages is None:
            raise MemoryError
        memory.pages += pages
        known = [min(token, self._last) for token in tokens]
        return self.over.logits([Rows(known, at, memory.pages, [len(tokens) - 1])])[:, : self._vocabulary]

    def close(self, memory: _Read) -> None:
        self._pool.drop(memory.pages)
        memory.pages = []


class Glances:
    """A WindowedModel: the target over the pages that answers have, or are given by `room` for so many rows more."""

    def __init__(self, over: Pass, room: Callable[[Answer, int], bool]) -> None:
        self.window = (over.sight.window or 0) + over.sight.sinks
        self._over, self._room = over, room

    def ready(self, answer: Answer, rows: int) -> bool:
        return self._room(answer, rows)

    def glance(self, answers: Sequence[Answer], tokens: Sequence[int], at: Sequence[int]) -> list[tuple[int, float]]:
        pairs = list(zip(answers, at, strict=True))
        rows = [Rows([token], place, s.pages, [0]) for token, (s, place) in zip(tokens, pairs, strict=True)]
        laws = [Law(s.sampling, place + 1 - s.prompt, s.said) for s, place in pairs]
        return _drawn(self._over.logits(rows), laws)


def draws_as(answer: Answer) -> Draw:
    """How the target will draw this answer's tokens, noise included; penalties as of its tokens so far."""

    def drawing(row: torch.Tensor, position: int) -> tuple[int, float]:
        return _drawn(row, [Law(answer.sampling, position, answer.said)])[0]

    return drawing


def _drawn(rows: torch.Tensor, laws: Sequence[Law]) -> list[tuple[int, float]]:
    """The token of each row, and how probable it was."""
    tokens = draw(rows, laws)
    heat = torch.tensor([law.sampling.temperature or 1.0 for law in laws], device=rows.device)
    logs = torch.log_softmax(rows.float() / heat[:, None], dim=-1)
    chances = logs.gather(-1, torch.tensor(tokens, device=rows.device)[:, None])[:, 0].exp()
    return list(zip(tokens, chances.tolist(), strict=True))
