"""litellm's exceptions as ours, without a key, an address or a stack of ours in the text. It never imports litellm.

litellm folds most failures into a status of its own (a refused connection is its 500), so what happened is read from
the exceptions behind the one it raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec

from ..protocol.errors import (
    InvalidRequest,
    TrimtabError,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)

_PREFIX = re.compile(r"^(?:litellm\.\w+: )?(?:\w+(?:Error|Exception)(?: - |: ))*")
_ADVICE = re.compile(
    r"\s*(?:\.? Handle with `litellm|,? ?To drop these|LiteLLM Retried|Original exception:).*", re.DOTALL
)
_KEY = re.compile(r"\b(sk|pk|key|Bearer)([-_ ])[A-Za-z0-9_\-.]{8,}")


def translate(error: BaseException, secrets: Iterable[str], seconds: float, *, streaming: bool = False) -> TrimtabError:
    """One of ours for whatever litellm raised. No key, address or stack of ours gets into its text."""
    kinds = _kinds(error)
    if type(error).__name__ == "Timeout" or kinds & {
        "builtins.TimeoutError",
        "openai.APITimeoutError",
        "httpx.TimeoutException",
    }:
        connecting = kinds & {"httpx.ConnectTimeout", "aiohttp.ConnectionTimeoutError"}
        return UpstreamTimeout("connect" if connecting else "total", seconds)
    if kinds & {"httpx.TransportError", "aiohttp.ClientError", "openai.APIConnectionError", "builtins.ConnectionError"}:
        if streaming or "aiohttp.ClientPayloadError" in kinds:
            return UpstreamCut("the upstream broke off its answer")
        return UpstreamUnreachable("the upstream cannot be reached, or closed the connection without an answer")
    text = _text(error, secrets)
    if type(error).__name__ == "UnsupportedParamsError":
        return InvalidRequest(text)
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return UpstreamRefusedKey(f"the upstream refused the gateway's own credentials (status {status})")
    garbled = "json.JSONDecodeError" in kinds or text.startswith("Empty or invalid response") or _is_its_own(error)
    if garbled or not isinstance(status, int) or not 400 <= status < 600:
        return UpstreamGarbled(f"the upstream's answer cannot be read ({type(error).__name__})")
    return UpstreamAnswered(status, error_body(error, status, secrets), retry_after=_retry_after(error))


def error_body(error: BaseException, status: int, secrets: Iterable[str]) -> bytes:
    """An OpenAI error object with what the provider said."""
    said = next((b for e in _chain(error) if isinstance(b := getattr(e, "body", None), dict) and b.get("message")), {})
    default = {400: "invalid_request_error", 404: "invalid_request_error", 422: "invalid_request_error"}
    own = said.get("type") or ("requests" if status == 429 else default.get(status, "server_error"))
    code = said.get("code")
    if type(error).__name__ == "ContextWindowExceededError":
        code = "context_length_exceeded"
    message = scrub(str(said["message"]), secrets) if said else _text(error, secrets)
    fields = {"message": message or f"status {status}", "type": own, "param": said.get("param"), "code": code}
    return msgspec.json.encode({"error": fields})


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` without our secrets, and without anything that looks like a key."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _KEY.sub(r"\1\2***", text)[:1000]


def _text(error: BaseException, secrets: Iterable[str]) -> str:
    """What the provider said, out of the sentence that litellm made of it."""
    text = _ADVICE.sub("", _PREFIX.sub("", str(getattr(error, "message", error))))
    start = text.find("{")
    if start >= 0:
        try:
            said = json.loads(text[start : text.rfind("}") + 1])
        except ValueError:
            said = None
        inner = said.get("error", said) if isinstance(said, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            text = inner["message"]
        elif isinstance(inner, str):
            text = inner
    return scrub(text.strip(), secrets)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = getattr(at, "original_exception", None) or at.__cause__ or at.__context__
    return chain


def _is_its_own(error: BaseException) -> bool:
    """Whether something broke inside litellm itself, which it calls a connection error."""
    chain = _chain(error)
    unsaid = not any(isinstance(getattr(e, "body", None), dict) for e in chain)
    return unsaid and any(type(e).__name__ == "APIConnectionError" for e in chain)


def _kinds(error: BaseException) -> set[str]:
    """The classes behind `error`, each with its package. litellm's own subclass openai's and say little: left out."""
    return {
        f"{cls.__module__.split('.')[0]}.{cls.__name__}"
        for inner in _chain(error)
        if not type(inner).__module__.startswith("litellm")
        for cls in type(inner).__mro__
    }


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            continue
        if 0 <= seconds < 86_400:
            return seconds
    return None
