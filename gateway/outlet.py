"""The client's end of a stream that others may share.

A client that stops reading holds up its upstream, and with it everybody who is getting the same answer. Where somebody
is, what the client has not taken yet waits here instead; alone, it holds up its upstream as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from ..protocol.exchange import Recorder
from .wire import Send

_GLANCE = 0.1  # seconds between two looks at whether somebody has come, while the client does not read


class Outlet:
    """`connection` is gateway/http.py's, where it is that which serves us: it tells whether the client keeps up."""

    def __init__(self, send: Send, recorder: Recorder | None, connection: Any) -> None:
        self._send = send
        self._recorder = recorder
        self._flow = None if connection is None or recorder is None else connection.flow
        self._held: deque[bytes] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Returns when the client has room for more, or when others wait for what comes next."""
        if not self._busy() and (self._flow is None or not self._flow.write_paused):
            await self._write(data)
            return
        self._held.append(data)
        if self._sender is None:
            self._sender = asyncio.create_task(self._write_all(), name="trimtab-outlet")
        while self._busy() and not (self._recorder is not None and self._recorder.shared):
            await asyncio.wait({self._sender}, timeout=_GLANCE)

    async def flush(self, moved: Callable[[], object]) -> None:
        """Returns when nothing is held any more; `moved` is called whenever the client has taken some of it."""
        while self._sender is not None and self._busy():
            before = len(self._held)
            await asyncio.wait({self._sender}, timeout=_GLANCE)
            if len(self._held) < before:
                moved()

    async def part(self, seconds: float) -> None:
        """Give a client that is behind that long to take what is held."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.flush(lambda: None)

    def close(self) -> None:
        """What is held goes nowhere."""
        if self._sender is not None:
            self._sender.cancel()

    def _busy(self) -> bool:
        """Raises what the sending of held bytes raised."""
        if self._sender is None or not self._sender.done():
            return self._sender is not None
        sender, self._sender = self._sender, None
        sender.result()
        return False

    async def _write_all(self) -> None:
        while self._held:
            await self._write(self._held.popleft())

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
