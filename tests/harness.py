"""What tests that talk to a running gateway share: two tenants' keys, a handle on the gateway, a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import uvicorn

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.keys import hash_key
from trimtab.gateway.live import Gateway
from trimtab.gateway.server import Server

KEY = "tt-key-of-acme-for-the-tests-only"
OTHER_KEY = "tt-key-of-zenith-for-the-tests-only"


@dataclass
class Running:
    """A gateway that answers at `url` (`base_url` for OpenAI's clients)."""

    gateway: Gateway
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def settled(self, seconds: float = 5.0) -> None:
        """Wait until nothing is in flight and every receipt is in the file."""
        async with asyncio.timeout(seconds):
            while self.gateway.in_flight:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(self.gateway.ledger.flush)

    async def idle(self) -> None:
        """And until what requests began behind their backs is over: a client has its answer before an audit begins."""
        await self.settled()
        await self.gateway.routing.idle()


class PromptServer(Server):
    """The server, which ends when it is told to: uvicorn looks ten times a second whether it is, and then waits a tenth
    of one for its connections, which would be most of the time of most tests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        for tick in itertools.count():
            if await self.on_tick(tick):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(0.001)
        for task in self.server_state.tasks:
            task.cancel()
        for server in self.servers:
            await server.wait_closed()


Serve = Callable[..., AbstractAsyncContextManager[Running]]


def over(upstream: FakeServer, *names: str, **model: Any) -> dict[str, Any]:
    """A configuration whose models `names` are the upstream's, with a price, for the tenants acme and zenith."""
    entry = {
        "backend": "openai",
        "base_url": upstream.url,
        "api_key": "sk-upstream-secret-0123456789",
        "price": {"input": 2, "cached_input": 0.5, "output": 8},
        "retries": {"attempts": 1},
        **model,
    }
    return {
        "models": {name: {**entry, "model": name} for name in names or ("m",)},
        "tenants": {"acme": {"keys": [hash_key(KEY)]}, "zenith": {"keys": [hash_key(OTHER_KEY)]}},
    }
