"""Identical requests at the same moment share one answer: the first asks, the others wait for what it gets.

A follower of a stream is given its events as they come, so nobody waits longer than by asking. When the first one's
answer fails before a follower has got anything, one of the followers asks next and the others wait for that: a sick
upstream is called by one at a time and not by all of them at once. Who has seen several fail so, or has waited long, is
told the failure. When the first one's client leaves, its answer goes on as long as somebody follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from ..protocol.errors import UpstreamCut
from ..protocol.messages import Answer, Usage
from .recording import Recorded, of_stream
from .replay import Replay

MOST = 8 << 20  # bytes of an answer that are held for others; a larger one is nobody's but its asker's
SUCCESSIONS = 3  # how often who follows sees another one ask in place of one whose answer failed
PATIENCE_S = 60.0  # who has waited longer than that waits for no other


class Flight:
    """One answer on its way: `event`, `done` and `close` are its asker's, `join` is everybody else's.

    `target` says who gives it, `landed` is called once, with the answer or None, when it is over. `mark` is what was
    deleted before it began (Store.mark): whoever comes after a later deletion must not be given it.
    """

    def __init__(self, target: Callable[[], str], landed: Callable[[Recorded | None], None], mark: int = 0) -> None:
        self.target = target
        self.mark = mark
        self._landed = landed
        self._blocks: list[bytes] = []
        self._size = 0
        self._followers = 0
        self.recorded: Recorded | None = None
        self._over = False
        self._large = False
        self.error: BaseException | None = None  # what it failed of, where that would befall anybody who asks
        self._lonely: Callable[[], object] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    # What the asker's request tells it.

    @property
    def shared(self) -> bool:
        return self._followers > 0

    def unshared(self, then: Callable[[], object]) -> None:
        self._lonely = then

    def event(self, block: bytes) -> None:
        if self._over:
            return
        self._size += len(block)
        if self._size > MOST and (not self._followers or self._size > 4 * MOST):
            self._large = True
            self.close()
            return
        self._blocks.append(block)
        self._wake()

    def done(self, target: str, usage: Usage | None, body: bytes | None = None) -> None:
        if self._over:
            return
        if body is None:
            self.recorded = of_stream(self._blocks, target, usage)
        else:
            self.recorded = Recorded("whole", body, target, usage)
        self._end()

    def close(self, error: BaseException | None = None) -> None:
        if not self._over:
            self.error = error
            self._end()

    def _end(self) -> None:
        self._over = True
        fits = self.recorded is not None and len(self.recorded.body) <= MOST
        landed, self._landed = self._landed, _nobody  # who kept the answer keeps us too: megabytes, in a circle
        landed(self.recorded if fits else None)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # What a follower sees.

    @property
    def open(self) -> bool:
        """Whether it can still be joined."""
        return not self._over and self._size <= MOST

    @property
    def may_be_asked_again(self) -> bool:
        """Whether one who asks in its place may come to something that can be shared."""
        return not self._large

    def enter(self) -> None:
        self._followers += 1

    def leave(self) -> None:
        self._followers -= 1
        if not self._followers and self._lonely is not None and not self._over:
            self._lonely()

    async def landing(self) -> Recorded | None:
        """The complete answer, or None if there will be none."""
        while not self._over:
            await self._change()
        return self.recorded

    async def takeoff(self) -> bool:
        """Whether its first event has come; False when it is over, or was no stream at all."""
        while not self._over and not self._blocks:
            await self._change()
        return bool(self._blocks)

    async def after(self, place: int) -> bytes | None:
        """The block at `place`, once it has come; None behind the last. Raises UpstreamCut if the end never comes."""
        while place >= len(self._blocks):
            if self._over:
                if self.recorded is None:
                    raise UpstreamCut("the answer that this request shared was cut off") from self.error
                return None
            await self._change()
        return self._blocks[place]

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


def _nobody(recorded: Recorded | None) -> None:
    """Has been told."""


class Follower:
    """One request's share in a flight; the stream that it gives is itself. Close it, read or not.

    `onward` is asked when the flight has failed: it gives the next one to wait for, or None when this request is the
    next to ask. `clock` in seconds.
    """

    def __init__(
        self,
        flight: Flight,
        onward: Callable[[], Flight | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flight = flight
        self._onward = onward
        self._clock = clock
        self._until = clock() + PATIENCE_S
        self._failures = 0
        self._place = 0
        self._following = False

    @property
    def target(self) -> str:
        return self._flight.target()

    @property
    def usage(self) -> Usage | None:
        recorded = self._flight.recorded
        return None if recorded is None else recorded.usage

    async def whole(self) -> Answer | None:
        """None: nobody is waited for any more, and the request asks for itself. Raises what others were told."""
        try:
            while True:
                self._follow()
                recorded = await self._flight.landing()
                if recorded is not None:
                    return await Replay(recorded).whole()
                if not self._another():
                    return None
        finally:
            await self.aclose()

    async def stream(self) -> AsyncIterator[bytes] | None:
        """As `whole`."""
        begun = False
        try:
            while True:
                self._follow()
                begun = await self._flight.takeoff()
                recorded = self._flight.recorded
                if begun or recorded is not None:
                    break
                if not self._another():
                    return None
        finally:
            if not begun:
                await self.aclose()
        self._onward = None  # it knows the request: a circle
        return self if begun or recorded is None else await Replay(recorded).stream()

    def _another(self) -> bool:
        """Whether another one asks in place of the one that failed. Raises the failure to who has seen enough of it.

        Nothing is handed over: whoever comes here first asks, so one that is cancelled on its way leaves no gap.
        """
        failed = self._flight
        self._leave()
        if failed.error is not None:
            self._failures += 1
            if self._failures > SUCCESSIONS or self._clock() >= self._until:
                raise failed.error.with_traceback(None)
        if self._onward is None or not failed.may_be_asked_again:
            return False
        successor = self._onward()
        if successor is None:
            return False
        self._flight = successor
        return True

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> bytes:
        block = await self._flight.after(self._place)
        if block is None:
            raise StopAsyncIteration
        self._place += 1
        return block

    async def aclose(self) -> None:
        self._onward = None
        self._leave()

    def _leave(self) -> None:
        if self._following:
            self._following = False
            self._flight.leave()

    def _follow(self) -> None:
        if not self._following:
            self._following = True
            self._flight.enter()
