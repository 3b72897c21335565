"""Who may be answered now: a model's slots, and the queue in front of them.

While a slot is free nobody waits. Beyond that the order is routing/queue.py's: plain while no more wait than there are
slots, then shorter answers first, within bounds. One event loop, one process: each worker has slots of its own. Whoever
is cancelled while waiting is gone at once; a slot that it was just given goes to the next.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ..protocol.errors import Overloaded
from ..routing.queue import SizedQueue

TOKENS_PER_S = 40.0  # an answer's, and
PROMPT_PER_S = 2_000.0  # a prompt's, until services were seen: the queue scales what it is told by what they took
_LONGEST_ADVICE = 60.0  # seconds to come back in, at most


def service(prompt: int, answer: float) -> float:
    """Seconds that a request may take, by its tokens; right up to a factor, which the queue learns."""
    return 0.1 + prompt / PROMPT_PER_S + answer / TOKENS_PER_S


@dataclass(slots=True, eq=False)
class _Ticket:
    turn: asyncio.Future[None]
    given: bool = False


class Place:
    """A slot that is taken until `release`; a second release does nothing. `waited` seconds; `before`: how many waited
    already when it came."""

    __slots__ = ("_at", "_foreseen", "_slots", "before", "waited")

    def __init__(self, slots: Slots, foreseen: float, waited: float, before: int) -> None:
        self._slots: Slots | None = slots
        self._foreseen = foreseen
        self._at = slots.clock()
        self.waited = waited
        self.before = before

    def release(self, served: bool = True) -> None:
        """`served` False: it was not used, and says nothing about how long services take."""
        slots, self._slots = self._slots, None
        if slots is not None:
            if served:
                slots.queue.finished(self._foreseen, slots.clock() - self._at)
            slots.free()


class Slots:
    """`size` slots; at most `most_waiting` wait for one. `clock` is monotonic seconds."""

    def __init__(self, size: int, most_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.queue: SizedQueue[_Ticket] = SizedQueue(size)
        self.busy = 0
        self.counts: Counter[str] = Counter()  # of those who did not get one: full, left, late
        self._most = most_waiting

    @property
    def size(self) -> int:
        return self.queue.slots

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def resize(self, size: int, most_waiting: int) -> None:
        """What is served goes on; slots that are gone are missed when they fall free."""
        self.queue.slots, self._most = size, most_waiting
        self._call()

    async def take(self, seconds: float, tenant: str, longest: float) -> Place:
        """A slot, for a service that may take `seconds`. Raises Overloaded when too many wait already, or when none was
        free for `longest` seconds."""
        if self.busy < self.size and not self.queue:
            self.busy += 1
            return Place(self, seconds, 0.0, 0)
        before = self.waiting
        if before >= self._most:
            self.counts["full"] += 1
            raise Overloaded(f"{before} requests wait for this model already", retry_after=self.advice())
        came = self.clock()
        ticket = _Ticket(asyncio.get_running_loop().create_future())
        self.queue.push(ticket, seconds, came, tenant)
        try:
            async with asyncio.timeout(longest):
                await ticket.turn
        except TimeoutError:
            self._leave(ticket, "late")
            told = f"this model had no free slot for {longest:.3g} s"
            raise Overloaded(told, retry_after=self.advice()) from None
        except BaseException:
            self._leave(ticket, "left")
            raise
        return Place(self, seconds, self.clock() - came, before)

    def advice(self) -> float:
        """Seconds in which whoever waits now is likely to be served."""
        return float(min(_LONGEST_ADVICE, max(1, math.ceil(self.queue.backlog / self.size))))

    def free(self) -> None:
        self.busy -= 1
        self._call()

    def _leave(self, ticket: _Ticket, why: str) -> None:
        self.counts[why] += 1
        if ticket.given:
            self.free()
        else:
            self.queue.discard(ticket)

    def _call(self) -> None:
        while self.busy < self.size and self.queue:
            ticket = self.queue.pop(self.clock())
            if ticket.turn.done():  # its waiter was cancelled at this moment, and hears of it next
                continue
            ticket.given = True
            self.busy += 1
            ticket.turn.set_result(None)
