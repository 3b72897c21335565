"""What one step computes: the new rows of many sequences, flat, with all that attention needs to know of them.

Knows tokens, positions and pages; nothing of requests, of weights or of why a row is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from .attention import Bags, Sight, Span, Tile, in_tile
from .attention_native import Plan
from .attention_quest import Chosen, Noting
from .memory import Memory, Places

_UNLIKE = 2  # sequences share their bags while the longest has at most so many times the shortest one's pages


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of one sequence behind `before` computed ones; `pages` hold all of them.

    `wanted` are the rows, counted from the first new one, whose logits are needed. The others as in attention.Span.
    """

    tokens: Sequence[int]
    before: int
    pages: Sequence[int]
    wanted: Sequence[int]
    paths: Sequence[Sequence[int]] = ()
    marked: Sequence[int] = ()
    exact: int = 0


class Part(Protocol):
    """Attention for the flat rows from `row` to `row + count`."""

    row: int
    count: int

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor: ...


class Batch:
    """`tokens`, `positions` int64 [rows]; `wanted` int64, the rows whose logits are computed, in the order of the
    sequences given. How rows attend is laid out when it is asked for: `parts`, which cover all rows in order, and
    `places`; or one `plan`."""

    def __init__(self, sequences: Sequence[Rows], memory: Memory, heads: int, sight: Sight, tiles: bool) -> None:
        self._groups = _grouped(sequences, memory, heads, sight, tiles)
        order = [i for group in self._groups for i in group.members]
        spans: dict[int, Span] = {}
        row = 0
        for i in order:
            s = sequences[i]
            spans[i] = Span(row, len(s.tokens), s.before, s.pages, s.paths, s.marked, s.exact)
            row += len(s.tokens)
        device = memory.values.device
        self._ordered = [sequences[i] for i in order]
        self.spans, self._memory, self._heads, self.sight = spans, memory, heads, sight
        self.rows = row
        self.tokens = torch.tensor([t for s in self._ordered for t in s.tokens], device=device)
        self.positions = torch.tensor([p for i in order for p in spans[i].positions()], device=device)
        self.wanted = torch.tensor(
            [spans[i].row + w for i, s in enumerate(sequences) for w in s.wanted], dtype=torch.int64, device=device
        )

    @cached_property
    def parts(self) -> list[Part]:
        memory, heads, sight = self._memory, self._heads, self.sight
        parts = [group.form([self.spans[i] for i in group.members], memory, heads, sight) for group in self._groups]
        return parts if sight.best is None else [Noting(list(self.spans.values()), memory), *parts]

    @cached_property
    def places(self) -> Places:
        return self._memory.places(self.slots)

    @property
    def slots(self) -> list[int]:
        """Where each row's keys and values go: page * page size + place in it."""
        page = self._memory.page
        return [
            s.pages[n // page] * page + n % page
            for s in self._ordered
            for n in range(s.before, s.before + len(s.tokens))
        ]

    @property
    def plan(self) -> Plan:
        return Plan.of(list(self.spans.values()), self._memory.page, self.sight)


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences, by number, whose attention is one part."""

    form: Callable[[Sequence[Span], Memory, int, Sight], Part]
    members: list[int]


def _grouped(sequences: Sequence[Rows], memory: Memory, heads: int, sight: Sight, tiles: bool) -> list[_Group]:
    every = range(len(sequences))
    if not memory.turned:
        return _grouped_for_kernels(sequences, memory, heads, sight)
    chosen = [i for i in every if sight.best is not None and _answers(sequences[i])]
    left = set(every) - set(chosen)
    many = [i for i in left if tiles and not sequences[i].paths and _in_tile(sequences[i], heads)]
    few = sorted(left - set(many), key=lambda i: len(sequences[i].pages))
    groups = [_Group(Bags, group) for group in _alike(sequences, few)] + [_Group(Tile, [i]) for i in many]
    chosen.sort(key=lambda i: len(sequences[i].pages))
    return groups + [_Group(Chosen, group) for group in _alike(sequences, chosen)]


def _grouped_for_kernels(sequences: Sequence[Rows], memory: Memory, heads: int, sight: Sight) -> list[_Group]:
    from .attention_kernels import Paged, PagedBest, Prompts, is_prompt

    every = range(len(sequences))
    group = heads // memory.values.shape[2]
    trees = [i for i in every if sequences[i].paths]
    prompts = [i for i in every if not sequences[i].paths and is_prompt(len(sequences[i].tokens), group)]
    few = sorted(set(every) - set(trees) - set(prompts))
    best = [i for i in few if sight.best is not None and _answers(sequences[i])]
    few = [i for i in few if i not in best]
    kinds = [_Group(Paged, few), _Group(PagedBest, best), _Group(Paged, trees), _Group(Prompts, prompts)]
    return [kind for kind in kinds if kind.members]


def _answers(s: Rows) -> bool:
    """Whether some of the rows are an answer's."""
    return s.before + len(s.tokens) > s.exact


def _in_tile(s: Rows, heads: int) -> bool:
    return in_tile(len(s.tokens), s.before, heads)


def _alike(sequences: Sequence[Rows], few: Sequence[int]) -> list[list[int]]:
    """Runs of sequences, ordered by their pages, that do not differ too much: all are padded to the longest."""
    groups: list[list[int]] = []
    for i in few:
        if groups and len(sequences[i].pages) <= _UNLIKE * len(sequences[groups[-1][0]].pages):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
