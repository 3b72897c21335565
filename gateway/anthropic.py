"""Anthropic's Messages protocol, mapped to chat: `POST /v1/messages` and `/v1/messages/count_tokens`.

What becomes of what chat has no word for:

    images in a tool's result                   go into the user message after it
    plain text documents, search results        become text; a PDF becomes a file part
    thinking, redacted_thinking of old turns    dropped: most chat upstreams refuse them
    thinking.budget_tokens                      reasoning_effort: to 4,096 "low", to 16,384 "medium", above "high"
    output_config.effort, .format               reasoning_effort, response_format
    cache_control on blocks and tools           kept: litellm's providers read it
    context_management, diagnostics, speed      dropped: none of them changes what is answered
    Anthropic's own tools, containers, MCP
    servers, stored files, a promised region    refused, by name
    fields it does not know                     passed through

The module is a Mapping (gateway/mapping.py). It does not know who answers.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..protocol import tokens
from ..protocol.errors import InvalidRequest, TrimtabError
from ..protocol.messages import Request
from .anthropic_answer import MessageStream, error_body, message
from .anthropic_blocks import TextBlock, Turn, to_messages
from .chat_answer import read_answer
from .mapping import content, given, read, unsupported

path = "/v1/messages"

_EFFORTS = ((4096, "low"), (16384, "medium"))
_IMAGE_TOKENS = 1600  # what Anthropic charges for the largest image that it does not shrink
_MESSAGE_TOKENS = 4  # the role and the marks around one message
_DROPPED = ("anthropic_version", "cache_control", "context_management", "diagnostics", "speed", "betas")
_REFUSED = {
    "container": "there are no containers behind it",
    "mcp_servers": "call the tools of an MCP server from the client",
    "inference_geo": "it cannot promise a region",
}


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    description: str | None = None
    strict: bool | None = None
    cache_control: Any = None


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: msgspec.Raw


class _Output(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


_turns = msgspec.json.Decoder(list[Turn])
_system = msgspec.json.Decoder(str | list[TextBlock])
_tools = msgspec.json.Decoder(list[_Tool])
_choice = msgspec.json.Decoder(_Choice)
_thinking = msgspec.json.Decoder(_Thinking)
_output = msgspec.json.Decoder(_Output)
_strings = msgspec.json.Decoder(list[str])
_object = msgspec.json.Decoder(dict[str, Any])


def to_chat(body: bytes) -> Request:
    """Anthropic's request as chat. Raises InvalidRequest, naming the field, for what cannot be translated."""
    asked = Request.parse("chat", body)
    limit = asked.get("max_tokens")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidRequest("'max_tokens' must be a whole number of at least 1", param="max_tokens")
    return _translate(asked, limit)


def from_chat(answer: bytes, request: Request) -> bytes:
    """A whole chat answer as a message object."""
    return msgspec.json.encode(message(read_answer(answer, request), request))


def stream(request: Request) -> MessageStream:
    return MessageStream(request)


def error(error: TrimtabError, request_id: str | None = None) -> bytes:
    return error_body(error, request_id)


def count_tokens(body: bytes) -> bytes:
    """The answer of `/v1/messages/count_tokens`: an estimate but where the model's own tokenizer is at hand."""
    request = _translate(Request.parse("chat", body), None)
    pieces: list[str] = []
    extra = 0
    for said in request.get("messages"):
        extra += _MESSAGE_TOKENS
        inside = said.get("content") or ""
        for part in [{"text": inside}] if isinstance(inside, str) else inside:
            pieces.append(part.get("text", ""))
            extra += _IMAGE_TOKENS if "image_url" in part else 0
        for call in said.get("tool_calls", ()):
            pieces += [call["function"]["name"], call["function"]["arguments"]]
    if "tools" in request.fields:
        pieces.append(bytes(request.fields["tools"]).decode())
    counted, _ = tokens.count("\n".join(pieces), request.model)
    return msgspec.json.encode({"input_tokens": counted + extra})


def _translate(asked: Request, limit: int | None) -> Request:
    rest = given(asked)
    _refuse(rest)
    fields: dict[str, Any] = {"model": asked.model, "messages": _messages(rest)}
    del rest["model"]
    if limit is not None:
        fields["max_completion_tokens"] = limit
    rest.pop("max_tokens", None)
    if asked.stream:
        fields["stream"] = True
        fields["stream_options"] = {"include_usage": True}
    rest.pop("stream", None)
    fields.update(_tool_fields(rest))
    fields.update(_effort(rest, limit))
    fields.update(_small_fields(rest))
    for name, raw in rest.items():
        fields.setdefault(name, raw)
    return Request.build("chat", fields)


def _refuse(rest: dict[str, msgspec.Raw]) -> None:
    for name in _DROPPED:
        rest.pop(name, None)
    for name, cure in _REFUSED.items():
        raw = rest.pop(name, None)
        if raw is not None and bytes(raw) != b"[]":
            raise unsupported(f"'{name}'", name, cure)
    if bytes(rest.pop("n", b"1")) != b"1":
        raise unsupported("more than one answer", "n")


def _messages(rest: dict[str, msgspec.Raw]) -> list[dict[str, Any]]:
    raw = rest.pop("messages", None)
    turns = None if raw is None else read(_turns, raw, "messages")
    if not turns:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    messages = []
    system = rest.pop("system", None)
    if system is not None:
        said = read(_system, system, "system")
        messages.append(
            {"role": "system", "content": said if isinstance(said, str) else content([b.part() for b in said])}
        )
    return messages + to_messages(turns)


def _tool_fields(rest: dict[str, msgspec.Raw]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    tools = rest.pop("tools", None)
    if tools is not None and (listed := read(_tools, tools, "tools")):
        fields["tools"] = [_tool(tool, place) for place, tool in enumerate(listed)]
    chosen = rest.pop("tool_choice", None)
    if chosen is not None:
        choice = read(_choice, chosen, "tool_choice")
        fields["tool_choice"] = _tool_choice(choice)
        if choice.disable_parallel_tool_use:
            fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: _Tool, place: int) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        cure = "describe the tool with an input_schema and run it in the client"
        raise unsupported(f"the built-in tool '{tool.type}'", f"tools[{place}].type", cure)
    if not bytes(tool.input_schema):
        raise InvalidRequest(f"tools[{place}] needs an 'input_schema'", param=f"tools[{place}].input_schema")
    read(_object, tool.input_schema, f"tools[{place}].input_schema")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    made: dict[str, Any] = {"type": "function", "function": function}
    if tool.cache_control is not None:
        made["cache_control"] = tool.cache_control
    return made


def _tool_choice(choice: _Choice) -> str | dict[str, Any]:
    if choice.type != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    if not choice.name:
        raise InvalidRequest("'tool_choice' of type 'tool' needs a 'name'", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _effort(rest: dict[str, msgspec.Raw], limit: int | None) -> dict[str, Any]:
    """How hard to think, and the answer's format: `output_config` and `thinking` in chat's words."""
    fields: dict[str, Any] = {}
    thinking = rest.pop("thinking", None)
    if thinking is not None:
        asked = read(_thinking, thinking, "thinking")
        if asked.type == "enabled":
            fields["reasoning_effort"] = _effort_of(asked.budget_tokens, limit)
    raw = rest.pop("output_config", None)
    if raw is not None:
        output = read(_output, raw, "output_config")
        if output.effort is not None:
            fields["reasoning_effort"] = output.effort
        if output.format is not None:
            schema = {"name": "answer", "schema": output.format.schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _effort_of(budget: int | None, limit: int | None) -> str:
    if budget is None or budget < 1024:
        raise InvalidRequest("'budget_tokens' must be at least 1024", param="thinking.budget_tokens")
    if limit is not None and budget >= limit:
        raise InvalidRequest("'budget_tokens' must be less than 'max_tokens'", param="thinking.budget_tokens")
    return next((name for most, name in _EFFORTS if budget <= most), "high")


def _small_fields(rest: dict[str, msgspec.Raw]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    stops = rest.pop("stop_sequences", None)
    if stops is not None:
        fields["stop"] = read(_strings, stops, "stop_sequences")
        if not fields["stop"]:
            del fields["stop"]
    metadata = rest.pop("metadata", None)
    if metadata is not None:
        kept = read(_object, metadata, "metadata")
        user = kept.pop("user_id", None)
        if user is not None and not isinstance(user, str):
            raise InvalidRequest("'metadata.user_id' must be a string", param="metadata.user_id")
        fields |= {name: value for name, value in (("user", user), ("metadata", kept)) if value}
    tier = rest.pop("service_tier", None)
    if tier is not None and bytes(tier) == b'"standard_only"':
        fields["service_tier"] = "default"
    elif tier is not None:
        fields["service_tier"] = tier
    return fields
