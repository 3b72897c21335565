"""The ASGI application: which path is answered by whom.

FastAPI holds the routes and their documentation. The hot paths are ASGI callables among them (gateway/endpoint.py), so
FastAPI neither parses their bodies nor wraps their streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..protocol.errors import Internal, MethodNotAllowed, NotFound, TrimtabError, to_wire
from ..protocol.messages import Request as ParsedRequest
from . import anthropic, cache_endpoint, metrics, models, receipts, responses
from .admit import allow
from .compress_endpoint import CompressEndpoint
from .endpoint import Endpoint
from .feedback import Feedback
from .live import Gateway
from .wire import JSON, ClientGone, Message, error_headers, send_bytes, send_error

log = logging.getLogger("trimtab.app")

Handler = Callable[..., Awaitable[None]]


def create_app(gateway: Gateway) -> ASGIApp:
    """The application over a gateway, which whoever serves it starts and closes (gateway/server.py)."""
    app = FastAPI(title="trimtab", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    hot = _hot(gateway)
    app.router.routes[:] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in hot.items()] + _cold(gateway)
    app.router.redirect_slashes = False
    app.router.default = _Nowhere(gateway)
    app.add_exception_handler(405, _wrong_method(gateway))
    return _Front(hot, app)


class _Front:
    """Sends the hot paths straight to their endpoints: FastAPI's middleware is dear beside a relay."""

    def __init__(self, hot: Mapping[str, ASGIApp], app: ASGIApp) -> None:
        self._hot = hot
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (endpoint or self._app)(scope, receive, send)


def _hot(gateway: Gateway) -> dict[str, ASGIApp]:
    """The paths that answer requests; the version may be left out, as some clients' base_url does."""
    endpoints: dict[str, ASGIApp] = {
        "/chat/completions": Endpoint(gateway, "chat"),
        "/completions": Endpoint(gateway, "completions"),
        "/embeddings": Endpoint(gateway, "embeddings"),
        "/messages": Endpoint(gateway, "chat", anthropic),
        "/responses": Endpoint(gateway, "chat", responses),
        "/compress": CompressEndpoint(gateway),
    }
    return {prefix + path: endpoint for path, endpoint in endpoints.items() for prefix in ("/v1", "")}


def _cold(gateway: Gateway) -> list[Any]:
    everywhere: list[tuple[str, str, Handler]] = [
        ("GET", "/models", models.models),
        ("GET", "/models/{name:path}", models.model),
        ("GET", "/receipts/{receipt_id}", receipts.receipt),
        ("GET", "/usage", receipts.usage),
        ("GET DELETE", "/cache", cache_endpoint.cache),
        ("POST", "/feedback", Feedback()),
    ]
    cold = [
        (method, prefix + path, _Cold(gateway, handler))
        for method, path, handler in everywhere
        for prefix in ("/v1", "")
    ]
    counting = _Cold(gateway, _count_tokens, anthropic.error)
    cold += [("POST", prefix + "/messages/count_tokens", counting) for prefix in ("/v1", "")]
    cold += [
        ("GET", path, _Cold(gateway, handler))
        for path, handler in (
            ("/health/liveliness", _alive),
            ("/health/liveness", _alive),
            ("/health/readiness", _ready),
            ("/health", _ready),  # where vLLM, SGLang and llama.cpp are probed
            ("/metrics", _metrics),
            ("/", _front),
        )
    ]
    return [Route(path, endpoint, methods=method.split()) for method, path, endpoint in cold]


class _Cold:
    """A handler that is not hot: it gets the path's parameters, its errors become JSON, its answers an id."""

    def __init__(
        self, gateway: Gateway, handler: Handler, error: Callable[[TrimtabError, str | None], bytes] = to_wire
    ) -> None:
        self._gateway = gateway
        self._handler = handler
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._gateway.new_id()

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._handler(self._gateway, scope, receive, stamped, **scope.get("path_params", {}))
        except TrimtabError as e:
            await self._refuse(send, e, request_id)
        except ClientGone:
            return
        except Exception:
            log.exception("request %s failed", request_id)
            await self._refuse(send, Internal("an internal error; the log has it under this request id"), request_id)

    async def _refuse(self, send: Send, error: TrimtabError, request_id: str) -> None:
        body = self._error(error, request_id)
        await send_bytes(send, error.http_status, [JSON, *error_headers(error, request_id)], body)


def _wrong_method(gateway: Gateway) -> Callable[[Request, Exception], Awaitable[Response]]:
    """405 in OpenAI's JSON, with the methods that there are."""

    async def answer(request: Request, error: Exception) -> Response:
        request_id = gateway.new_id()
        wrong = MethodNotAllowed(f"{request.method} is not a method of {request.scope['path'][:200]}")
        headers = {name.decode(): value.decode() for name, value in error_headers(wrong, request_id)}
        allow = getattr(error, "headers", None) or {}
        return Response(to_wire(wrong, request_id), 405, {**allow, **headers, "content-type": "application/json"})

    return answer


class _Nowhere:
    """What is not there: 404 in OpenAI's JSON."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        error = NotFound(f"there is no {scope['method']} {scope['path'][:200]} here")
        await send_error(send, error, self._gateway.new_id())


async def _count_tokens(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Anthropic's count, for a model that this caller may use; an estimate, off the event loop."""
    live = gateway.live
    caller = live.authenticate(scope["headers"])
    body = await gateway.read_body(scope, receive)
    allow(caller, live.catalogue, ParsedRequest.parse("chat", body).model)
    await send_bytes(send, 200, [JSON], await asyncio.to_thread(anthropic.count_tokens, body))


async def _alive(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    await send_bytes(send, 200, [JSON], b'{"status":"alive"}')


async def _ready(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    ready, report = gateway.readiness()
    await send_bytes(send, 200 if ready else 503, [JSON], msgspec.json.encode(report))


async def _metrics(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    await gateway.measure_cache()
    await send_bytes(send, 200, [(b"content-type", metrics.CONTENT_TYPE)], gateway.render_metrics())


async def _front(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    body = {
        "name": "trimtab",
        "version": __version__,
        "api": "/v1",
        "health": "/health/readiness",
        "metrics": "/metrics",
    }
    await send_bytes(send, 200, [JSON], msgspec.json.encode(body))
