"""The threads that share a tape of native functions with the one that runs it: its own, since all wait for one another.

They are there before any of them is given a share: a thread that waits for one that cannot be started waits for ever.
Knows functions and numbers; nothing of tapes.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger("trimtab.engine")

Share = Callable[[int], None]
_Queue = SimpleQueue["tuple[Share, int, SimpleQueue[None]] | None"]

_own = threading.local()


class Crew:
    """So many threads, or as many of them as the system gives; they end when nobody has this any more."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.process = wanted, os.getpid()
        self._queues: list[_Queue] = []
        weakref.finalize(self, _end, self._queues)
        try:
            for _ in range(wanted):
                queue: _Queue = SimpleQueue()
                # Daemons: an interpreter that ends waits for nobody's pass.
                threading.Thread(target=_work, args=(queue,), name="trimtab-native", daemon=True).start()
                self._queues.append(queue)
        except RuntimeError as why:
            log.warning("the engine computes on %d threads instead of %d: %s", len(self) + 1, wanted + 1, why)

    def __len__(self) -> int:
        return len(self._queues)

    def run(self, share: Share, parts: int) -> None:
        """`share(i)` for each of `parts`, one more than there are threads at most: the caller's is the first."""
        done: SimpleQueue[None] = SimpleQueue()
        for i in range(1, parts):
            self._queues[i - 1].put((share, i, done))
        share(0)
        for _ in range(1, parts):
            done.get()


def crew(count: int) -> Crew:
    """The calling thread's own, of at least `count` if there can be so many; a forked process makes another."""
    found: Crew | None = getattr(_own, "crew", None)
    if found is None or found.wanted < count or found.process != os.getpid():
        found = _own.crew = Crew(count)
    return found


def _work(queue: _Queue) -> None:
    while (given := queue.get()) is not None:
        share, i, done = given
        try:
            share(i)
        finally:
            done.put(None)
        del given, share, done  # what they hold is not theirs to keep while they wait


def _end(queues: list[_Queue]) -> None:
    for queue in queues:
        queue.put(None)
