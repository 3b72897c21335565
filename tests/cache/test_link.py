"""The link by itself, over a wire that a test plays: every way to be cancelled, and what is sent without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from trimtab.cache.link import Command, Link, LinkDown, WireFault


class EchoWire:
    """Answers each command with itself, after `steps` turns of the loop. Replies left unread would come next."""

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.unread: list[Any] = []
        self.broken = False
        self.closed = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        assert not self.closed
        self.unread += [("echo", *command) for command in commands]
        for _ in range(self.steps):
            await asyncio.sleep(0)
        if self.broken:
            raise WireFault("broken on purpose")
        replies, self.unread = self.unread[: len(commands)], self.unread[len(commands) :]
        return replies

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def linked(wires: list[EchoWire], steps: int = 3) -> AsyncIterator[Link]:
    async def dial() -> EchoWire:
        wires.append(EchoWire(steps))
        return wires[-1]

    link = Link(dial, timeout=5.0, sleep=lambda _: asyncio.sleep(0))
    await link.start()
    try:
        yield link
    finally:
        await link.close()


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
async def test_every_caller_gets_its_own_reply_whoever_is_cancelled_at_any_step(steps: int) -> None:
    wires: list[EchoWire] = []
    async with linked(wires, steps) as link:
        for cut in range(40):
            for doomed in (0, 2, 4):
                asks = [asyncio.ensure_future(link.ask(("q", cut, n))) for n in range(5)]
                for _ in range(cut):
                    await asyncio.sleep(0)
                asks[doomed].cancel()
                replies = await asyncio.gather(*asks, return_exceptions=True)
                for n, reply in enumerate(replies):
                    if n != doomed or not isinstance(reply, asyncio.CancelledError):
                        assert reply == ("echo", "q", cut, n)
        assert len(wires) == 1


async def test_what_is_sent_is_answered_and_is_not_sent_again_after_a_break() -> None:
    wires: list[EchoWire] = []
    async with linked(wires) as link:
        assert await link.send(("a",)) == ("echo", "a")
        wires[0].broken = True
        lost, posted = link.send(("b",)), ("c",)
        link.post(posted)
        with pytest.raises(LinkDown):
            await lost
        assert await link.drain(5)
        assert link.counts["drops"] == 1
        assert await link.send(("d",)) == ("echo", "d")
        assert wires[0].closed


async def test_nothing_is_sent_while_it_is_down() -> None:
    async def dial() -> EchoWire:
        raise WireFault("nobody there")

    link = Link(dial, sleep=lambda _: asyncio.sleep(0.01))
    await link.start()
    with pytest.raises(LinkDown):
        link.send(("a",))
    await link.close()
