"""What tests that talk to a running gateway share: two tenants' keys, a handle on the gateway, a configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.keys import hash_key
from trimtab.gateway.live import Gateway

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
