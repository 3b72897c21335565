"""A link to a store that may be slow, wrong or gone: one task owns one connection, and nobody else reads from it.

Callers put commands in a queue and wait for a future, so a cancelled caller cannot leave its reply for the next one
(the fault behind OpenAI's leak of March 2023): the task reads every reply, or closes the connection. What is queued
together travels together. One failed exchange takes the link down; while it is down, `ask` fails at once, and the task
dials again, at once and then about every second. A dial counts only when the store answers within the operation's time.

It knows no protocol (`Wire` does) and no limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

log = logging.getLogger("trimtab.store")

_BATCH = 64
_TRIES = 5  # of a posted command that the store itself refuses
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0

Command = tuple[Any, ...]


class WireFault(Exception):
    """The connection failed, or the store refused. The message holds no secret."""


class LinkDown(Exception):
    """The command has no answer. Whether the store has carried it out may be unknown."""


class Wire(Protocol):
    """One connection. A reply that is an exception is the store's own refusal of that command."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, read all, in order. Raises WireFault; after that, or a cancellation, only `close` may be called."""
        ...

    async def close(self) -> None: ...


class _Item:
    __slots__ = ("command", "future", "sent", "tries")

    def __init__(self, command: Command, future: asyncio.Future[Any] | None) -> None:
        self.command = command
        self.future = future
        self.sent = False
        self.tries = 0


class Link:
    """`timeout` bounds one exchange, so an answered `ask` takes at most twice that. Seconds."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Wire]],
        *,
        timeout: float = 0.05,
        keep: int = 10_000,
        on_up: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.up = False
        self.reason: str | None = "not connected yet"
        self.counts: Counter[str] = Counter()
        self._dial = dial
        self._timeout = timeout
        self._keep = keep
        self._on_up = on_up
        self._sleep = sleep
        self._jitter = jitter
        self._queue: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._quiet = asyncio.Event()
        self._decided = asyncio.Event()  # clear while the first dial after a drop is under way
        self._task: asyncio.Task[None] | None = None

    async def start(self, within: float = 1.0) -> None:
        """Begin dialling; returns when the first dial has succeeded or failed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="trimtab-store-link")
            await self._first_dial(within)

    async def close(self, within: float = 1.0) -> None:
        """Send what is posted, for at most `within` seconds, then hang up."""
        task, self._task = self._task, None
        if task is None:
            return
        if self.up and not await self.drain(within) and self._queue:
            log.warning("%d commands for the store were not sent", len(self._queue))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def ask(self, command: Command, undo: Command | None = None) -> Any:
        """The reply. Raises LinkDown, at once when the link is down.

        When the caller will never hear of an effect that the command may have had, `undo` is posted.
        """
        item = self._asked(command)
        try:
            return await item.future  # type: ignore[misc]
        except BaseException:
            if item.sent and undo is not None:
                self.post(undo)
            raise

    def send(self, command: Command) -> asyncio.Future[Any]:
        """The reply that will come, or LinkDown as its exception: sent once and never again after a break.

        Raises LinkDown, at once when the link is down.
        """
        future = self._asked(command).future
        assert future is not None
        return future

    def post(self, command: Command) -> None:
        """Send without waiting: in order, and again after a break, until the store has answered.

        So the command must bear being carried out twice. Beyond `keep` waiting commands the oldest is dropped.
        """
        if len(self._queue) >= self._keep:
            self._lose(self._queue.popleft(), "too many are waiting")
        self._put(_Item(command, None))

    async def soon(self) -> bool:
        """Whether the link is up, after waiting for the first dial that follows a drop (at most `timeout`)."""
        if not self.up and self._task is not None:
            await self._first_dial(self._timeout)
        return self.up

    async def drain(self, within: float) -> bool:
        """Wait until everything queued is answered."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._quiet.wait()
        return self._quiet.is_set()

    async def _first_dial(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._decided.wait()

    def _asked(self, command: Command) -> _Item:
        if not self.up:
            raise LinkDown
        item = _Item(command, asyncio.get_running_loop().create_future())
        self.counts["asked"] += 1
        self._put(item)
        return item

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        self._quiet.clear()
        self._wake.set()

    # The one task.

    async def _run(self) -> None:
        while True:
            wire = await self._dialled()
            try:
                self._turn_up()
                await self._serve(wire)
            except WireFault as e:
                log.warning("the store is out of service: %s", e)
                self.counts["drops"] += 1
                self._turn_down(str(e))
            except BaseException:
                self._turn_down("closed")
                raise
            finally:
                await wire.close()

    async def _dialled(self) -> Wire:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._dial()
            except WireFault as e:
                self.reason = str(e)
                self._decided.set()
            await self._sleep(pause * (0.5 + self._jitter() / 2))
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _turn_up(self) -> None:
        self.counts["dials"] += 1
        log.info("the store answers")
        self.up, self.reason = True, None
        self._decided.set()
        self._on_up()

    def _turn_down(self, reason: str) -> None:
        self.up, self.reason = False, reason
        self._decided.clear()
        waiting, self._queue = self._queue, deque()
        for item in waiting:
            self._fail(item)

    async def _serve(self, wire: Wire) -> None:
        while True:
            batch = self._take()
            if not batch:
                self._quiet.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(self._timeout):
                    replies = await wire.exchange([item.command for item in batch])
            except BaseException as e:
                # Failed before those behind them in the queue, so that posts keep their order.
                self._queue.extendleft(reversed(batch))
                if isinstance(e, TimeoutError):
                    raise WireFault(f"no answer within {self._timeout:g} s") from None
                raise
            self._deliver(batch, replies)

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        while self._queue and len(batch) < _BATCH:
            item = self._queue.popleft()
            if item.future is None or not item.future.done():
                item.sent = True
                batch.append(item)
        return batch

    def _deliver(self, batch: list[_Item], replies: list[Any]) -> None:
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        for item, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                item.tries += 1
                self._fail(item, reply)
            elif item.future is not None and not item.future.done():
                item.future.set_result(reply)
        if refused:
            raise WireFault(f"it refuses commands: {refused[0]}")

    def _fail(self, item: _Item, error: Exception | None = None) -> None:
        """A question fails; a posted command waits for the next connection."""
        if item.future is not None:
            if not item.future.done():
                item.future.set_exception(LinkDown())
        elif item.tries >= _TRIES:
            self._lose(item, str(error))
        else:
            self._queue.append(item)

    def _lose(self, item: _Item, why: str) -> None:
        if item.future is not None and not item.future.done():
            item.future.set_exception(LinkDown())
            return
        self.counts["lost"] += 1
        log.error("a command for the store is lost (%s): %s", why, item.command[0])
