"""The gateway's own stages, as one tenant's request meets them, without a socket or an upstream."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trimtab.gateway.admit import allow
from trimtab.gateway.config import Config
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.live import Gateway
from trimtab.protocol.exchange import Caller, Exchange
from trimtab.protocol.messages import Request

TENANT = "bench"


class House:
    """A gateway with one model that nobody calls and one tenant; `compress` is that tenant's policy, as in the file.

    `price` in US dollars per million tokens (input, cached_input, output); `upstream` is what the model is called
    there, which tells the gate how its provider caches.
    """

    def __init__(
        self, compress: dict[str, Any], price: dict[str, float] | None = None, upstream: str = "gpt-4.1", **more: Any
    ) -> None:
        model: dict[str, Any] = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": upstream}
        if price is not None:
            model["price"] = price
        config = Config.model_validate(
            {
                "models": {"m": model, **more.pop("models", {})},
                "tenants": {TENANT: {"policy": {"compress": compress}}},
                **more,
            },
            context={"environ": {}},
        )
        self._gateway = Gateway(config, Ledger(Path("unused.db")), LocalLimiter())
        self._tenant = config.tenants[TENANT].resolved(TENANT)
        self._config = config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._gateway.close()

    async def walk(self, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Exchange:
        """The exchange behind the stages: `exchange.working.encode()` is what would be sent on."""
        gateway, live = self._gateway, self._gateway.live
        caller = Caller(self._tenant, "bench", self._config.allowed(None))
        request = Request.parse("chat", body)
        exchange = gateway.exchange(gateway.new_id(), request, caller, headers or [], time.monotonic())
        exchange.targets = allow(caller, live.catalogue, exchange.original.model)
        await live.pipeline.optimise(exchange)
        return exchange

    async def forward(self, body: bytes) -> bytes:
        """What would be sent on for `body`."""
        return (await self.walk(body)).working.encode()
