"""The thread that owns the engine: loads it, hands it what is submitted, and lets it step while there is work.

Requests come in through `submit`, from any thread; what comes of them goes out through each job's `emit`, called on
this thread. Knows nothing of asyncio, of wire formats, or of what a step is.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...protocol.errors import Draining, Internal, ModelUnavailable, Overloaded, TrimtabError
from .sequence import Job

if TYPE_CHECKING:
    from .loaded import Loaded

log = logging.getLogger("trimtab.engine")

_EXIT_S = 10.0  # that a process which ends without `stop` waits for a step
_HELD_UP_S = 0.02  # between two looks at requests whose clients take nothing


class Loop:
    """The engine's thread. `most_waiting` requests may wait for their turn, beside those that run."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        most_waiting: int,
        stuck_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A step that takes longer than `stuck_s` seconds means that the engine does not answer."""
        self._load, self._most_waiting, self._stuck_s, self._clock = load, most_waiting, stuck_s, clock
        self._changed = threading.Condition()
        self._inbox: list[Job] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="trimtab-engine", daemon=True)
        self._since: float | None = None  # when the step in progress began
        self.loaded: Loaded | None = None
        self.failure: TrimtabError | None = None

    def start(self) -> None:
        # A thread that is computing when the interpreter ends aborts the process.
        atexit.register(self.stop, _EXIT_S)
        self._thread.start()

    def stop(self, most_s: float | None = None) -> None:
        """End after the current step; what still runs or waits is told Draining. Blocks until the thread is gone, or
        for so many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(most_s)
        atexit.unregister(self.stop)

    @property
    def ready(self) -> bool:
        """Whether it is loaded, has decoded a token, goes on living, and is not stuck in a step."""
        since = self._since
        stuck = since is not None and self._clock() - since > self._stuck_s
        return self.loaded is not None and self._thread.is_alive() and not stuck

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Overloaded when too many wait, Draining when the engine is stopping."""
        with self._changed:
            if self._stopping:
                raise Draining("the engine is stopping")
            self._inbox = [j for j in self._inbox if not j.cancelled]
            if len(self._inbox) + self._queued() >= self._most_waiting:
                raise Overloaded(f"the engine already has {self._most_waiting} requests waiting", retry_after=1.0)
            self._inbox.append(job)
            self._changed.notify()

    def measures(self) -> dict[tuple[str, str], int]:
        """The pages of the memory and the answers, by what they are in; nothing before the model is there."""
        if self.loaded is None:
            return {}
        engine = self.loaded.engine
        free, cached, used = engine.pages
        waiting = len(engine.waiting) + len(self._inbox)
        return {
            ("pages", "free"): free,
            ("pages", "cached"): cached,
            ("pages", "used"): used,
            ("answers", "running"): len(engine.running),
            ("answers", "waiting"): waiting,
        }

    def _queued(self) -> int:
        """Jobs in the engine's own queue: read from another thread, so a moment old."""
        if self.loaded is None:
            return 0
        return len({sequence.job for sequence in list(self.loaded.engine.waiting) if not sequence.job.cancelled})

    def _main(self) -> None:
        try:
            self.loaded = self._load()
        except ModelUnavailable as e:
            log.error("the engine cannot start: %s", e)
            self.failure = e
        except Exception:  # whatever else is wrong must reach the callers who wait
            log.exception("the engine cannot start")
            self.failure = ModelUnavailable("the engine's model could not be loaded; the log says why")
        if self.loaded is not None:
            while self._taken_in(self.loaded):
                self._step(self.loaded)
        self._dismiss()

    def _taken_in(self, loaded: Loaded) -> bool:
        """Give the engine what came in, waiting while there is nothing to do. False: the engine is to stop."""
        with self._changed:
            while not (self._stopping or self._inbox or loaded.engine.busy):
                self._changed.wait()
            came, self._inbox = self._inbox, []
            for job in came:
                loaded.engine.add(job)
            return not self._stopping

    def _step(self, loaded: Loaded) -> None:
        self._since = self._clock()
        try:
            worked = loaded.engine.step()
        except Exception:  # a fault of the engine itself: nobody may wait for ever
            log.exception("a step of the engine failed")
            loaded.engine.dismiss(Internal("the engine failed"))
            worked = True
        self._since = None
        if not worked and loaded.engine.busy:
            with self._changed:
                self._changed.wait(_HELD_UP_S)

    def _dismiss(self) -> None:
        with self._changed:
            self._stopping = True
            came, self._inbox = self._inbox, []
        error = self.failure or Draining("the engine is stopping")
        for job in came:
            if not job.cancelled:
                job.emit(error)
        if self.loaded is not None:
            self.loaded.engine.dismiss(error)
