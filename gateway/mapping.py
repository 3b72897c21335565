"""What another protocol offers the gateway: its requests as chat, chat's answers as its own.

`anthropic.py` and `responses.py` are two of these, as modules: whoever composes the gateway passes the module itself.
All of it is translation without I/O, clock or randomness. A mapping knows nothing of tenants, stages or backends.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, TypeVar

import msgspec

from ..protocol.errors import InvalidRequest, TrimtabError
from ..protocol.messages import Request

T = TypeVar("T")

_NULL = msgspec.Raw(b"null")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")


class Translator(Protocol):
    """One stream on its way from chat's events to the other protocol's.

    `feed` and `finish` raise an UpstreamError when what came is no proper chat stream (garbled, an error inside it, or
    cut before its end). Whoever drives it then calls `fail`, which gives what was translated so far and the error
    event. After the end was told, each of them returns b"".
    """

    def feed(self, chunk: bytes) -> bytes:
        """Bytes of the chat stream, cut anywhere."""
        ...

    def finish(self) -> bytes:
        """The chat stream has ended. Raises UpstreamCut when it ended before its answer did."""
        ...

    def fail(self, error: TrimtabError) -> bytes:
        """The end of a stream that failed; never the event of a good end."""
        ...


class Mapping(Protocol):
    """Another protocol, mapped to chat.

    `request` is the chat request that `to_chat` made, as the client meant it (before any stage changed it); its model
    is the name that the client asked for, and the one that answers carry.
    """

    @property
    def path(self) -> str:
        """Where it is served, "/v1/messages" say."""
        ...

    def to_chat(self, body: bytes) -> Request:
        """The request as chat. Raises InvalidRequest, naming the field, for what cannot be said in chat."""
        ...

    def from_chat(self, answer: bytes, request: Request) -> bytes:
        """A whole chat answer in the other protocol. Raises UpstreamGarbled when it is none."""
        ...

    def stream(self, request: Request) -> Translator: ...

    def error(self, error: TrimtabError, request_id: str | None = None) -> bytes: ...


def read(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw, param: str | None = None) -> T:
    """Decode a part of a request; what is wrong with it becomes an InvalidRequest that names the place."""
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise InvalidRequest("the JSON body is nested too deeply", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        place = _PLACE.search(str(e))
        told = str(e)[: place.start()] if place else str(e)
        path = [p for p in (param, place.group(1) if place else "") if p]
        missing = _MISSING.search(told)
        if missing:
            path.append(missing.group(1))
        where = ".".join(path).replace(".[", "[")
        raise InvalidRequest(f"{where}: {told}" if where else told, param=where or None) from None


def given(request: Request) -> dict[str, msgspec.Raw]:
    """A request's top-level fields without those that are null, which means "not given" in each of the protocols."""
    return {name: raw for name, raw in request.fields.items() if raw != _NULL}


def unsupported(what: str, param: str, cure: str = "") -> InvalidRequest:
    """The error for something that chat has no words for."""
    return InvalidRequest(f"{what} is not supported by this gateway" + (f": {cure}" if cure else ""), param=param)


def content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A message's content: one plain text as a string, which every upstream and template takes; else the parts."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts
