"""One error tree for the whole project.

    TrimtabError
    ├── ClientError                 the caller can mend it
    │   ├── InvalidRequest          400 invalid_request_error
    │   │   └── ContextTooLong      400 context_length_exceeded
    │   ├── InvalidKey              401 invalid_api_key
    │   ├── Forbidden               403 permission_denied (a model or an endpoint this key may not use)
    │   ├── NotFound                404 not_found
    │   │   └── ModelNotFound       404 model_not_found
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── RequestTooSlow          408 request_timeout
    │   ├── Conflict                409 conflict (it does not fit what happened)
    │   ├── RequestTooLarge         413 request_too_large
    │   ├── UnsupportedMedia        415 unsupported_media_type
    │   └── LimitExceeded           429 rate_limit_exceeded, with what, how much and when
    │       └── BudgetExceeded      429 insufficient_quota
    ├── GatewayError                our own failure
    │   ├── Internal                500 internal_error
    │   ├── NotSupported            501 not_supported (a backend that has no such verb)
    │   ├── Overloaded              503 overloaded
    │   ├── Draining                503 server_shutdown
    │   ├── ModelUnavailable        503 model_unavailable (the bundled engine's weights are missing or unusable)
    │   ├── LedgerUnavailable       503 ledger_unavailable
    │   └── StoreUnavailable        503 store_unavailable
    └── UpstreamError               whoever answers behind us failed
        ├── UpstreamAnswered        its own status and body, passed on
        ├── UpstreamRefusedKey      502 upstream_auth (it refused *our* credentials)
        ├── UpstreamUnreachable     502 upstream_unreachable
        ├── UpstreamGarbled         502 upstream_protocol_error
        ├── UpstreamCut             502 upstream_stream_cut
        ├── UpstreamTimeout         504 upstream_timeout, naming which timeout and how long
        └── CircuitOpen             503 upstream_unavailable (its breaker is open)

Every class says its HTTP status, OpenAI `type` and `code`, whether another attempt may help, and whose fault it is.
`to_wire` is the one place that turns an error into JSON; `gateway/wire.py` adds the headers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from .redact import redact

Source = Literal["client", "gateway", "upstream"]


class TrimtabError(Exception):
    """Base of every error we raise on purpose.

    `message` is safe to show to the caller: it never holds a key, an address of ours or a stack.
    `param` names the field at fault, `retry_after` is in seconds.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    source: ClassVar[Source] = "gateway"

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def should_retry(self) -> bool:
        """Whether the caller's own retry may help (becomes `x-should-retry`)."""
        return self.retryable


class ClientError(TrimtabError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    source = "client"


class InvalidRequest(ClientError):
    code = "invalid_request"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class InvalidKey(ClientError):
    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    status = 403
    code = "permission_denied"


class NotFound(ClientError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"


class RequestTooSlow(ClientError):
    status = 408
    code = "request_timeout"


class Conflict(ClientError):
    status = 409
    code = "conflict"


class RequestTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class UnsupportedMedia(ClientError):
    status = 415
    code = "unsupported_media_type"


class LimitExceeded(ClientError):
    """A limit of the tenant's is used up. `kind` is OpenAI's error type: "requests", "tokens" or "concurrency".

    `standing` is the limit, what is left of it, and the seconds until it is whole again, where that is known.
    """

    status = 429
    code = "rate_limit_exceeded"
    retryable = True

    def __init__(
        self, message: str, *, kind: str = "requests", retry_after: float | None = None, ever: bool = True
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.kind = kind
        self.standing: tuple[int, int, float] | None = None
        self.ever = ever  # False: this request is larger than the whole limit, so waiting does not help

    @property
    def should_retry(self) -> bool:
        return self.ever


class BudgetExceeded(LimitExceeded):
    code = "insufficient_quota"
    retryable = False

    @property
    def should_retry(self) -> bool:
        return False


class GatewayError(TrimtabError):
    source = "gateway"


class Internal(GatewayError):
    pass


class NotSupported(GatewayError):
    status = 501
    type = "invalid_request_error"
    code = "not_supported"


class Overloaded(GatewayError):
    status = 503
    code = "overloaded"
    retryable = True


class Draining(GatewayError):
    status = 503
    code = "server_shutdown"
    retryable = True


class ModelUnavailable(GatewayError):
    """The engine's weights are missing, damaged or of a kind it cannot run.

    `detail` is for the operator (which file, what to do); the caller sees only `message`.
    """

    status = 503
    code = "model_unavailable"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class LedgerUnavailable(GatewayError):
    status = 503
    code = "ledger_unavailable"
    retryable = True


class StoreUnavailable(GatewayError):
    status = 503
    code = "store_unavailable"
    retryable = True


class UpstreamError(TrimtabError):
    status = 502
    code = "upstream_error"
    source = "upstream"
    retryable = True


class UpstreamAnswered(UpstreamError):
    """The upstream answered with an error status of its own; `body` is passed on if it is an OpenAI error object."""

    def __init__(
        self, status: int, body: bytes, *, headers: dict[str, str] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(f"the upstream answered with status {status}", retry_after=retry_after)
        self.upstream_status = status
        self.body = body
        self.headers = headers or {}

    @property
    def http_status(self) -> int:
        return self.upstream_status if 400 <= self.upstream_status < 600 else 502

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later or elsewhere (409 as OpenAI's own client sees it)."""
        return self.upstream_status in (408, 409, 429) or self.upstream_status >= 500

    @property
    def should_retry(self) -> bool:
        return self.transient


class UpstreamRefusedKey(UpstreamError):
    code = "upstream_auth"
    retryable = False


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamGarbled(UpstreamError):
    code = "upstream_protocol_error"


class UpstreamCut(UpstreamError):
    code = "upstream_stream_cut"


class UpstreamTimeout(UpstreamError):
    """`which` is one of connect, first_token, idle, total."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, which: str, seconds: float) -> None:
        super().__init__(f"the upstream ran into the {which} timeout after {seconds:g} s")
        self.which = which
        self.seconds = seconds


class CircuitOpen(UpstreamError):
    status = 503
    code = "upstream_unavailable"


def to_wire(error: TrimtabError, request_id: str | None = None) -> bytes:
    """The error as OpenAI's JSON object, with one field of ours: `source`, who failed (client, gateway, upstream).

    An upstream's own OpenAI-shaped error keeps its fields, but for a key in its message; anything else it sent (HTML, a
    stack trace) is not shown.
    """
    if isinstance(error, UpstreamAnswered):
        own = _openai_error(error.body)
        if own is not None:
            return msgspec.json.encode({"error": {**own, "source": "upstream"}})
    body: dict[str, Any] = {
        "message": error.message,
        "type": getattr(error, "kind", None) or error.type,
        "param": error.param,
        "code": error.code,
        "source": error.source,
    }
    if isinstance(error, UpstreamAnswered):
        body["type"] = "server_error" if error.upstream_status >= 500 else "invalid_request_error"
    if request_id is not None:
        body["request_id"] = request_id
    return msgspec.json.encode({"error": body})


def _openai_error(body: bytes) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    error = decoded.get("error") if isinstance(decoded, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    # Providers like to repeat the key that they were given, and it is ours.
    usual = {"type": "server_error", "param": None, "code": None}
    return {**error, "message": redact(error["message"]), **{k: v for k, v in usual.items() if k not in error}}
