"""Between OpenAI's wire and litellm's arguments and answers. Pure: it never imports litellm.

What a client may set is a list of names, never "everything but": litellm's own arguments choose hosts and credentials
(CVE-2024-6587: `api_base` in a body sent the provider's key to the caller's host).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from ..protocol.errors import InvalidRequest
from ..protocol.messages import Kind, Request, Usage, WireUsage

_SAMPLING = (
    "temperature top_p n stream stream_options stop max_tokens presence_penalty frequency_penalty logit_bias user seed"
)
_ALLOWED: dict[Kind, frozenset[str]] = {
    "chat": frozenset(
        f"{_SAMPLING} messages functions function_call max_completion_tokens modalities prediction audio "
        "response_format tools tool_choice parallel_tool_calls logprobs top_logprobs reasoning_effort verbosity "
        "safety_identifier service_tier store prompt_cache_key web_search_options thinking".split()
    ),
    "completions": frozenset(f"{_SAMPLING} prompt best_of echo logprobs suffix".split()),
    "embeddings": frozenset(("input", "dimensions", "user")),
}
# Sampling that OpenAI does not know and other providers do.
_FOREIGN = frozenset(("top_k", "min_p", "repetition_penalty"))


def arguments(request: Request, *, compatible: bool) -> dict[str, Any]:
    """The client's fields as litellm's arguments, without the model.

    A provider that speaks OpenAI's API (`compatible`) gets unknown fields in the body as they came. Raises
    InvalidRequest for a field that another provider cannot be sent.
    """
    known: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for name in request.fields:
        if not name.isprintable() and _halves(name):
            raise InvalidRequest("a field's name with half a character in it cannot be sent to this model's provider")
        value = request.get(name)
        if name in _ALLOWED[request.kind]:
            if value is not None:
                known[name] = value
        elif name != "model" and not (name == "encoding_format" and request.kind == "embeddings"):
            other[name] = value
    for tool in known.get("tools") or ():
        if isinstance(tool, dict) and tool.get("type") == "mcp":
            raise InvalidRequest("tools of type 'mcp' are not sent to this model's provider", param="tools")
    if compatible:
        if "user" in known:
            other["user"] = known.pop("user")  # litellm drops it for models that are not in its list
        return {**known, "extra_body": other} if other else known
    return {**known, **_foreign(other)}


def _halves(name: str) -> bool:
    """Whether there is a lone surrogate in it, which no encoder of litellm's takes."""
    return any("\ud800" <= character <= "\udfff" for character in name)


def _foreign(fields: Mapping[str, Any]) -> dict[str, Any]:
    sent = {}
    for name, value in fields.items():
        if name == "metadata":
            # Tags for OpenAI's dashboard; elsewhere only the end user has a meaning.
            if isinstance(value, dict) and isinstance(value.get("user_id"), str):
                sent[name] = {"user_id": value["user_id"]}
        elif name in _FOREIGN:
            sent[name] = value
        else:
            raise InvalidRequest(f"the field '{name}' cannot be sent to this model's provider", param=name)
    return sent


def whole(dump: dict[str, Any], kind: Kind) -> tuple[bytes, Usage | None, tuple[str, ...]]:
    """The body of a plain answer, its usage and finish reasons, from litellm's object as a dict."""
    body = _tidy(dump)
    usage = _usage(body)
    if kind == "embeddings":
        return msgspec.json.encode(body), usage, ()
    for choice in body["choices"]:
        choice.setdefault("finish_reason", None)
        choice.setdefault("logprobs", None)
        if kind == "chat":
            choice["message"] = {"content": None, "refusal": None, **choice.get("message", {})}
    finishes = tuple(choice["finish_reason"] for choice in body["choices"] if choice["finish_reason"])
    return msgspec.json.encode(body), usage, finishes


def pack_vectors(dump: dict[str, Any]) -> None:
    """Base64, which OpenAI's own client asks for and most providers do not know: asked for as numbers, packed here."""
    for item in dump["data"]:
        if isinstance(item.get("embedding"), list):
            packed = struct.pack(f"<{len(item['embedding'])}f", *item["embedding"])
            item["embedding"] = base64.b64encode(packed).decode()


def chunk(dump: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """One chunk of a stream as OpenAI has it; the one that carries usage has no choices."""
    body = _tidy(dump)
    idle = True
    for choice in body.get("choices", ()):
        choice.setdefault("finish_reason", None)
        if kind == "completions":
            choice["text"] = choice.get("text") or ""
        else:
            choice.setdefault("delta", {})
        idle = idle and not (choice["finish_reason"] or choice.get("text") or choice.get("delta"))
    if "usage" in body:
        if _usage(body) is None and idle:
            return {}
        if idle:
            body["choices"] = []
    return body


def _tidy(dump: dict[str, Any]) -> dict[str, Any]:
    """Without what litellm adds: empty provider fields at every level, and its own idea of the price."""
    tidy: dict[str, Any] = _without_empty_extras(dump)
    if isinstance(tidy.get("usage"), dict):
        tidy["usage"].pop("cost", None)
    return tidy


def _without_empty_extras(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty_extras(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _without_empty_extras(inner) for name, inner in value.items()}
    extras = kept.get("provider_specific_fields")
    if isinstance(extras, dict) and not any(inner is not None for inner in extras.values()):
        del kept["provider_specific_fields"]
    return kept


def _usage(body: dict[str, Any]) -> Usage | None:
    """The provider's usage. None, and taken out of the body, where litellm's zeros stand for none."""
    try:
        usage = msgspec.convert(body.get("usage"), WireUsage | None)
    except msgspec.ValidationError:
        usage = None
    if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
        body.pop("usage", None)
        return None
    return usage.to_usage()
