"""How long a kernel takes on this device: medians of graph replays over rotated inputs, and the two ceilings.

Work on a device is asynchronous and a launch costs the host more than a small kernel takes, so calls are recorded once
into a CUDA graph, one after the other over input sets that together are larger than the L2 cache, and the graph's
replays are timed by device events. What cannot be recorded is timed call by call, and says so.
"""

from __future__ import annotations

import contextlib
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from case import Thunk

WARM_UP = 3
REPLAYS = 20


@dataclass(frozen=True)
class Ceilings:
    """What this device does at most, measured in this run: bytes and operations a second."""

    copy: float
    matmul: float

    def bound_ms(self, moved: int, flops: int) -> float:
        """The least time that moving `moved` bytes and doing `flops` can take."""
        return max(moved / self.copy, flops / self.matmul) * 1e3


@dataclass(frozen=True)
class Timed:
    """Milliseconds of one call: the median of each round. `eager` when it could not be recorded into a graph."""

    rounds: tuple[float, ...]
    eager: bool

    @property
    def ms(self) -> float:
        return statistics.median(self.rounds)


def sets_needed(device: torch.device, moved: int) -> int:
    """How many input sets are together four times the L2, at least two; few where one is large."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, min(64, math.ceil(4 * cache / max(moved, 1))))


class Recorded:
    """One system's calls over all input sets, ready to be timed again and again."""

    def __init__(self, thunks: Sequence[Thunk]) -> None:
        self._thunks = thunks
        for _ in range(WARM_UP):
            for thunk in thunks:
                thunk()
        torch.cuda.synchronize()
        self._graph = _graph_of(thunks)
        self.eager = self._graph is None

    def round_ms(self) -> float:
        """The median over replays of one call's time."""
        spans = []
        for _ in range(REPLAYS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            if self._graph is not None:
                self._graph.replay()
            else:
                for thunk in self._thunks:
                    thunk()
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in spans) / len(self._thunks)


def _graph_of(thunks: Sequence[Thunk]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for thunk in thunks:
                thunk()
        graph.replay()
        torch.cuda.synchronize()
    except RuntimeError:
        with contextlib.suppress(RuntimeError):  # the failed recording's error may be reported once more
            torch.cuda.synchronize()
        return None
    return graph


def race(systems: Mapping[str, Recorded], rounds: int, order: random.Random) -> dict[str, Timed]:
    """Every system's time, in rounds whose order is drawn anew: no system always follows the same other."""
    found: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        names = list(systems)
        order.shuffle(names)
        for name in names:
            found[name].append(systems[name].round_ms())
    return {name: Timed(tuple(times), systems[name].eager) for name, times in found.items()}


def ceilings(device: torch.device) -> Ceilings:
    """A copy of 4 GiB, bytes read and written counted; a product of 8192 x 8192 bf16 matrices, random, never zeros."""
    moved, copying = 2 << 32, _alone(_copying(device, 1 << 32))
    torch.cuda.empty_cache()
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in "ab")
    multiplying = _alone(lambda: torch.matmul(a, b))
    return Ceilings(copy=moved / copying * 1e3, matmul=2 * 8192**3 / multiplying * 1e3)


def _copying(device: torch.device, size: int) -> Thunk:
    source = torch.empty(size // 2, dtype=torch.float16, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _alone(thunk: Thunk) -> float:
    return race({"": Recorded([thunk])}, 3, random.Random(0))[""].ms
