"""`GET /v1/receipts/{id}` and `GET /v1/usage`: the whole story of a request, and a tenant's totals; for that tenant.

Somebody else's receipt and one that does not exist look the same: 404.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import msgspec

from ..protocol.errors import InvalidRequest, NotFound
from .wire import JSON, Receive, Scope, Send, send_bytes

if TYPE_CHECKING:
    from .live import Gateway

_encode = msgspec.json.Encoder().encode


async def receipt(gateway: Gateway, scope: Scope, receive: Receive, send: Send, receipt_id: str) -> None:
    """Raises NotFound."""
    caller = gateway.live.authenticate(scope["headers"])
    found = await gateway.ledger.find(receipt_id)
    if found is None or found.tenant != caller.tenant.name:
        raise NotFound(f"there is no receipt '{receipt_id[:100]}'")
    body = {
        "object": "trimtab.receipt",
        **msgspec.to_builtins(found),
        "cost_usd": found.cost_microusd / 1e6,
        "saved_usd": found.saved_microusd / 1e6,
    }
    await send_bytes(send, 200, [JSON], _encode(body))


async def usage(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Totals of the caller's tenant, over all time or `?since=<unix seconds>`."""
    caller = gateway.live.authenticate(scope["headers"])
    since = _since(scope["query_string"])
    totals = await gateway.ledger.totals(caller.tenant.name, since)
    body = {"object": "trimtab.usage", "tenant": caller.tenant.name, "since": since, **msgspec.to_builtins(totals)}
    await send_bytes(send, 200, [JSON], _encode(body))


def _since(query: bytes) -> float | None:
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        if name == "since":
            with contextlib.suppress(ValueError):
                if math.isfinite(seconds := float(value)):
                    return seconds
            raise InvalidRequest("'since' must be a number of seconds since 1970", param="since")
    return None
