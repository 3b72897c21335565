"""What one step computes: the new rows of many sequences, flat, with all that attention needs to know of them.

Knows tokens, positions and pages; nothing of requests, of weights or of why a row is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .attention import Bags, Sight, Span, Tile, in_tile
from .memory import Memory

_UNLIKE = 2  # sequences share their bags while the longest has at most so many times the shortest one's pages


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of one sequence behind `before` computed ones; `pages` hold all of them.

    `wanted` are the rows, counted from the first new one, whose logits are needed. `paths` as in attention.Span.
    """

    tokens: Sequence[int]
    before: int
    pages: Sequence[int]
    wanted: Sequence[int]
    paths: Sequence[Sequence[int]] = ()


class Part(Protocol):
    """Attention for the flat rows from `row` to `row + count`."""

    row: int
    count: int

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor: ...


class Batch:
    """`tokens`, `positions` int64 [rows]; `wanted` int64, the rows whose logits are computed, in the order of the
    sequences given; `parts` cover all rows in order."""

    def __init__(self, sequences: Sequence[Rows], memory: Memory, heads: int, sight: Sight, tiles: bool) -> None:
        few = [i for i, s in enumerate(sequences) if not _tiled(s, heads, tiles)]
        few.sort(key=lambda i: len(sequences[i].pages))
        many = [i for i, s in enumerate(sequences) if _tiled(s, heads, tiles)]
        spans, row = {}, 0
        for i in few + many:
            s = sequences[i]
            spans[i] = Span(row, len(s.tokens), s.before, s.pages, s.paths)
            row += len(s.tokens)
        self.parts: list[Part] = [Bags(g, memory, heads, sight) for g in _alike([spans[i] for i in few])]
        self.parts += [Tile(spans[i], memory, heads, sight) for i in many]
        device = memory.values.device
        ordered = [sequences[i] for i in few + many]
        self.rows = row
        self.tokens = torch.tensor([t for s in ordered for t in s.tokens], device=device)
        self.positions = torch.tensor([p for i in few + many for p in spans[i].positions()], device=device)
        self.wanted = torch.tensor(
            [spans[i].row + w for i, s in enumerate(sequences) for w in s.wanted], dtype=torch.int64, device=device
        )
        page = memory.page
        slots = [
            s.pages[n // page] * page + n % page for s in ordered for n in range(s.before, s.before + len(s.tokens))
        ]
        self.places = memory.places(slots)


def _tiled(s: Rows, heads: int, tiles: bool) -> bool:
    return tiles and not s.paths and in_tile(len(s.tokens), s.before, heads)


def _alike(spans: Sequence[Span]) -> list[list[Span]]:
    """Runs of spans, ordered by their pages, that do not differ too much: the shorter are padded to the longest."""
    groups: list[list[Span]] = []
    for span in spans:
        if groups and len(span.pages) <= _UNLIKE * len(groups[-1][0].pages):
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups
