"""`POST /v1/feedback`: somebody who was answered from the cache says whether the answer was right.

An answer that was wrong is deleted and, for a while, offered to no other wording; what is believed of the semantic tier
follows. The word counts for requests of the caller's own tenant that the cache answered, each verdict once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from ..cache.policy import CachePolicy
from ..protocol.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from ..protocol.exchange import Receipt, ReceiptLine, Tenant
from ..protocol.redact import redact
from .cache_endpoint import LARGEST, fields
from .nearest import suggestion
from .wire import JSON, Receive, Scope, Send, read_body, send_bytes

if TYPE_CHECKING:
    from .live import Gateway

log = logging.getLogger("trimtab.feedback")

_REMEMBERED = 10_000  # verdicts, so that one that comes twice counts once
_LONGEST = 1_000  # characters of a comment
_KNOWN = ("request_id", "verdict", "comment")
_ANSWERED = ("hit", "semantic-hit")
_encode = msgspec.json.Encoder().encode


class Feedback:
    """The handler. It remembers the last verdicts, by request."""

    def __init__(self) -> None:
        self._heard: OrderedDict[tuple[str, bool], None] = OrderedDict()

    async def __call__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidKey, InvalidRequest, NotFound, Conflict, StoreUnavailable."""
        tenant = gateway.live.authenticate(scope["headers"]).tenant
        request_id, wrong, comment = read(fields(await read_body(scope, receive, LARGEST)))
        found = await gateway.ledger.find(request_id)
        if found is None or found.tenant != tenant.name:
            raise NotFound(f"there is no receipt '{request_id}'")
        entry, line = served(found)
        counted = self._first(request_id, wrong)
        if counted:
            try:
                await _judge(gateway, tenant, entry, line.score, wrong)
            except BaseException:
                del self._heard[request_id, wrong]
                raise
            said = "wrong" if wrong else "right"
            gateway.metrics.verdict(tenant.name, said)
            log.info("request %s: the cache's answer %s was %s%s", request_id, entry, said, _quoted(comment))
        told = {
            "object": "trimtab.feedback",
            "request_id": request_id,
            "verdict": "wrong" if wrong else "right",
            "entry": entry,
            "counted": counted,
        }
        await send_bytes(send, 200, [JSON], _encode(told))

    def _first(self, request_id: str, wrong: bool) -> bool:
        if (request_id, wrong) in self._heard:
            return False
        self._heard[request_id, wrong] = None
        if len(self._heard) > _REMEMBERED:
            self._heard.popitem(last=False)
        return True


async def _judge(gateway: Gateway, tenant: Tenant, entry: str, score: float | None, wrong: bool) -> None:
    store = gateway.cache.store
    if not store.healthy:
        raise StoreUnavailable("the cache's store does not answer; say it again later", retry_after=1)
    public = tenant.policy(CachePolicy).public
    shared = await store.fetch("", [entry]) if public else []
    namespace = next((one.namespace for one in shared if one.namespace in public), None)
    await gateway.verdict(tenant.name, entry, score, wrong, namespace)


def read(said: dict[str, Any]) -> tuple[str, bool, str]:
    """The request's id, whether its answer was wrong, the comment. Raises InvalidRequest."""
    for name in said:
        if name not in _KNOWN:
            raise InvalidRequest(f"'{name[:100]}' is an unknown key{suggestion(name[:100], _KNOWN)}", param=name[:100])
    request_id, verdict, comment = (said.get(name) for name in _KNOWN)
    if not isinstance(request_id, str) or not 0 < len(request_id) <= 100:
        raise InvalidRequest("'request_id' must be the x-request-id of an answer", param="request_id")
    if verdict not in ("wrong", "right"):
        raise InvalidRequest('\'verdict\' must be "wrong" or "right"', param="verdict")
    if comment is not None and (not isinstance(comment, str) or len(comment) > _LONGEST):
        raise InvalidRequest(f"'comment' must be a text of at most {_LONGEST} characters", param="comment")
    return request_id, verdict == "wrong", comment or ""


def served(receipt: Receipt) -> tuple[str, ReceiptLine]:
    """The entry that answered the request, and what the receipt says of it. Raises Conflict if none did."""
    for line in receipt.lines:
        # With an attempt it was a model that answered after all: what was to be shared never came.
        if line.stage == "recall" and line.did in _ANSWERED and line.entry is not None and not receipt.attempts:
            return line.entry, line
    raise Conflict("this request was not answered from the cache", param="request_id")


def _quoted(comment: str) -> str:
    return f": {redact(comment)!a}" if comment else ""
