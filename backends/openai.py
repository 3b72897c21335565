"""Any OpenAI-compatible server over HTTP: OpenAI, vLLM, SGLang, llama.cpp, Ollama, another trimtab.

Answers are relayed as the bytes that came. One keep-alive pool a backend; aiohttp, because under concurrency its CPU
time per request stayed flat where httpx's doubled. Destinations come from the configuration only, never from a request.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from .. import __version__
from ..protocol.errors import (
    TrimtabError,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ..protocol.lone_surrogates import decoded
from ..protocol.messages import PATHS, Answer, Request, Usage, WireUsage
from .base import Call, Timeouts

MAX_ANSWER = 64 << 20
_MAX_ERROR = 64 << 10
_BIG_BODY = 1 << 20  # above it aiohttp wants a file, so that the loop is not held by one write
# What reading a body can end in. aiohttp's parser in Python lets its own errors out where the one in C wraps them.
_BROKEN = (aiohttp.ClientError, HttpProcessingError, ConnectionError, asyncio.IncompleteReadError)
_PASSED_HEADERS = ("openai-processing-ms", "openai-version", "x-request-id", "system-fingerprint")


class _Finish(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """The parts of a whole answer that we read."""

    usage: WireUsage | None = None
    choices: list[_Finish] = []


_whole = msgspec.json.Decoder(_Whole)


class OpenAIBackend:
    """`base_url` includes the version (`https://host/v1`); `api_key` None sends no Authorization header.

    `prediction`: the server takes OpenAI's field of that name, so a draft is sent as one; what it rejects is paid.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        prediction: bool = False,
    ) -> None:
        base = URL(base_url.rstrip("/"))
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"base_url must be an http or https URL, not {base_url!r}")
        self._urls = {kind: URL(str(base) + path) for kind, path in PATHS.items()}
        self._headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"trimtab/{__version__}",
            **(headers or {}),
        }
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._prediction = prediction
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=20, ttl_dns_cache=60, enable_cleanup_closed=False)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            skip_auto_headers=("accept",),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=16 << 10,
            max_field_size=16 << 10,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def ready(self) -> bool:
        return self._session is not None

    async def complete(self, call: Call) -> Answer:
        response = await self._post(call)
        try:
            if response.content.is_eof():
                body = await _read(response, MAX_ANSWER)  # it came with the head, as short answers do
            else:
                # Also against chunks that break the protocol: aiohttp closes the connection then and tells no reader.
                async with asyncio.timeout(call.timeouts.idle) as timer:
                    body = await _read(response, MAX_ANSWER, timer, call.timeouts.idle)
        except TimeoutError:
            response.close()
            raise UpstreamTimeout("idle", call.timeouts.idle) from None
        except _BROKEN as e:
            response.close()
            raise UpstreamCut("the upstream broke off its answer") from e
        except BaseException:
            response.close()
            raise
        response.release()
        try:
            whole = _read_whole(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _not_an_answer(response, body) from None
        if not whole.choices and whole.usage is None and (error := _error_object(body)) is not None:
            raise error
        return Answer(
            body=body,
            usage=whole.usage.to_usage() if whole.usage is not None else None,
            headers=_passed(response),
            finish_reasons=tuple(c.finish_reason for c in whole.choices if c.finish_reason),
        )

    async def stream(self, call: Call) -> HTTPStream:
        response = await self._post(call)
        if response.content_type == "text/event-stream":
            return HTTPStream(response)
        try:
            body = await _read(response, _MAX_ERROR)
        except _BROKEN:
            body = b""
        finally:
            response.close()
        raise _error_object(body) or UpstreamGarbled(
            f"the upstream answered a stream with {response.content_type or 'no content type'}"
        )

    async def _post(self, call: Call) -> aiohttp.ClientResponse:
        if self._session is None:
            raise UpstreamUnreachable("the backend is not started")
        request = with_prediction(call) if self._prediction and call.draft else call.request
        body = request.encode()
        data: Any = body if len(body) < _BIG_BODY else io.BytesIO(body)
        try:
            response = await self._session.post(
                self._urls[call.kind],
                data=data,
                headers=call.headers or None,
                timeout=self._timeout(call.timeouts),
                allow_redirects=False,
            )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError) as e:
            raise UpstreamTimeout("connect", call.timeouts.connect) from e
        except aiohttp.ClientConnectorDNSError as e:
            raise UpstreamUnreachable("the upstream's name cannot be resolved") from e
        except aiohttp.ClientConnectorCertificateError as e:
            raise UpstreamUnreachable("the upstream's TLS certificate is not trusted") from e
        except aiohttp.ClientConnectorError as e:
            raise UpstreamUnreachable("the upstream refuses connections") from e
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError, socket.gaierror) as e:
            raise UpstreamUnreachable("the upstream closed the connection without an answer") from e
        except (aiohttp.ClientError, HttpProcessingError) as e:
            raise UpstreamGarbled("the upstream does not speak HTTP correctly") from e
        if response.status != 200:
            raise await _failed(response)
        return response

    def _timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout:
        known = self._timeouts.get(timeouts.connect)
        if known is None:
            known = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect)
            self._timeouts[timeouts.connect] = known
        return known


# Fields that OpenAI does not take beside a prediction.
_BESIDE_NO_PREDICTION = ("prediction", "tools", "functions", "logprobs", "max_completion_tokens", "audio", "modalities")


def with_prediction(call: Call) -> Request:
    """The request with the call's draft as its prediction, where the two go together."""
    request = call.request
    if call.kind != "chat" or request.n > 1 or any(name in request.fields for name in _BESIDE_NO_PREDICTION):
        return request
    return request.with_fields(prediction={"type": "content", "content": call.draft})


class HTTPStream:
    """An upstream's SSE body. Closing it closes the connection, so the upstream stops generating."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.headers: Mapping[str, str] = _passed(response)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._response.content.readany()
        except _BROKEN as e:
            raise UpstreamCut("the upstream broke off its stream") from e
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if not self._response.content.at_eof():
            self._response.close()
        else:
            self._response.release()

    def spent(self) -> Usage | None:
        return None


async def _read(
    response: aiohttp.ClientResponse, limit: int, timer: asyncio.Timeout | None = None, idle: float = 0.0
) -> bytes:
    """The body, at most `limit` bytes of it whatever was promised. Each chunk winds `timer` up again."""
    length = response.content_length
    if length is not None and length > limit:
        raise UpstreamGarbled(f"the upstream's answer is larger than {limit >> 20} MB")
    parts = []
    size = 0
    while chunk := await response.content.readany():
        parts.append(chunk)
        size += len(chunk)
        if timer is not None and length != size:
            timer.reschedule(asyncio.get_running_loop().time() + idle)
        if size > limit:
            raise UpstreamGarbled(f"the upstream's answer is larger than {limit >> 20} MB")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _failed(response: aiohttp.ClientResponse) -> TrimtabError:
    """The error behind a status that is not 200."""
    try:
        async with asyncio.timeout(5):
            body = await _read(response, _MAX_ERROR)
    except (*_BROKEN, TimeoutError, UpstreamGarbled):
        body = b""
    finally:
        response.close() if not response.content.at_eof() else response.release()
    if response.status in (401, 403):
        return UpstreamRefusedKey(f"the upstream refused the gateway's own credentials (status {response.status})")
    if response.status < 400:
        return UpstreamGarbled(f"the upstream answered with status {response.status}, which is no answer")
    return UpstreamAnswered(response.status, body, headers=_passed(response), retry_after=_retry_after(response))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after` (a date is not honoured: clocks differ)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            value = float(response.headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if 0 <= value < 86_400:
            return value
    return None


def _passed(response: aiohttp.ClientResponse) -> dict[str, str]:
    headers = response.headers
    return {name: headers[name] for name in _PASSED_HEADERS if name in headers}


def _error_object(body: bytes) -> UpstreamAnswered | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(decoded, dict) and isinstance(decoded.get("error"), dict):
        return UpstreamAnswered(502, body)
    return None


def _read_whole(body: bytes) -> _Whole:
    """What we read of an answer; its bytes travel on as they are. Raises what the decoder raises of no JSON."""
    try:
        return decoded(_whole, body)  # a text that was cut inside a character is JSON all the same
    except msgspec.ValidationError:
        return _Whole()  # JSON, with a field of a type we do not expect: the client's to judge, not ours


def _not_an_answer(response: aiohttp.ClientResponse, body: bytes) -> TrimtabError:
    kind = response.content_type or "no content type"
    return UpstreamGarbled(f"the upstream answered with status 200 but no JSON object ({kind}, {len(body)} bytes)")
