"""One slot and a trace's arrivals: how long requests wait in plain order, by predicted size, and bounded.

The trace gives the times between arrivals, stretched to the load that is asked for. Sizes are answers whose lengths
were predicted from their prompts where there are any, else the trace's own with a prediction error of a given spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from length_scores import jain
from length_sets import Floats

from trimtab.routing.queue import SizedQueue

LOAD = 0.9
TENANTS = 4
ASSUMED = 0.6  # spread of log(predicted / true) where there is no predictor to measure


@dataclass
class Work:
    """Arrivals and true sizes in mean services; `predicted` in the same unit."""

    arrives: Floats
    size: Floats
    predicted: Floats


@dataclass
class Outcome:
    """In mean services: whole latency, and waiting; `fairness`: Jain's index of the tenants' mean slowdown."""

    mean: float
    p99: float
    longest: float
    fairness: float


def from_trace(trace: Sequence[tuple[float, int]], seed: int, load: float = LOAD) -> Work:
    sizes = np.array([float(tokens) for _, tokens in trace])
    error = np.exp(np.random.default_rng(seed).normal(0, ASSUMED, len(sizes)))
    return _stretched(np.array([at for at, _ in trace]), sizes, sizes * error, load)


def with_answers(
    trace: Sequence[tuple[float, int]], true: Floats, predicted: Floats, seed: int, load: float = LOAD
) -> Work:
    """The trace's arrivals, each asking for one of the answers."""
    drawn = np.random.default_rng(seed).integers(0, len(true), len(trace))
    return _stretched(np.array([at for at, _ in trace]), true[drawn], predicted[drawn], load)


def _stretched(at: Floats, size: Floats, predicted: Floats, load: float) -> Work:
    unit = size.mean()
    arrives = (at - at[0]) / (at[-1] - at[0]) * len(at) / load
    return Work(arrives, size / unit, predicted / unit)


def in_order(work: Work) -> Outcome:
    return _served(work, None)


def bounded(work: Work, bound: float | None = None) -> Outcome:
    """By `SizedQueue` as the package has it."""
    make = SizedQueue[int]
    return _served(work, make(1, 1.0) if bound is None else make(1, 1.0, bound))


def by_size(work: Work) -> Outcome:
    """The shortest first and nothing else: what an unbounded scheduler does."""
    return _served(work, SizedQueue[int](1, 1.0, 1e12))


def _served(work: Work, queue: SizedQueue[int] | None) -> Outcome:
    arrives, sizes, predicted = work.arrives.tolist(), work.size.tolist(), work.predicted.tolist()
    waits, now, coming, plain = np.zeros(len(sizes)), 0.0, 0, 0
    for _turn in range(len(sizes)):
        waiting = len(queue) if queue is not None else coming - plain
        if not waiting and coming < len(sizes):
            now = max(now, arrives[coming])
        while coming < len(sizes) and arrives[coming] <= now:
            if queue is not None:
                queue.push(coming, predicted[coming], arrives[coming], str(coming % TENANTS))
            coming += 1
        if queue is not None:
            taken = queue.pop(now)
        else:
            taken, plain = plain, plain + 1
        waits[taken] = now - arrives[taken]
        now += sizes[taken]
        if queue is not None:
            queue.finished(predicted[taken], sizes[taken])
    return _outcome(waits, work.size)


def _outcome(waits: Floats, sizes: Floats) -> Outcome:
    whole = waits + sizes
    tenants = np.arange(len(sizes)) % TENANTS
    slowdown = np.array([(whole / np.maximum(sizes, 0.05))[tenants == one].mean() for one in range(TENANTS)])
    return Outcome(float(whole.mean()), float(np.percentile(whole, 99)), float(waits.max()), jain(slowdown))
