"""How a request comes in and how one that fails is answered, the same for every endpoint. Knows no path or protocol."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..protocol.errors import Internal, TrimtabError
from ..protocol.exchange import Caller
from .wire import ClientGone, Headers, Receive, Scope, Send, read_body, send_error

if TYPE_CHECKING:
    from .live import Gateway, Live

log = logging.getLogger("trimtab.endpoint")


class Entrance(ABC):
    """A plain ASGI callable; an endpoint says in `serve` what it does with a request."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        started = time.monotonic()
        request_id = gateway.new_id()
        gateway.enter()
        try:
            # One `live` to the end: a reload in the middle of a request must not change what it is served by.
            await self.serve(gateway.live, scope, receive, send, request_id, started)
        except ClientGone:
            return
        except TrimtabError as e:
            gateway.metrics.rejected(e.code)
            await self.send_error(send, e, request_id)
        except Exception as e:
            await self.send_error(send, unforeseen(e, request_id), request_id)
        finally:
            gateway.leave()

    @abstractmethod
    async def serve(
        self, live: Live, scope: Scope, receive: Receive, send: Send, request_id: str, started: float
    ) -> None:
        """Answer the request. What it raises is sent as an error, so nothing may have been sent by then."""

    async def read(self, live: Live, scope: Scope, receive: Receive) -> tuple[Caller, bytes]:
        """The key before the body: who has none has nothing read. Raises what the client is to be told."""
        caller = live.authenticate(scope["headers"])
        self._gateway.check_open()
        return caller, await read_body(scope, receive, live.max_body)

    async def send_error(self, send: Send, error: TrimtabError, request_id: str, extra: Headers | None = None) -> None:
        await send_error(send, error, request_id, extra or ())


def unforeseen(error: Exception, request_id: str) -> Internal:
    """What the client is told of an error that nobody expected; the log has the rest."""
    log.error("request %s failed", request_id, exc_info=error)
    return Internal("an internal error; the log has it under this request id")
