"""The `admit` stage: may this caller ask this, now? It fails closed; its errors go to the client.

The key itself was checked before the body was read. Here: the model's name, whether the key may use it, and one atomic
reservation of requests, tokens, money and a slot. What is reserved is an estimate, settled when the answer is known.
"""

from __future__ import annotations

import re
from typing import Protocol

from ..protocol.errors import Forbidden, LedgerUnavailable
from ..protocol.exchange import Caller, Exchange, Target
from ..protocol.messages import Request, Usage
from ..protocol.tokens import estimate_bytes
from ..routing.length import LengthPlanner
from ..routing.plan import lengths
from ..routing.policy import OutputPolicy
from . import output
from .catalogue import Catalogue
from .limits import Ask, Limiter

EXPECTED_OUTPUT = 1024  # reserved for an answer without max_tokens, at least, until a route's own answers say better
_IMAGE_TOKENS = 1000
_BASE64 = re.compile(rb";base64,[A-Za-z0-9+/=_-]{256,}")


class Accepting(Protocol):
    """What admission needs to know of the ledger: work that cannot be written down is not taken on."""

    @property
    def accepting(self) -> bool: ...


class Admit:
    name = "admit"
    waits = True

    def __init__(
        self, catalogue: Catalogue, limiter: Limiter, ledger: Accepting, planner: LengthPlanner | None = None
    ) -> None:
        self._catalogue = catalogue
        self._limiter = limiter
        self._ledger = ledger
        self._planner = planner

    async def __call__(self, exchange: Exchange) -> None:
        """Raises Forbidden, ModelNotFound, LimitExceeded, BudgetExceeded, StoreUnavailable or LedgerUnavailable."""
        self._resolve(exchange, exchange.original.model)
        limits = exchange.tenant.limits
        if not limits.any:
            exchange.note(self.name, "admitted", "no limits")
            return
        ask = self.ask(exchange)
        await self._reserve(exchange, ask)
        exchange.note(self.name, "admitted", tokens_before=ask.tokens, cost_microusd=ask.microusd)

    def ask(self, exchange: Exchange) -> Ask:
        """What to reserve. Without a limit of the client's own the answer is reserved by its forecast: here and not in
        the `plan` stage, since a request that is over its limits must be refused before any stage works for it.
        """
        request, limits = exchange.original, exchange.tenant.limits
        foreseen = (
            self._planner is not None
            and (limits.tokens_per_minute is not None or limits.microusd_per_day is not None)
            and request.kind != "embeddings"
            and exchange.policy(OutputPolicy).plan
            and request.max_output is None
        )
        if not foreseen or self._planner is None:
            return worst_case(request, exchange.targets)
        known = lengths(self._planner, exchange)
        prompt, asks = prompt_size(request.body), []
        for target in exchange.targets:
            answer = output.reserve(exchange, self._catalogue.served(target), known, EXPECTED_OUTPUT) * request.n
            usage = Usage(prompt=prompt, completion=answer)
            asks.append((usage.total, target.price.of(usage)))
        return Ask(tokens=max(tokens for tokens, _ in asks), microusd=max(money for _, money in asks))

    async def unanswered(self, exchange: Exchange) -> None:
        """Admit what no model will answer: it counts as one request and as no tokens. The receipt's model may be "":
        then nobody is asked for it. Raises the same."""
        self._resolve(exchange, exchange.receipt.model)
        if exchange.tenant.limits.any:
            await self._reserve(exchange, Ask())
        exchange.note(self.name, "admitted", "no model answers")

    def _resolve(self, exchange: Exchange, model: str) -> None:
        if model:
            exchange.targets = allow(exchange.caller, self._catalogue, model)
            exchange.pair = self._catalogue.pair(model)
        if not self._ledger.accepting:
            raise LedgerUnavailable("the ledger cannot be written, so no paid work is taken on; try again shortly")

    async def _reserve(self, exchange: Exchange, ask: Ask) -> None:
        tenant = exchange.tenant
        exchange.facts["reservation"] = await self._limiter.reserve(tenant.name, tenant.limits, ask)


def allow(caller: Caller, catalogue: Catalogue, model: str) -> tuple[Target, ...]:
    """The targets behind a name, for a caller who may use it. Raises Forbidden or ModelNotFound."""
    if caller.models is not None and catalogue.meaning(model) not in caller.models:
        raise Forbidden(f"this key may not use the model '{model[:100]}'", param="model")
    return catalogue.resolve(model)


def worst_case(request: Request, targets: tuple[Target, ...]) -> Ask:
    """What to reserve: the prompt by its size, the answer by its cap, at the dearest target's price."""
    prompt = prompt_size(request.body)
    most = request.max_output
    if request.kind == "embeddings":
        answer = 0
    elif most is not None:
        answer = most * request.n
    else:
        answer = min([EXPECTED_OUTPUT, *(t.max_output for t in targets if t.max_output)]) * request.n
    usage = Usage(prompt=prompt, completion=answer)
    return Ask(tokens=usage.total, microusd=max(t.price.of(usage) for t in targets))


def prompt_size(body: bytes) -> int:
    """Tokens of a body, from its length; an image's base64 is not text and counts as one image."""
    if len(body) < 4096 or b";base64," not in body:
        return estimate_bytes(body)
    text, images = _BASE64.subn(b"", body)
    return estimate_bytes(text) + images * _IMAGE_TOKENS
