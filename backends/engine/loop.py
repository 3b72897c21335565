"""The thread that owns the model: loads it, then goes round the running requests, one step of each in turn.

Requests come in through `submit`, from any thread; what comes of them goes out through each job's `emit`, called on
this thread. Knows nothing of asyncio, of wire formats, or of what a step is.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...protocol.errors import Draining, Internal, ModelUnavailable, Overloaded, TrimtabError

if TYPE_CHECKING:
    from .runner import Loaded

log = logging.getLogger("trimtab.engine")


class Steps(Protocol):
    """Work that is done a little at a time; `step` gives what came of it, `generated` counts new tokens."""

    generated: int
    done: bool

    def step(self) -> Sequence[Any]: ...


@dataclass(slots=True, eq=False)
class Job:
    """One request: the runs of its prompts, one after another. `cancelled` may be set by anyone at any time."""

    begin: Sequence[Callable[[], Steps]]
    emit: Callable[[Sequence[Any] | TrimtabError | None], None]  # None: all runs are done
    cancelled: bool = False
    generated: int = 0  # tokens, so far
    run: Steps | None = None
    at: int = 0


class Loop:
    """The engine's thread. At most `most_running` jobs share the model, and `most_waiting` more may wait."""

    def __init__(self, load: Callable[[], Loaded], most_running: int, most_waiting: int) -> None:
        self._load = load
        self._most_running, self._most_waiting = most_running, most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="trimtab-engine", daemon=True)
        self.loaded: Loaded | None = None
        self.failure: TrimtabError | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the current step; what still runs or waits is told Draining. Blocks until the thread is gone."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Overloaded when the queue is full, Draining when the engine is stopping."""
        with self._changed:
            if self._stopping:
                raise Draining("the engine is stopping")
            self._waiting = deque(j for j in self._waiting if not j.cancelled)
            if len(self._waiting) >= self._most_waiting:
                raise Overloaded(f"the engine already has {self._most_waiting} requests waiting", retry_after=1.0)
            self._waiting.append(job)
            self._changed.notify()

    def _main(self) -> None:
        try:
            self.loaded = self._load()
        except ModelUnavailable as e:
            log.error("the engine cannot start: %s", e)
            self.failure = e
        except Exception:  # whatever else is wrong must reach the callers who wait
            log.exception("the engine cannot start")
            self.failure = ModelUnavailable("the engine's model could not be loaded; the log says why")
        if self.failure is None:
            while self._admit():
                for job in list(self._running):
                    self._step(job)
        self._dismiss()

    def _admit(self) -> bool:
        """Fill the running set, waiting while there is nothing to do. False: the engine is to stop."""
        with self._changed:
            while not (self._stopping or self._running or self._waiting):
                self._changed.wait()
            while self._waiting and len(self._running) < self._most_running:
                self._running.append(self._waiting.popleft())
            return not self._stopping

    def _step(self, job: Job) -> None:
        try:
            if job.cancelled or not self._advanced(job):
                self._running.remove(job)
        except Exception as e:  # one request's failure (memory, say) must not end the engine
            log.exception("a request failed in the engine")
            self._running.remove(job)
            job.emit(e if isinstance(e, TrimtabError) else Internal("the engine failed on this request"))

    def _advanced(self, job: Job) -> bool:
        if job.run is None:
            job.run = job.begin[job.at]()
            job.at += 1
        before = job.run.generated
        events = job.run.step()
        job.generated += job.run.generated - before
        if events:
            job.emit(events)
        if job.run.done:
            job.run = None
            if job.at == len(job.begin):
                job.emit(None)
                return False
        return True

    def _dismiss(self) -> None:
        with self._changed:
            self._stopping = True
            jobs = [*self._running, *self._waiting]
            self._running, self._waiting = [], deque()
        for job in jobs:
            if not job.cancelled:
                job.emit(self.failure or Draining("the engine is stopping"))
