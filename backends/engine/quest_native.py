"""The choice of pages on a model's tape: what attention_quest.py chooses, by kernels/native_quest.py.

Knows words and pages; nothing of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.native import LANES, Compiled
from .attention_native import Plan
from .native import Array, Tape, address

if TYPE_CHECKING:
    from .attention_quest import Bounds

_TABLES = 9  # of the words of a choice


class Choice:
    """Room for what up to `rows` rows choose of up to `pages` pages each. `plan` int64 [4, rows], what they choose of:
    starts, counts, ends and biases."""

    def __init__(self, program: Compiled, bounds: Bounds, plan: npt.NDArray[np.int64], pages: int, parts: int) -> None:
        rows, kv_heads = plan.shape[1], bounds.least.shape[2]
        room, units = -(-pages // LANES) * LANES, rows * kv_heads
        self._program, self._plan, self._room = program, plan, room
        self._least, self._most = bounds.least, bounds.most
        self._limits = np.zeros(rows, dtype=np.int64)
        # A step fills a page for each `page` rows, and the one that each sequence began.
        self._filled, self._full = np.zeros(1, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self._found = np.zeros((parts, room), dtype=np.int32)
        self._words: list[npt.NDArray[np.int64]] = []
        self.lists = np.zeros((units, room), dtype=np.int32)
        self._starts = np.arange(units) * room
        self._counts, self._ends, self._biases = (np.zeros(units, dtype=np.int64) for _ in range(3))

    @property
    def plan(self) -> list[npt.NDArray[np.int64]]:
        """What is chosen, for each row and key head."""
        return [self._starts, self._counts, self._ends, self._biases]

    def add_noted(self, tape: Tape, layer: int, keys: torch.Tensor) -> None:
        """Keep the bounds of the pages that are filled."""
        tape.add(self._program, "noted", self._filled, self._full, keys, self._least[layer], self._most[layer])

    def add_chosen(self, tape: Tape, layer: int, rows: Array, qkv: torch.Tensor) -> None:
        bounds = self._least[layer], self._most[layer]
        chosen = self.lists, self._counts, self._ends, self._biases
        words = tape.add(
            self._program, "chosen", rows, qkv, *bounds, *self._plan, self._limits, 0, self._found, *chosen,
            qkv.shape[1], self._room,
        )  # fmt: skip
        self._words.append(words)

    def lay_out(self, plan: Plan) -> None:
        """For the next run of the tape; `plan` lives as long as that."""
        count = len(plan.filled)
        self._limits[: len(plan.limits)] = plan.limits
        self._filled[0], self._full[:count] = count, plan.filled
        for words in self._words:
            words[_TABLES] = address(plan.tables)
