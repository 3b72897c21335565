"""How many tokens a request's prompt is, for people who compare before and after: text and tools, not JSON's own marks.

An estimate, but where the model's own tokenizer is at hand. It reads the whole request: never on the hot path.
"""

from __future__ import annotations

from typing import Any

from ..protocol.errors import InvalidRequest
from ..protocol.messages import Request
from ..protocol.tokens import count, estimate_bytes

FRAME = 4  # tokens: the role and the marks around one message
IMAGE = 1000
_EXACT_UP_TO = 1 << 20  # bytes; beyond that a tokenizer takes too long to wait for


def prompt_tokens(request: Request, model: str = "") -> int:
    """Tokens of `messages` or `prompt`, and of `tools`, as `model` would count them."""
    texts: list[str] = []
    extra = 0
    field = "messages" if request.kind == "chat" else "prompt"
    try:
        messages = request.get(field)
    except InvalidRequest:  # bytes that are no UTF-8, say, which some upstreams take
        return estimate_bytes(bytes(request.fields[field]))
    for message in messages if isinstance(messages, list) else [messages]:
        extra += FRAME if request.kind == "chat" else 0
        extra += _collect(message, texts)
    for name in ("tools", "functions"):
        if name in request.fields:
            texts.append(bytes(request.fields[name]).decode("utf-8", "replace"))
    text = "\n".join(texts)
    if len(text) > _EXACT_UP_TO:
        return estimate_bytes(text.encode("utf-8", "replace")) + extra
    return count(text, model)[0] + extra


def _collect(value: Any, texts: list[str]) -> int:
    """The texts of a message, whatever its shape; returns what its images count."""
    if isinstance(value, str):
        texts.append(value)
        return 0
    if isinstance(value, list):
        return sum(_collect(item, texts) for item in value)
    if not isinstance(value, dict):
        return 0
    if "image_url" in value:
        return IMAGE
    function = value.get("function")
    return _collect([value.get("content"), value.get("text"), value.get("tool_calls")], texts) + _collect(
        [function.get("name"), function.get("arguments")] if isinstance(function, dict) else None, texts
    )
