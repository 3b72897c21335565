"""`POST /v1/feedback`: somebody who was answered from the cache, or by whom a router chose, says whether it was right.

A kept answer that was wrong is deleted and, for a while, offered to no other wording; what is believed of the semantic
tier follows. Of a model's answer the router learns what the model is worth to this tenant; a `correction` counts for
more than a bare word, and its text is not kept. The word counts for requests of the caller's own tenant, each verdict
once.
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
from ..routing.shape_effect import arm_of
from .cache_endpoint import LARGEST, fields
from .nearest import suggestion
from .wire import JSON, Receive, Scope, Send, read_body, send_bytes

if TYPE_CHECKING:
    from .live import Gateway

log = logging.getLogger("trimtab.feedback")

_REMEMBERED = 10_000  # verdicts, so that one that comes twice counts once
_LONGEST = 1_000  # characters of a comment
_LONGEST_CORRECTION = 20_000
_KNOWN = ("request_id", "verdict", "comment", "correction")
_ANSWERED = ("hit", "semantic-hit")
_encode = msgspec.json.Encoder().encode


class Feedback:
    """The handler. It remembers the last verdicts, by request."""

    def __init__(self) -> None:
        self._heard: OrderedDict[tuple[str, bool], None] = OrderedDict()

    async def __call__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidKey, InvalidRequest, NotFound, Conflict, StoreUnavailable."""
        tenant = gateway.live.authenticate(scope["headers"]).tenant
        request_id, wrong, comment, corrected = read(fields(await read_body(scope, receive, LARGEST)))
        found = await gateway.ledger.find(request_id)
        if found is None or found.tenant != tenant.name:
            raise NotFound(f"there is no receipt '{request_id}'")
        line = served(found)
        shaped = arm_of(found) is not None
        if line is None and found.routed is None and not shaped:
            cause = (
                "this request was not answered from the cache, nor by whom a router chose, nor with or without a hint"
            )
            raise Conflict(cause, param="request_id")
        told: dict[str, Any] = {
            "object": "trimtab.feedback",
            "request_id": request_id,
            "verdict": "wrong" if wrong else "right",
            "counted": self._first(request_id, wrong),
        }
        if shaped and told["counted"]:
            gateway.planning.judged(found, wrong)
        if line is None and found.routed is not None:
            told |= _routed(gateway, found, wrong, corrected) if told["counted"] else {"learnt": False}
        elif line is not None:
            told["entry"] = line.entry
            if told["counted"]:
                await self._kept(gateway, tenant, request_id, line, wrong)
        if told["counted"]:
            what = f"the cache's answer {line.entry}" if line is not None else f"the answer of {found.target}"
            log.info("request %s: %s was %s%s", request_id, what, told["verdict"], _quoted(comment))
        await send_bytes(send, 200, [JSON], _encode(told))

    async def _kept(self, gateway: Gateway, tenant: Tenant, request_id: str, line: ReceiptLine, wrong: bool) -> None:
        try:
            await _judge(gateway, tenant, line.entry or "", line.score, wrong)
        except BaseException:
            del self._heard[request_id, wrong]
            raise
        gateway.metrics.verdict(tenant.name, "wrong" if wrong else "right")

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


def _routed(gateway: Gateway, found: Receipt, wrong: bool, corrected: bool) -> dict[str, Any]:
    learnt = gateway.routing.said(found.tenant, found.id, wrong, corrected)
    return {"model": found.target, "learnt": learnt}


def read(said: dict[str, Any]) -> tuple[str, bool, str, bool]:
    """The request's id, whether its answer was wrong, the comment, and whether a right one was given. Raises
    InvalidRequest."""
    for name in said:
        if name not in _KNOWN:
            raise InvalidRequest(f"'{name[:100]}' is an unknown key{suggestion(name[:100], _KNOWN)}", param=name[:100])
    request_id, verdict, comment, correction = (said.get(name) for name in _KNOWN)
    if correction is not None and verdict is None:
        verdict = "wrong"
    if not isinstance(request_id, str) or not 0 < len(request_id) <= 100:
        raise InvalidRequest("'request_id' must be the x-request-id of an answer", param="request_id")
    if verdict not in ("wrong", "right"):
        raise InvalidRequest('\'verdict\' must be "wrong" or "right"', param="verdict")
    if comment is not None and (not isinstance(comment, str) or len(comment) > _LONGEST):
        raise InvalidRequest(f"'comment' must be a text of at most {_LONGEST} characters", param="comment")
    if correction is not None:
        if not isinstance(correction, str) or not 0 < len(correction) <= _LONGEST_CORRECTION:
            cause = f"'correction' must be a text of 1 to {_LONGEST_CORRECTION} characters"
            raise InvalidRequest(cause, param="correction")
        if verdict == "right":
            raise InvalidRequest("an answer that was right needs no 'correction'", param="correction")
    return request_id, verdict == "wrong", comment or "", correction is not None


def served(receipt: Receipt) -> ReceiptLine | None:
    """What the receipt says of the kept answer that the request was answered with; None if a model answered."""
    for line in receipt.lines:
        # With an attempt it was a model that answered after all: what was to be shared never came.
        if line.stage == "recall" and line.did in _ANSWERED and line.entry is not None and not receipt.attempts:
            return line
    return None


def _quoted(comment: str) -> str:
    return f": {redact(comment)!a}" if comment else ""
