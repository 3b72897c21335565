"""The few threads that tiers run on: bounded in number, in queue and in time.

A call that waits for longer than its deadline is left behind: the caller goes on, and the thread is free again once the
work sees for itself that its time is over (`Deadline.check`). Until then it counts as busy, and when all are, the next
request goes on unchanged instead of waiting behind them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..protocol.errors import GatewayError
from .deadline import Deadline, OutOfTime

T = TypeVar("T")

SMALL = 4096  # bytes of input below which changing threads costs more than the work


class Busy(GatewayError):
    """Every thread is at work and the queue is full; the request goes on as it was."""

    code = "busy"


class Pool:
    """`threads` at work at once and `waiting` more calls that may queue. Threads start with the first call."""

    def __init__(self, threads: int = 2, waiting: int = 16, name: str = "compress") -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = threading.Semaphore(threads + waiting)

    async def run(self, work: Callable[[Deadline], T], deadline: Deadline, size: int = SMALL) -> T:
        """What `work(deadline)` returns. Raises Busy, OutOfTime, or what the work raises.

        Work on an input of less than SMALL bytes is done at once, on the caller's own thread.
        """
        deadline.check()
        if size < SMALL:
            return work(deadline)
        if not self._places.acquire(blocking=False):
            raise Busy("every compression thread is at work")
        try:
            future = self._executor.submit(_unless_late, work, deadline)
        except RuntimeError:
            self._places.release()
            raise Busy("the gateway is shutting down") from None
        # Also for work that nobody waits for any more: its place is taken until its thread is free again.
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(deadline.left):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            deadline.check()
            raise OutOfTime("it took longer than it may") from None

    def close(self) -> None:
        """Take no new work and wait for what is running: at most as long as its deadlines allow."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _unless_late(work: Callable[[Deadline], T], deadline: Deadline) -> T:
    deadline.check()
    return work(deadline)
