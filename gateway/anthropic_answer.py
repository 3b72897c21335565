"""Chat answers as Anthropic's: a message object, or the events of one.

Written after Anthropic's public reference of the Messages API. Its `input_tokens` are those that were neither read from
nor written to a provider's cache. A stream's `message_start` cannot know them yet (chat reports usage last) and says 0,
unless the upstream tells earlier; `message_delta` says the truth, and clients take its figures.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..protocol.errors import TrimtabError, UpstreamGarbled, to_wire
from ..protocol.messages import Request
from .chat_answer import ChatAnswer, Segment, is_object
from .segments import SegmentReader
from .sse import encode_event

_encode = msgspec.json.Encoder().encode

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def message(answer: ChatAnswer, request: Request) -> dict[str, Any]:
    """The message object of a whole answer. Raises UpstreamGarbled for tool arguments that are no JSON object."""
    return {
        **_head(answer, request),
        "content": [_block(segment, answer) for segment in answer.segments],
        **_stopped(answer),
        "usage": _usage(answer, request),
    }


def error_body(error: TrimtabError, request_id: str | None = None) -> bytes:
    """The error object, with `source` (client, gateway or upstream) beside Anthropic's own fields."""
    told = msgspec.json.decode(to_wire(error))["error"]
    status = error.http_status
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": kind, "message": told["message"], "source": told["source"]},
    }
    if told.get("param"):
        body["error"]["param"] = told["param"]
    if request_id is not None:
        body["request_id"] = request_id
    return _encode(body)


class MessageStream(SegmentReader):
    """Anthropic's events of one chat stream."""

    def _begin(self) -> None:
        known = self.answer.usage is not None
        usage = _usage(self.answer, self.request) if known else _tokens(0, 0, 0, 0)
        start = {**_head(self.answer, self.request), "content": [], "stop_reason": None, "stop_sequence": None}
        self._tell("message_start", {"message": {**start, "usage": usage}})

    def _open(self, segment: Segment) -> None:
        if segment.kind == "tool":
            block: dict[str, Any] = {"type": "tool_use", "id": segment.call_id, "name": segment.name, "input": {}}
        elif segment.kind == "thought":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        self._tell("content_block_start", {"index": segment.place, "content_block": block})

    def _grow(self, segment: Segment, piece: str, logprobs: list[msgspec.Raw]) -> None:
        # One of these goes out for every token: written by hand, it costs a third of encoding the whole object.
        if segment.kind == "tool":
            kind = b'"input_json_delta","partial_json":'
        elif segment.kind == "thought":
            kind = b'"thinking_delta","thinking":'
        else:
            kind = b'"text_delta","text":'
        self._out.append(
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b%b}}\n\n'
            % (segment.place, kind, _encode(piece))
        )

    def _shut(self, segment: Segment) -> None:
        if segment.kind == "tool":
            _input(segment, self.answer)  # a call that cannot be read fails here, before the client takes it for good
        self._tell("content_block_stop", {"index": segment.place})

    def _close(self) -> None:
        self._tell("message_delta", {"delta": _stopped(self.answer), "usage": _usage(self.answer, self.request)})
        self._tell("message_stop", {})

    def _broken(self, error: TrimtabError) -> None:
        self._out.append(encode_event(error_body(error), "error"))

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        self._out.append(encode_event(_encode({"type": event, **fields}), event))


def _head(answer: ChatAnswer, request: Request) -> dict[str, Any]:
    return {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "model": request.model}


def _block(segment: Segment, answer: ChatAnswer) -> dict[str, Any]:
    if segment.kind == "thought":
        # The signature is how Anthropic's own models prove a thought to be theirs; nobody else's has one.
        return {"type": "thinking", "thinking": segment.text, "signature": ""}
    if segment.kind == "tool":
        asked = {"type": "tool_use", "id": segment.call_id, "name": segment.name}
        return {**asked, "input": _input(segment, answer)}
    return {"type": "text", "text": segment.text}


def _input(segment: Segment, answer: ChatAnswer) -> msgspec.Raw:
    """A tool call's arguments as they were written; {} for none, and for those that the token limit cut off."""
    text = segment.text
    if not text.strip():
        return msgspec.Raw(b"{}")
    if is_object(text):
        return msgspec.Raw(text.strip().encode())
    if answer.finish_reason == "length":
        return msgspec.Raw(b"{}")
    raise UpstreamGarbled(f"the model called '{segment.name}' with arguments that are no JSON object")


def _stopped(answer: ChatAnswer) -> dict[str, Any]:
    kinds = {segment.kind for segment in answer.segments}
    reason = "end_turn"
    if answer.finish_reason == "content_filter" or "refusal" in kinds:
        reason = "refusal"
    elif answer.finish_reason == "length":
        reason = "max_tokens"
    elif "tool" in kinds:
        reason = "tool_use"  # several upstreams say "stop" here
    elif answer.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop}
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(answer: ChatAnswer, request: Request) -> dict[str, int]:
    usage, written = answer.used(request)
    return _tokens(usage.prompt - usage.cached - written, usage.completion, usage.cached, written)


def _tokens(fresh: int, output: int, cached: int, written: int) -> dict[str, int]:
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }
