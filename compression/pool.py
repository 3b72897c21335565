"""The few threads that tiers run on: bounded in number, in queue and in time, and shared fairly.

A call that waits for longer than its deadline is left behind: the caller goes on, and the thread is free again once the
work sees for itself that its time is over (`Deadline.check`). Until then it counts as busy, and when all are, the next
request goes on unchanged instead of waiting behind them.

One tenant's work never takes every thread, nor more than half of the queue, and tenants take turns: who sends large
requests by the dozen must not cost the others what was worked out for them, and with it what their provider cached.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..protocol.errors import GatewayError
from .deadline import Deadline, OutOfTime

T = TypeVar("T")

SMALL = 4096  # bytes of input below which changing threads costs more than the work


class Busy(GatewayError):
    """Every thread is at work and the queue is full; the request goes on as it was."""

    code = "busy"


class _Call:
    """Work and who waits for it. `asyncio.wrap_future` would keep both, and the request with them, until a garbage
    collection: its callbacks and its futures refer to each other."""

    __slots__ = ("_loop", "deadline", "future", "whose", "work")

    def __init__(self, whose: str, work: Callable[[Deadline], Any], deadline: Deadline) -> None:
        self.whose = whose
        self.work = work
        self.deadline = deadline
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def tell(self, made: Any, error: BaseException | None = None) -> None:
        """From whatever thread, once: what came of it. Nobody may be waiting any more.

        Lets go of everything: an error's traceback leads back here, and must not lead to the error again.
        """
        future = self.future
        del self.future, self.work
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_settle, future, made, error)

    def cancel(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.future.cancel)


def _settle(future: asyncio.Future[Any], made: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(made)
    else:
        future.set_exception(error)


@dataclass(slots=True)
class _Lane:
    """One tenant's calls."""

    waiting: deque[_Call] = field(default_factory=deque)
    running: int = 0


class Pool:
    """`threads` at work at once and `waiting` more calls that may queue. Threads start with the first call."""

    def __init__(self, threads: int = 2, waiting: int = 16, name: str = "compress") -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads = threads
        self._places = threads + waiting
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()  # whose turn it is next, first
        self._running = self._held = 0
        self._closed = False
        self._lock = threading.Lock()

    async def run(self, work: Callable[[Deadline], T], deadline: Deadline, size: int = SMALL, *, whose: str = "") -> T:
        """What `work(deadline)` returns. Raises Busy, OutOfTime, or what the work raises.

        Work on an input of less than SMALL bytes is done at once, on the caller's own thread. `whose` is the tenant
        that it is for; work of nobody's in particular is not held back.
        """
        deadline.check()
        if size < SMALL:
            return work(deadline)
        call = _Call(whose, work, deadline)
        future = call.future
        self._queue(call)
        try:
            async with asyncio.timeout(deadline.left):
                made: T = await future
                return made
        except TimeoutError:
            deadline.check()
            raise OutOfTime("it took longer than it may") from None
        finally:
            self._forget(call)
            del call, future

    def close(self) -> None:
        """Take no new work and wait for what is running: at most as long as its deadlines allow."""
        with self._lock:
            self._closed = True
            left = [call for lane in self._lanes.values() for call in lane.waiting]
        for call in left:
            call.cancel()
        self._executor.shutdown(wait=True)

    def _queue(self, call: _Call) -> None:
        with self._lock:
            if self._closed:
                raise Busy("the gateway is shutting down")
            lane = self._lanes.get(call.whose) or _Lane()
            own = lane.running + len(lane.waiting)
            if self._held >= self._places or (call.whose and own >= max(1, self._places // 2)):
                raise Busy("every compression thread is at work")
            self._lanes.setdefault(call.whose, lane).waiting.append(call)
            self._held += 1
            self._begin()

    def _forget(self, call: _Call) -> None:
        """Give back the place of a call that nobody waits for and that did not begin."""
        with self._lock:
            lane = self._lanes.get(call.whose)
            if lane is not None and call in lane.waiting:
                lane.waiting.remove(call)
                self._held -= 1
                self._drop_empty(call.whose, lane)

    def _begin(self) -> None:
        """Start what may start; the lock is held. Work that has begun keeps its place until its thread is free."""
        while self._running < self._threads and not self._closed:
            name = next((name for name, lane in self._lanes.items() if lane.waiting and self._may(name, lane)), None)
            if name is None:
                return
            lane = self._lanes[name]
            self._lanes.move_to_end(name)
            call = lane.waiting.popleft()
            if call.future.done():
                self._held -= 1
                self._drop_empty(name, lane)
                continue
            lane.running += 1
            self._running += 1
            self._executor.submit(self._do, call)

    def _may(self, name: str, lane: _Lane) -> bool:
        return not name or lane.running < max(1, self._threads - 1)

    def _do(self, call: _Call) -> None:
        try:
            call.deadline.check()
            made = call.work(call.deadline)
        except BaseException as e:  # whatever it is, it is the caller's
            self._done(call)
            call.tell(None, e)
        else:
            self._done(call)
            call.tell(made)

    def _done(self, call: _Call) -> None:
        with self._lock:
            lane = self._lanes[call.whose]
            lane.running -= 1
            self._running -= 1
            self._held -= 1
            self._drop_empty(call.whose, lane)
            self._begin()

    def _drop_empty(self, name: str, lane: _Lane) -> None:
        if not lane.running and not lane.waiting:
            self._lanes.pop(name, None)
