"""A batch whose tensors stay where they are: what a captured step reads, filled anew before each replay.

Everything that differs from step to step is in these tensors: tokens, positions, places, page tables, lengths, masks of
trees, and the plan of attention, whose grid depends on the batch's size alone. Rows that nobody has are written to no
page, and read by no sequence. Knows tokens, positions and pages, as batch.py does; nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.attention_paged import paged_attention
from ...kernels.attention_placed import Placed
from ...kernels.attention_plan import Plan, plan
from ...kernels.dispatch import multiprocessors
from .attention import Sight, Span
from .batch import Batch, Rows
from .memory import Memory, Places

_ALIGNED = 16  # bytes: kernels are compiled for pointers that are, and again for others
_DTYPES: dict[type[np.generic], torch.dtype] = {np.int64: torch.int64, np.int32: torch.int32}


@dataclass(frozen=True, slots=True)
class Size:
    """Room for so many sequences, of at most `each` rows, and `rows` in all; `tree`: rows see one another by masks."""

    sequences: int
    each: int
    rows: int
    tree: bool


class Buffers:
    """Whole numbers by name, side by side in one piece of memory, so that a step sends them to the device at once."""

    def __init__(self, sizes: Mapping[str, tuple[type[np.generic], tuple[int, ...]]], device: torch.device) -> None:
        self.host: dict[str, npt.NDArray[Any]] = {}
        self.device: dict[str, torch.Tensor] = {}
        lengths = {name: prod(size) * np.dtype(kind).itemsize for name, (kind, size) in sizes.items()}
        starts = list(accumulate((-(-n // _ALIGNED) * _ALIGNED for n in lengths.values()), initial=0))
        self._host = np.zeros(starts[-1], dtype=np.uint8)
        self._device = torch.zeros(starts[-1], dtype=torch.uint8, device=device)
        for (name, (kind, size)), at in zip(sizes.items(), starts, strict=False):
            held = slice(at, at + lengths[name])
            self.host[name] = self._host[held].view(kind).reshape(size)
            self.device[name] = self._device[held].view(_DTYPES[kind]).view(size)

    def send(self) -> None:
        """What the host has written is the device's in the order of its stream. The host may go on writing."""
        made = torch.from_numpy(self._host)
        self._device.copy_(made.pin_memory() if self._device.is_cuda else made, non_blocking=True)


class KeptBatch(Batch):
    """A batch of one size. `fill` says what it computes; then a pass over it, or a replay of one."""

    def __init__(
        self, size: Size, pages: int, memory: Memory, heads: int, sight: Sight, attended: torch.Tensor
    ) -> None:
        """`pages` of one sequence at most. `sight`: no global tokens, and no choice of pages. `attended` [rows or more,
        heads, head], numbers, is where attention leaves what it has read; batches that never run at once may share it.
        """
        self.size, self._memory, self._heads, self.sight = size, memory, heads, sight
        made = self._planned([], [])
        rows, sequences = (size.rows,), (size.sequences,)
        self._buffers = Buffers(
            {
                "tokens": (np.int64, rows),
                "positions": (np.int64, rows),
                "slots": (np.int64, rows),
                "words": (np.int64, rows),
                "starts": (np.int32, (size.sequences + 1,)),
                "lengths": (np.int32, sequences),
                "table": (np.int32, (size.sequences, pages)),
                "items": (np.int32, (len(made.items), 6)),
                "merges": (np.int32, (len(made.merges), 4)),
            },
            memory.values.device,
        )
        held = self._buffers.device
        self.rows, self.tokens, self.positions = size.rows, held["tokens"], held["positions"]
        self.places = Places(held["slots"], held["slots"])
        self.wanted = torch.arange(size.rows, device=memory.values.device)
        self.parts = [_KeptPart(size, held, made, memory, sight, attended[: size.rows])]

    def fill(self, sequences: Sequence[Rows]) -> None:
        """Rows of each sequence, flat, in their order; the rest is padding."""
        host, page = self._buffers.host, self._memory.page
        counts = [len(s.tokens) for s in sequences]
        lengths = [s.before + count for s, count in zip(sequences, counts, strict=True)]
        ends = list(accumulate(counts, initial=0))
        spans = [Span(0, n, s.before, s.pages, s.paths) for s, n in zip(sequences, counts, strict=True)]
        _put(host["tokens"], [token for s in sequences for token in s.tokens], 0)
        _put(host["positions"], [position for span in spans for position in span.positions()], 0)
        _put(host["slots"], [slot for s in sequences for slot in _slots(s, page)], -1)
        _put(host["starts"], ends, ends[-1])
        _put(host["lengths"], lengths, 0)
        for row, s in zip(host["table"], sequences, strict=False):
            used = min(len(s.pages), len(row))
            row[:used] = s.pages[:used]  # what stands behind is of another step: nobody looks there
        if self.size.tree:
            words = np.array([word for s in sequences for word in _words(s)], dtype=np.uint64)
            _put(host["words"], words.view(np.int64), 0)
        made = self._planned(counts, lengths)
        host["items"][:] = np.reshape(made.items, (-1, 6))
        host["merges"][:] = np.reshape(made.merges, (-1, 4))
        self._buffers.send()

    def _planned(self, counts: Sequence[int], lengths: Sequence[int]) -> Plan:
        _, _, kv_heads, page, _ = self._memory.values.shape
        return plan(
            counts, lengths, heads=self._heads, kv_heads=kv_heads, page=page,
            sms=multiprocessors(self._memory.values.device), window=self.sight.window or 0, sinks=self.sight.sinks,
            tree=self.size.tree, most_sequences=self.size.sequences, most_rows=self.size.each,
        )  # fmt: skip


class _KeptPart:
    """Attention of all rows in one call, by what stands in the buffers when it runs."""

    def __init__(
        self, size: Size, held: Mapping[str, torch.Tensor], made: Plan, memory: Memory, sight: Sight, out: torch.Tensor
    ) -> None:
        self.row, self.count = 0, size.rows
        self._held, self._plan, self._memory, self._sight = held, made, memory, sight
        self._tree = held["words"] if size.tree else None
        self._out = out  # no program attends padding: it stays as it is, some numbers

    @property
    def _device(self) -> torch.device:
        return self._memory.values.device

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `attention_kernels.Paged.attend`."""
        memory, held, head = self._memory, self._held, q.shape[2]
        k_scale, v_scale = memory.scales_of(layer)
        out: torch.Tensor = paged_attention(
            q, memory.keys[layer], memory.values[layer], held["table"], held["starts"], held["lengths"],
            scale=head**-0.5, window=self._sight.window or 0, sinks=self._sight.sinks, tree=self._tree,
            plan=self._placed(head), out=self._out, k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip
        return out

    def _placed(self, head: int) -> Placed:
        """Room for partial results is asked for in every layer: captured, all graphs share one pool for it."""
        made = self._plan
        room = (made.partials, made.kv_heads, made.rows)
        return Placed(
            made, self._held["items"], self._held["merges"], torch.empty((*room, head), device=self._device),
            torch.empty(room, device=self._device), self._held["lengths"].shape[0],
        )  # fmt: skip


def _put(into: npt.NDArray[Any], values: Sequence[int] | npt.NDArray[Any], padding: int) -> None:
    into[: len(values)] = values
    into[len(values) :] = padding


def _slots(s: Rows, page: int) -> list[int]:
    return [s.pages[n // page] * page + n % page for n in range(s.before, s.before + len(s.tokens))]


def _words(s: Rows) -> list[int]:
    """64 bits for each row: the new rows that it sees. In a chain these are all up to itself."""
    if s.paths:
        return [sum(1 << row for row in path) for path in s.paths]
    return [(1 << row + 1) - 1 for row in range(len(s.tokens))]
