"""Work that nobody waits for: a few pieces at once, and what fails is counted and logged and concerns no request.

Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from ..protocol.errors import TrimtabError

MOST = 8  # at once; more are let go


class Errands:
    """`what` one of them is called in the log. `counts` tells those `let go` and `failed`, and whatever is added."""

    def __init__(self, what: str, log: logging.Logger) -> None:
        self.counts: Counter[str] = Counter()
        self._what = what
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start it, or let it go where too many run. Never waits."""
        if len(self._running) >= MOST:
            self.counts["let go"] += 1
            work.close()
            return
        task = asyncio.ensure_future(self._guarded(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until all that has begun is over."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except TrimtabError as e:
            self.counts["failed"] += 1
            self._log.info("%s failed: %s", self._what, e.code)
        except Exception:
            self.counts["failed"] += 1
            self._log.exception("%s failed", self._what)
