"""`POST /v1/compress`: messages in, compressed messages and what was done to them out. Nothing is sent upstream.

For those who call their provider by themselves and want only this. It counts as one request of the tenant, and costs
what a model that a stage called costs, which is nothing unless the tenant's policy asks for summaries.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from ..compression.policy import CompressionPolicy
from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Caller, Exchange
from ..protocol.messages import Request, Usage
from .entrance import Entrance
from .prompt_size import prompt_tokens
from .tighten import tightened
from .wire import JSON, Headers, Receive, Scope, Send, send_bytes

if TYPE_CHECKING:
    from .live import Live

KIND = "compress"
_FIELDS = ("messages", "tools", "functions")
_encode = msgspec.json.Encoder().encode


class CompressEndpoint(Entrance):
    async def serve(
        self, live: Live, scope: Scope, receive: Receive, send: Send, request_id: str, started: float
    ) -> None:
        caller, body = await self.read(live, scope, receive)
        exchange = self._exchange(caller, body, request_id, scope, started)
        standing = await self._compress(live, exchange)
        told = await asyncio.to_thread(_told, exchange)
        await send_bytes(send, 200, [JSON, (b"x-request-id", request_id.encode()), *standing], told)

    def _exchange(self, caller: Caller, body: bytes, request_id: str, scope: Scope, started: float) -> Exchange:
        """Raises what is wrong with the request."""
        asked = Request.parse("chat", body)
        # Not decoded: a text that no reader of ours takes is to come back as it was, as it would be sent on.
        if not bytes(asked.fields.get("messages", b"")).startswith(b"["):
            raise InvalidRequest("'messages' must be a list of chat messages", param="messages")
        wished = asked.get("policy")
        if wished is not None:
            caller = _under(caller, wished)
        model = asked.model if "model" in asked.fields else ""
        request = asked.with_fields(policy=None, stream=None)
        return self._gateway.exchange(request_id, request, caller, scope["headers"], started, kind=KIND, model=model)

    async def _compress(self, live: Live, exchange: Exchange) -> Headers:
        """How the tenant's limits stand. Raises what admission raises; afterwards the books on it are closed."""
        await live.admit.unanswered(exchange)
        standing = live.limit_headers(exchange)
        outcome, status = "error", 500
        try:
            await live.pipeline.optimise(exchange, live.compression)
            exchange.spent = Usage()
            outcome, status = "ok", 200
        finally:
            self._gateway.settle(exchange, live, outcome, status)
        return standing


def _under(caller: Caller, wished: Any) -> Caller:
    """The caller with its tenant's policy tightened."""
    tenant = caller.tenant
    policies = {**tenant.policies, CompressionPolicy: tightened(tenant.policy(CompressionPolicy), wished)}
    return replace(caller, tenant=replace(tenant, policies=policies))


def _told(exchange: Exchange) -> bytes:
    """The answer's body. The messages and tools are the bytes that the stages left, not written anew."""
    receipt, working = exchange.receipt, exchange.working
    model = exchange.targets[0].upstream_model if exchange.targets else ""
    before, after = prompt_tokens(exchange.original, model), prompt_tokens(working, model)
    return _encode(
        {
            "object": "trimtab.compression",
            "id": exchange.id,
            **{name: working.fields[name] for name in _FIELDS if name in working.fields},
            "tokens_before": before,
            "tokens_after": after,
            "ratio": round(after / before, 4) if before else 1.0,
            "cost_usd": receipt.cost_microusd / 1e6,
            "saved_usd": receipt.saved_microusd / 1e6,
            "lines": receipt.lines,
            "charges": receipt.charges,
        }
    )
