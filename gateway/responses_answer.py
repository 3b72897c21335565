"""Chat answers as OpenAI's Responses API writes them: a response object, or the events of one.

Written after OpenAI's public reference. Nothing is stored, and the object says so. `instructions` is null: in the chat
request they are a message like any other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..protocol.errors import TrimtabError, to_wire
from ..protocol.messages import Request
from .chat_answer import ChatAnswer, Segment
from .segments import SegmentReader
from .sse import encode_event

_encode = msgspec.json.Encoder().encode

_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_DELTAS = {
    "thought": "response.reasoning_text",
    "text": "response.output_text",
    "refusal": "response.refusal",
    "tool": "response.function_call_arguments",
}


def response(answer: ChatAnswer, request: Request) -> dict[str, Any]:
    """The response object of a whole answer."""
    short = _SHORT.get(answer.finish_reason or "")
    return {
        **_frame(answer, request),
        "status": "incomplete" if short else "completed",
        "incomplete_details": {"reason": short} if short else None,
        "output": [_item(segment, answer) for segment in answer.segments],
        "usage": _usage(answer, request),
    }


class ResponseStream(SegmentReader):
    """The Responses API's events of one chat stream."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._number = 0

    def _begin(self) -> None:
        started = {**_frame(self.answer, self.request), "status": "in_progress"}
        self._tell("response.created", {"response": started})
        self._tell("response.in_progress", {"response": started})

    def _open(self, segment: Segment) -> None:
        empty = _empty_item(segment, self.answer)
        self._tell("response.output_item.added", {"output_index": segment.place, "item": empty})
        if segment.kind != "tool":
            self._tell("response.content_part.added", {**self._at(segment), "part": _part(segment, empty=True)})

    def _grow(self, segment: Segment, piece: str, logprobs: list[msgspec.Raw]) -> None:
        fields: dict[str, Any] = {**self._at(segment), "delta": piece}
        if segment.kind == "text":
            fields["logprobs"] = logprobs
        self._tell(_DELTAS[segment.kind] + ".delta", fields)

    def _shut(self, segment: Segment) -> None:
        done = _DELTAS[segment.kind] + ".done"
        at = self._at(segment)
        if segment.kind == "tool":
            self._tell(done, {**at, "name": segment.name, "arguments": segment.text})
        else:
            part = _part(segment)
            said = {"refusal": segment.text} if segment.kind == "refusal" else {"text": segment.text}
            if segment.kind == "text":
                said["logprobs"] = part["logprobs"]
            self._tell(done, {**at, **said})
            self._tell("response.content_part.done", {**at, "part": part})
        item = _item(segment, self.answer)
        self._tell("response.output_item.done", {"output_index": segment.place, "item": item})

    def _close(self) -> None:
        whole = response(self.answer, self.request)
        self._tell(f"response.{whole['status']}", {"response": whole})

    def _broken(self, error: TrimtabError) -> None:
        """`response.failed`, then an `error` event: OpenAI's clients raise on the second, so no cut goes unnoticed."""
        told = msgspec.json.decode(to_wire(error))["error"]
        if self._begun:
            failed = {
                **_frame(self.answer, self.request),
                "status": "failed",
                "error": {"code": _failure(error.http_status), "message": told["message"]},
                "output": [_item(segment, self.answer) for segment in self.answer.segments if segment.closed],
            }
            self._tell("response.failed", {"response": failed})
        flat = {name: told.get(name) for name in ("code", "message", "param")}
        self._tell("error", {**flat, "error": told})

    def _at(self, segment: Segment) -> dict[str, Any]:
        at: dict[str, Any] = {"item_id": _item_id(segment, self.answer), "output_index": segment.place}
        if segment.kind != "tool":
            at["content_index"] = 0
        return at

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        self._out.append(encode_event(_encode({"type": event, "sequence_number": self._number, **fields}), event))
        self._number += 1


def _frame(answer: ChatAnswer, request: Request) -> dict[str, Any]:
    """The response object but for its end: what was asked, and that nothing has come yet."""
    effort = request.get("reasoning_effort")
    parallel = request.get("parallel_tool_calls")
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": request.get("max_completion_tokens"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "reasoning": {"effort": effort, "summary": None},
        "service_tier": answer.service_tier,
        "store": False,
        "temperature": request.get("temperature"),
        "text": _text_asked(request),
        "tool_choice": _choice_asked(request.get("tool_choice")),
        "tools": [_tool_asked(tool) for tool in request.get("tools") or ()],
        "top_logprobs": request.get("top_logprobs"),
        "top_p": request.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
    }


def _text_asked(request: Request) -> dict[str, Any]:
    asked = request.get("response_format")
    text: dict[str, Any] = {"format": {"type": "text"}}
    if isinstance(asked, dict):
        schema = asked.get("json_schema")
        text["format"] = {"type": asked.get("type"), **(schema if isinstance(schema, dict) else {})}
    verbosity = request.get("verbosity")
    return text if verbosity is None else {**text, "verbosity": verbosity}


def _tool_asked(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "parameters": None, "strict": None, **tool["function"]}


def _choice_asked(choice: Any) -> Any:
    if isinstance(choice, dict):
        if choice["type"] == "function":
            return {"type": "function", "name": choice["function"]["name"]}
        allowed = choice["allowed_tools"]
        tools = [{"type": "function", "name": tool["function"]["name"]} for tool in allowed["tools"]]
        return {"type": "allowed_tools", "mode": allowed["mode"], "tools": tools}
    return choice or "auto"


def _item_id(segment: Segment, answer: ChatAnswer) -> str:
    kind = {"thought": "rs", "tool": "fc"}.get(segment.kind, "msg")
    return f"{kind}_{answer.id}_{segment.place}"


def _item(segment: Segment, answer: ChatAnswer) -> dict[str, Any]:
    item = {**_empty_item(segment, answer), "status": _item_status(segment, answer)}
    if segment.kind == "tool":
        item["arguments"] = segment.text
    else:
        item["content"] = [_part(segment)]
    return item


def _empty_item(segment: Segment, answer: ChatAnswer) -> dict[str, Any]:
    begun = {"id": _item_id(segment, answer), "status": "in_progress"}
    if segment.kind == "tool":
        return {**begun, "type": "function_call", "call_id": segment.call_id, "name": segment.name, "arguments": ""}
    if segment.kind == "thought":
        return {**begun, "type": "reasoning", "summary": [], "content": []}
    return {**begun, "type": "message", "role": "assistant", "content": []}


def _item_status(segment: Segment, answer: ChatAnswer) -> str:
    if answer.finish_reason not in _SHORT:
        return "completed"
    finished = segment.whole if segment.kind == "tool" else not segment.last
    return "completed" if finished else "incomplete"


def _part(segment: Segment, empty: bool = False) -> dict[str, Any]:
    text = "" if empty else segment.text
    if segment.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    if segment.kind == "thought":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [] if empty else segment.logprobs}


def _usage(answer: ChatAnswer, request: Request) -> dict[str, Any]:
    usage, written = answer.used(request)
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": written},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _failure(status: int) -> str:
    """The code of a failed response; OpenAI knows few."""
    if status == 429:
        return "rate_limit_exceeded"
    return "server_error" if status >= 500 else "invalid_prompt"
