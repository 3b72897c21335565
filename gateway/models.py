"""`GET /v1/models` and `/v1/models/{id}`: what this caller may ask for, in OpenAI's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .. import __version__
from ..protocol.errors import ModelNotFound
from .wire import JSON, Receive, Scope, Send, send_bytes

if TYPE_CHECKING:
    from .live import Gateway

_CREATED = 1_700_000_000  # OpenAI's clients want a number; ours means nothing


async def models(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    names = _visible(gateway, scope)
    body = msgspec.json.encode({"object": "list", "data": [_model(gateway, name) for name in names]})
    await send_bytes(send, 200, [JSON], body)


async def model(gateway: Gateway, scope: Scope, receive: Receive, send: Send, name: str) -> None:
    """Raises ModelNotFound, also for a model that this key may not use."""
    if name not in _visible(gateway, scope):
        raise ModelNotFound(f"the model '{name[:100]}' does not exist here", param="model")
    await send_bytes(send, 200, [JSON], msgspec.json.encode(_model(gateway, name)))


def _visible(gateway: Gateway, scope: Scope) -> list[str]:
    caller = gateway.live.authenticate(scope["headers"])
    catalogue = gateway.live.catalogue
    names = catalogue.listed()
    return names if caller.models is None else [name for name in names if catalogue.meaning(name) in caller.models]


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    targets = [target.name for target in gateway.live.catalogue.resolve(name)]
    return {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "trimtab",
        "trimtab": {"version": __version__, "targets": targets},
    }
