"""Which keys each row of a step reads, as kernels/native_attention.py wants it.

Knows spans and pages; nothing of layers or of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .attention import Sight, Span
from .attention_quest import filled

Words = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """For each row: its pages are `counts` of `tables` (int32) from `starts` on, of whose keys it may see the first
    `ends`; `biases` is where what is added to its scores begins in `bias` (float32), -1 for nothing. Where pages are
    chosen, a row reads `limits` of them at most, and `filled` (int64) are those that the step fills."""

    starts: Words
    counts: Words
    ends: Words
    biases: Words
    limits: Words
    filled: Words
    tables: npt.NDArray[np.int32]
    bias: npt.NDArray[np.float32]

    @classmethod
    def of(cls, spans: Sequence[Span], page: int, sight: Sight) -> Plan:
        """For the rows of `spans`, which are in order."""
        rows: list[tuple[int, int, int, int, int]] = []
        tables: list[int] = []
        bias: list[npt.NDArray[np.float32]] = []
        size = 0
        for span in spans:
            if not span.paths and sight.window is None:
                start = len(tables)
                tables += span.pages
                for end in range(span.before + 1, _end(span) + 1):
                    count = -(-end // page)
                    rows.append((start, count, end, -1, count if end <= span.exact else sight.best or count))
                continue
            for i, position in enumerate(span.positions()):
                numbers = _pages(span, position, page, sight)
                hidden = _hidden(span, i, position, numbers, page, sight)
                rows.append((len(tables), len(numbers), len(numbers) * page, size, len(numbers)))
                tables += [span.pages[n] for n in numbers]
                bias.append(np.where(hidden, -np.inf, 0.0).astype(np.float32))
                size += len(hidden)
        words = np.array(rows, dtype=np.int64).T.copy()
        full = np.array([] if sight.best is None else filled(spans, page), dtype=np.int64)
        joined = np.concatenate(bias) if bias else np.zeros(1, dtype=np.float32)
        return cls(words[0], words[1], words[2], words[3], words[4], full, np.array(tables, dtype=np.int32), joined)


def _end(span: Span) -> int:
    return span.before + span.count


def _pages(span: Span, position: int, page: int, sight: Sight) -> list[int]:
    """The numbers of the pages a row of a tree or of a window reads."""
    if span.paths:  # its guesses are stored in the order of the rows
        return list(range(len(span.pages)))
    return sight.pages(position, position, page, span.marked)


def _hidden(
    span: Span, row: int, position: int, numbers: Sequence[int], page: int, sight: Sight
) -> npt.NDArray[np.bool_]:
    """Whether each key of these pages, in the order they are stored, is hidden from a row."""
    stored = (np.array(numbers)[:, None] * page + np.arange(page)).reshape(-1)
    at = stored
    if span.paths:
        # Where a guess stands in its answer, if the row follows it; behind everything if not.
        at = np.where(stored < span.before, stored, np.iinfo(np.int64).max // 2)
        for depth, guess in enumerate(span.paths[row]):
            at[span.before + guess] = span.before + depth
    keys = torch.from_numpy(at)
    known = torch.isin(keys, torch.tensor(span.marked)) if span.marked else None
    return sight.hidden(keys, torch.tensor(position), known).numpy()
