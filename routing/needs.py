"""What a request cannot do without, how large it is, and whether two answers to it can be compared. Reads its bytes as
little as that takes; knows no model."""

from __future__ import annotations

from typing import Any

from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Exchange
from ..protocol.messages import Request
from ..protocol.tokens import estimate_bytes
from .choose import Needs
from .plan import Lengths

EXPECTED = 512  # tokens of an answer that nobody planned
_IMAGE_TOKENS = 1_000
_AROUND = 16  # tokens of the template around the messages
_TOOLS = ("tools", "functions")
_PICTURE = (b'"image_url"', b'"input_image"')


def prompt_size(request: Request) -> int:
    """Tokens of the prompt, from the length of its bytes; a picture's base64 is not text."""
    size = pictures = 0
    for name in ("messages", "prompt", *_TOOLS):
        raw = request.fields.get(name)
        if raw is None:
            continue
        body = bytes(raw)
        if b";base64," in body:
            text, found = _without_pictures(body)
            size, pictures = size + text, pictures + found
        else:
            size += len(body)
    return estimate_bytes(b"") + size // 4 + pictures * _IMAGE_TOKENS + _AROUND


def _without_pictures(body: bytes) -> tuple[int, int]:
    """Bytes of the text, and the number of pictures within."""
    parts = body.split(b";base64,")
    text = len(parts[0]) + sum(len(part) - max(0, part.find(b'"')) for part in parts[1:])
    return text, len(parts) - 1


def answer_size(exchange: Exchange, model: str) -> int:
    """Tokens of the answer of `model`: as it is planned, else within the client's own limit."""
    planned = exchange.facts.get("lengths")
    if isinstance(planned, Lengths):
        return max(1, round(planned.of(model, exchange).p50))
    asked = exchange.original.max_output
    return EXPECTED if asked is None else min(asked, EXPECTED)


def needs(exchange: Exchange, prompt: int, answer: int) -> Needs:
    """A limit that the client set counts whole: upstreams refuse one that does not fit, however short the answer."""
    request = exchange.working
    asked = request.max_output
    output = answer if asked is None else asked
    raw = request.fields.get("messages")
    body = b"" if raw is None else bytes(raw)
    form = request.get("response_format") if "response_format" in request.fields else None
    kind = form.get("type") if isinstance(form, dict) else None
    return Needs(
        tokens=prompt + output,
        output=0 if asked is None else asked,
        tools=any(request.fields.get(name) is not None and bool(request.get(name)) for name in _TOOLS),
        vision=any(sign in body for sign in _PICTURE),
        audio=b'"input_audio"' in body,
        json=kind == "json_object",
        schema=kind == "json_schema",
    )


def incomparable(exchange: Exchange) -> str | None:
    """Why two answers to the request cannot be held against each other; None if they can."""
    request = exchange.original
    if request.kind != "chat":
        return "what is no chat is not audited"
    if any(request.fields.get(name) is not None for name in _TOOLS):
        return "requests with tools are not audited"
    try:
        if request.n != 1 or request.choices != 1:
            return "several answers at once are not audited"
    except InvalidRequest:
        return "several answers at once are not audited"
    return None


def tags_of(exchange: Exchange) -> list[str]:
    return exchange.receipt.tags


def headers_of(exchange: Exchange) -> dict[str, str]:
    """The client's headers by lower-case name, the first of each."""
    found: dict[str, str] = {}
    for name, value in exchange.headers:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def session_of(exchange: Exchange) -> str | None:
    """The caller's own name for the conversation, if it gave one."""
    for name in (b"x-trimtab-session", b"x-trimtab-session-id", b"x-litellm-session-id", b"x-session-id"):
        value: Any = exchange.header(name)
        if value:
            return str(value)[:200]
    return None
