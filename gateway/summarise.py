"""A summary by one of the configured models, where a tenant asked for summaries: bounded, and charged to the request.

It knows nothing of what is summed up, or of when that is worth it (compression/turns.py, compression/gate.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..backends.base import Call
from ..protocol.errors import CircuitOpen, TrimtabError
from ..protocol.exchange import Charge, Exchange
from ..protocol.messages import Request, Usage
from ..protocol.tokens import count, estimate_bytes
from .breaker import counts_against
from .catalogue import Catalogue, Served
from .relay import generated

MOST_TEXT = 24_000  # characters that are sent: a small model's window
_SECONDS = 15.0
_ASK = (
    "Summarise the conversation below for whoever goes on with it. Keep names, numbers, decisions, file names and open "
    "questions. Write plain sentences, no preamble."
)


class Summarise:
    """Bound to one request, which pays. `model` is the name it has in the configuration."""

    def __init__(self, served: Served, exchange: Exchange, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = served.target.name
        self._served = served
        self._exchange = exchange
        self._clock = clock

    async def __call__(self, text: str, most_tokens: int) -> str:
        """Raises what the backend raises, CircuitOpen, or TimeoutError."""
        served = self._served
        if not served.breaker.allow(self._clock()):
            raise CircuitOpen(f"'{self.model}' is left alone for now")
        request = self._request(text, most_tokens)
        call = Call("chat", request, f"{self._exchange.id}-summary", self._exchange.tenant.name, {}, served.timeouts)
        try:
            async with asyncio.timeout(min(_SECONDS, served.timeouts.total)):
                answer = await served.backend.complete(call)
        except TrimtabError as e:
            if counts_against(e):
                served.breaker.failure(self._clock())
            else:
                served.breaker.abandon()
            raise
        except BaseException:
            served.breaker.abandon()
            # Cut off in the middle: what the prompt cost is what we know.
            self._charge(Usage(prompt=estimate_bytes(request.encode()), estimated=True))
            raise
        served.breaker.success()
        said = generated(answer.body)
        self._charge(answer.usage or self._counted(request, said))
        return said

    def _request(self, text: str, most_tokens: int) -> Request:
        if len(text) > MOST_TEXT:
            text = f"{text[: MOST_TEXT // 2]}\n[...]\n{text[-MOST_TEXT // 2 :]}"
        messages = [{"role": "system", "content": _ASK}, {"role": "user", "content": text}]
        fields = {"model": self._served.target.upstream_model, "messages": messages}
        return Request.build("chat", {**fields, "max_tokens": most_tokens, "temperature": 0})

    def _counted(self, request: Request, said: str) -> Usage:
        completion = count(said, request.model)[0] if said else 0
        return Usage(prompt=estimate_bytes(request.encode()), completion=completion, estimated=True)

    def _charge(self, usage: Usage) -> None:
        microusd = self._served.target.price.of(usage)
        self._exchange.receipt.charges.append(Charge("compress", self.model, usage, microusd))


def summariser(
    catalogue: Catalogue, exchange: Exchange, clock: Callable[[], float] = time.monotonic
) -> Summarise | None:
    """The small model of the request's route, else the first on the bundled engine; None where there is neither."""
    served = catalogue.engine() if exchange.pair is None else catalogue.named(exchange.pair[0])
    return None if served is None else Summarise(served, exchange, clock)
