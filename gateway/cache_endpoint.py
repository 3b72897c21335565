"""`GET /v1/cache` and `DELETE /v1/cache`: what a tenant holds in the cache, and how it is let go.

Nobody sees or deletes another tenant's entries. What lies in a public namespace goes where the request names that
namespace and the tenant's policy declares it. Knows no store's insides and no entry's content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from ..cache.policy import CachePolicy
from ..cache.store import Selection
from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Tenant
from .nearest import suggestion
from .wire import JSON, Receive, Scope, Send, read_body, send_bytes

if TYPE_CHECKING:
    from .live import Gateway

LARGEST = 64 << 10  # bytes of a body that says what to delete
_LONGEST = 1_000  # characters of a value
_TEXTS = ("id", "tag", "source", "namespace")
_KNOWN = (*_TEXTS, "all")
_FLAGS = {"true": True, "false": False}
_encode = msgspec.json.Encoder().encode


async def cache(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Raises InvalidKey, InvalidRequest, StoreUnavailable."""
    tenant = gateway.live.authenticate(scope["headers"]).tenant
    if scope["method"] == "DELETE":
        body = await _delete(gateway, tenant, scope["query_string"], await read_body(scope, receive, LARGEST))
    else:
        body = await _held(gateway, tenant)
    await send_bytes(send, 200, [JSON], _encode(body))


async def _held(gateway: Gateway, tenant: Tenant) -> dict[str, Any]:
    """What the tenant has; None for figures that cannot be told now. What the store counts is the metrics' to tell: it
    is of all tenants, and what others do is nobody's business."""
    policy, store = tenant.policy(CachePolicy), gateway.cache.store
    held = await store.held(tenant.name)
    known = store.healthy
    return {
        "object": "trimtab.cache",
        "tenant": tenant.name,
        "entries": held.entries if known else None,
        "bytes": held.bytes if known else None,
        "limit_bytes": policy.max_mb << 20,
        "exact": policy.exact,
        "semantic": policy.semantic.enabled,
        "public": sorted(policy.public),
        "store": {"healthy": known, "reason": store.reason},
    }


async def _delete(gateway: Gateway, tenant: Tenant, query: bytes, body: bytes) -> dict[str, Any]:
    wanted = selections(tenant, said(query, body))
    gone = 0
    for selection in wanted:
        gone += await gateway.cache.store.delete(selection)
    return {"object": "trimtab.cache.deleted", "deleted": gone}


def selections(tenant: Tenant, said: dict[str, Any]) -> list[Selection]:
    """What the store is to delete: all the conditions that were given together. Raises InvalidRequest."""
    for name in said:
        if name not in _KNOWN:
            cause = f"is no selection{suggestion(name[:100], _KNOWN)}"
            raise InvalidRequest(f"'{name[:100]}' {cause}", param=name[:100])
    texts = {name: _text(name, said[name]) for name in _TEXTS if name in said}
    everything = said.get("all", False)
    if not isinstance(everything, bool):
        raise InvalidRequest("'all' must be true or false", param="all")
    if everything and texts:
        raise InvalidRequest(f"'all' leaves nothing to select, and yet there is '{next(iter(texts))}'", param="all")
    if not everything and not texts:
        raise InvalidRequest("say what to delete: 'id', 'tag', 'source', 'namespace', or 'all=true' for everything")
    found = [Selection(tenant.name, **texts)]
    if texts.get("namespace") in tenant.policy(CachePolicy).public:
        found.append(Selection("", **texts))  # besides what was kept under that name before it was declared public
    return found


def said(query: bytes, body: bytes) -> dict[str, Any]:
    """The parameters and the body's fields together. Raises InvalidRequest for what is said twice."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise InvalidRequest("the query cannot be read") from None
    pairs += fields(body).items() if body.strip() else ()
    together: dict[str, Any] = {}
    for name, value in pairs:
        if name in together:
            raise InvalidRequest(f"'{name[:100]}' is given twice", param=name[:100])
        together[name] = value
    if isinstance(together.get("all"), str):
        together["all"] = _FLAGS.get(together["all"], together["all"])
    return together


def fields(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    return value


def _text(name: str, value: Any) -> str:
    """An empty or missing value is refused: a caller whose variable is empty must not delete more than it meant."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise InvalidRequest(f"'{name}' must be a text of 1 to {_LONGEST} characters", param=name)
    return value
