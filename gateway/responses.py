"""OpenAI's Responses protocol, mapped to chat: a stateless `POST /v1/responses`.

What becomes of what chat has no word for:

    store                                      accepted; nothing is stored, and the response says so
    previous_response_id, conversation,        refused: send the whole conversation as `input`
    prompt, background
    OpenAI's own tools (web search, ...)       refused, by name
    include, truncation, max_tool_calls,       read over, but for the log-probabilities that `include` may ask for
    context_management, stream_options
    reasoning.summary                          read over; the upstream's own reasoning text is given where it sends one
    fields it does not know                    passed through

The module is a Mapping (gateway/mapping.py). It does not know who answers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..protocol.errors import InvalidRequest, TrimtabError, to_wire
from ..protocol.messages import Request
from .chat_answer import read_answer
from .mapping import given, read, unsupported
from .responses_answer import ResponseStream, response
from .responses_items import to_messages

path = "/v1/responses"

_STATELESS = "it keeps no state; send the whole conversation as 'input'"
_REFUSED = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "it has no stored prompts; send 'instructions' and 'input'",
}
_DROPPED = ("store", "truncation", "max_tool_calls", "context_management", "stream_options")
_LOGPROBS = "message.output_text.logprobs"


class _Tool(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class _Chosen(msgspec.Struct):
    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[_Tool] = []


class _Format(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


_tools = msgspec.json.Decoder(list[_Tool])
_choice = msgspec.json.Decoder(str | _Chosen)
_text = msgspec.json.Decoder(_Text)
_reasoning = msgspec.json.Decoder(_Reasoning)
_string = msgspec.json.Decoder(str)
_strings = msgspec.json.Decoder(list[str])
_flag = msgspec.json.Decoder(bool)
_count = msgspec.json.Decoder(int)


def to_chat(body: bytes) -> Request:
    """A request for a response as chat. Raises InvalidRequest, naming the field, for what cannot be translated."""
    asked = Request.parse("chat", body)
    rest = given(asked)
    _refuse(rest)
    fields: dict[str, Any] = {"model": asked.model, "messages": _messages(rest)}
    del rest["model"]
    fields.update(_limit(rest))
    if asked.stream:
        fields["stream"] = True
        fields["stream_options"] = {"include_usage": True}
    rest.pop("stream", None)
    fields.update(_tool_fields(rest))
    fields.update(_text_fields(rest))
    for name, raw in rest.items():
        fields.setdefault(name, raw)
    return Request.build("chat", fields)


def from_chat(answer: bytes, request: Request) -> bytes:
    """A whole chat answer as a response object."""
    return msgspec.json.encode(response(read_answer(answer, request), request))


def stream(request: Request) -> ResponseStream:
    return ResponseStream(request)


def error(error: TrimtabError, request_id: str | None = None) -> bytes:
    return to_wire(error, request_id)


def _refuse(rest: dict[str, msgspec.Raw]) -> None:
    for name, cure in _REFUSED.items():
        if name in rest:
            raise unsupported(f"'{name}'", name, cure)
    if (raw := rest.pop("background", None)) is not None and read(_flag, raw, "background"):
        raise unsupported("answering in the background", "background", _STATELESS)
    if bytes(rest.pop("n", b"1")) != b"1":
        raise unsupported("more than one answer", "n")
    for name in _DROPPED:
        rest.pop(name, None)


def _messages(rest: dict[str, msgspec.Raw]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if (raw := rest.pop("instructions", None)) is not None:
        messages.append({"role": "system", "content": read(_string, raw, "instructions")})
    raw = rest.pop("input", None)
    if raw is None:
        raise InvalidRequest("'input' must be given: a text or a list of items", param="input")
    if bytes(raw).startswith(b'"'):
        said = [{"role": "user", "content": read(_string, raw, "input")}]
    else:
        said = to_messages(raw)
    if not said:
        raise InvalidRequest("'input' holds nothing to answer", param="input")
    return messages + said


def _limit(rest: dict[str, msgspec.Raw]) -> dict[str, Any]:
    raw = rest.pop("max_output_tokens", None)
    if raw is None:
        return {}
    limit = read(_count, raw, "max_output_tokens")
    if limit < 1:
        raise InvalidRequest("'max_output_tokens' must be at least 1", param="max_output_tokens")
    return {"max_completion_tokens": limit}


def _tool_fields(rest: dict[str, msgspec.Raw]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    raw = rest.pop("tools", None)
    if raw is not None and (tools := read(_tools, raw, "tools")):
        fields["tools"] = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    if (raw := rest.pop("tool_choice", None)) is not None:
        chosen = read(_choice, raw, "tool_choice")
        fields["tool_choice"] = chosen if isinstance(chosen, str) else _chosen(chosen)
    return fields


def _tool(tool: _Tool, where: str) -> dict[str, Any]:
    if tool.type != "function":
        raise unsupported(f"the tool '{tool.type}'", f"{where}.type", "only tools of type 'function' are")
    function = _named(tool.name, where)
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _named(name: str | None, where: str) -> dict[str, Any]:
    if not name:
        raise InvalidRequest(f"{where} needs a 'name'", param=f"{where}.name")
    return {"name": name}


def _chosen(chosen: _Chosen) -> dict[str, Any]:
    if chosen.type == "function":
        return {"type": "function", "function": _named(chosen.name, "tool_choice")}
    if chosen.type != "allowed_tools":
        raise unsupported(f"the tool '{chosen.type}'", "tool_choice.type", "only tools of type 'function' are")
    tools = [
        {"type": "function", "function": _named(tool.name, f"tool_choice.tools[{place}]")}
        for place, tool in enumerate(chosen.tools)
    ]
    return {"type": "allowed_tools", "allowed_tools": {"mode": chosen.mode or "auto", "tools": tools}}


def _text_fields(rest: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """How the answer is to look: its format and length, how hard to think, log-probabilities."""
    fields: dict[str, Any] = {}
    if (raw := rest.pop("text", None)) is not None:
        text = read(_text, raw, "text")
        if text.format is not None and text.format.type != "text":
            fields["response_format"] = _format(text.format)
        if text.verbosity is not None:
            fields["verbosity"] = text.verbosity
    if (raw := rest.pop("reasoning", None)) is not None:
        effort = read(_reasoning, raw, "reasoning").effort
        if effort is not None:
            fields["reasoning_effort"] = effort
    included = rest.pop("include", None)
    if "top_logprobs" in rest or (included is not None and _LOGPROBS in read(_strings, included, "include")):
        fields["logprobs"] = True
    return fields


def _format(asked: _Format) -> dict[str, Any]:
    if asked.type == "json_object":
        return {"type": "json_object"}
    if asked.type != "json_schema":
        raise unsupported(f"the format '{asked.type}'", "text.format.type")
    schema = _named(asked.name, "text.format")
    for name, value in (("description", asked.description), ("schema", asked.schema), ("strict", asked.strict)):
        if value is not None:
            schema[name] = value
    return {"type": "json_schema", "json_schema": schema}
