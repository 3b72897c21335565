"""The Responses protocol: what its requests become in chat, and chat's answers in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimtab.gateway import responses
from trimtab.gateway.sse import SSEParser
from trimtab.protocol.errors import InvalidRequest, ModelNotFound
from trimtab.protocol.messages import Request

Json = dict[str, Any]


def to_chat(**fields: Any) -> Json:
    chat: Json = json.loads(responses.to_chat(json.dumps({"model": "auto", "input": "hi", **fields}).encode()).encode())
    return chat


def messages(*items: Json, **fields: Any) -> list[Json]:
    said: list[Json] = to_chat(input=list(items), **fields)["messages"]
    return said


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        to_chat(**fields)
    return raised.value


def chunk(delta: Json | None, finish: str | None = None, choice: Json | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, "choices": choices, **more}).encode() + b"\n\n"


def whole(finish: str = "stop", usage: Json | None = None, choice: Json | None = None, **message: Any) -> bytes:
    one = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **(choice or {})}
    return json.dumps({"id": "chatcmpl-1", "created": 1, "model": "up", "choices": [one], "usage": usage}).encode()


def call(arguments: str, index: int = 0) -> Json:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": "look", "arguments": arguments}}


def function_call(number: int) -> Json:
    return {
        "type": "function_call",
        "call_id": f"c{number}",
        "name": "look",
        "arguments": '{"n":1}',
        "id": f"fc_{number}",
    }


def function_output(number: int, output: Any = "rain") -> Json:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": output}


def from_chat(answer: bytes, **fields: Any) -> Json:
    request = responses.to_chat(json.dumps({"model": "auto", "input": "hi", **fields}).encode())
    told: Json = json.loads(responses.from_chat(answer, request))
    return told


TOOL = {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}, "strict": True}
SCHEMA = {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}


class TestRequests:
    def test_the_plain_fields(self) -> None:
        chat = to_chat(
            instructions="be brief",
            max_output_tokens=50,
            temperature=0.5,
            top_p=0.9,
            parallel_tool_calls=False,
            metadata={"team": "a"},
            user="u1",
            store=True,
            reasoning={"effort": "low", "summary": "auto"},
            text={"format": SCHEMA, "verbosity": "low"},
            stream=True,
            stream_options={"include_obfuscation": False},
            include=["reasoning.encrypted_content"],
            seed=3,
        )
        assert chat == {
            "model": "auto",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "max_completion_tokens": 50,
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": {"type": "object"}, "strict": True},
            },
            "verbosity": "low",
            "reasoning_effort": "low",
            "temperature": 0.5,
            "top_p": 0.9,
            "parallel_tool_calls": False,
            "metadata": {"team": "a"},
            "user": "u1",
            "seed": 3,
        }

    def test_tools(self) -> None:
        chat = to_chat(tools=[TOOL], tool_choice={"type": "function", "name": "look"})
        function = {name: value for name, value in TOOL.items() if name != "type"}
        assert chat["tools"] == [{"type": "function", "function": function}]
        assert chat["tool_choice"] == {"type": "function", "function": {"name": "look"}}
        allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}
        named = [{"type": "function", "function": {"name": "look"}}]
        assert to_chat(tool_choice=allowed)["tool_choice"]["allowed_tools"] == {"mode": "required", "tools": named}
        assert to_chat(tool_choice="required")["tool_choice"] == "required"

    def test_messages_and_parts(self) -> None:
        said = messages(
            {"role": "developer", "content": "rules"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a cat", "annotations": []}]},
        )
        assert said == [
            {"role": "developer", "content": "rules"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                ],
            },
            {"role": "assistant", "content": "a cat"},
        ]

    def test_calls_in_a_row_are_one_turn(self) -> None:
        text = {"role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]}
        said = messages(
            text, function_call(0), {"type": "reasoning"}, function_call(1), function_output(0), function_output(1)
        )
        assert [m["role"] for m in said] == ["assistant", "tool", "tool"]
        assert said[0]["content"] == "Looking."
        assert [c["id"] for c in said[0]["tool_calls"]] == ["c0", "c1"]
        assert said[0]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"n":1}'}
        assert said[1] == {"role": "tool", "tool_call_id": "c0", "content": "rain"}

    def test_calls_answered_one_by_one_stay_so(self) -> None:
        said = messages(function_call(0), function_output(0), function_call(1), function_output(1))
        assert [m["role"] for m in said] == ["assistant", "tool", "assistant", "tool"]

    def test_words_after_a_call_belong_to_its_turn(self) -> None:
        said = messages(function_call(0), {"role": "assistant", "content": "Looking."}, function_output(0))
        assert [m["role"] for m in said] == ["assistant", "tool"]
        assert said[0]["content"] == "Looking."

    def test_the_image_of_an_output_goes_to_the_user_after_all_outputs(self) -> None:
        image = [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "https://example.com/a.png"},
        ]
        said = messages(function_call(0), function_call(1), function_output(0, image), function_output(1))
        assert [m["role"] for m in said] == ["assistant", "tool", "tool", "user"]
        assert said[1]["content"] == "see"
        assert said[3]["content"][1] == {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

    @pytest.mark.parametrize(
        "fields", [{"top_logprobs": 2}, {"top_logprobs": 0}, {"include": ["message.output_text.logprobs"]}]
    )
    def test_logprobs(self, fields: Json) -> None:
        assert to_chat(**fields)["logprobs"] is True

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"model": None}, "model"),
            ({"input": None}, "input"),
            ({"input": []}, "input"),
            ({"input": 3}, "input"),
            ({"input": ["hi"]}, "input[0]"),
            ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
            ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
                "input[0].content[0]",
            ),
            ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
            ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"prompt": {"id": "p"}}, "prompt"),
            ({"background": True}, "background"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].name"),
            ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": "9"}, "max_output_tokens"),
            ({"instructions": ["x"]}, "instructions"),
            ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
            ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
            ({"n": 2}, "n"),
            ({"stream": 1}, "stream"),
        ],
    )
    def test_bad_requests_name_the_field(self, fields: Json, param: str) -> None:
        assert refused(**fields).param == param

    def test_the_cure_is_named(self) -> None:
        assert "whole conversation as 'input'" in refused(previous_response_id="resp_1").message
        assert "web_search" in refused(tools=[{"type": "web_search"}]).message

    def test_nulls_and_the_harmless_are_not_given(self) -> None:
        assert to_chat(previous_response_id=None, background=False, truncation="auto", tools=[]) == to_chat()


class TestAnswers:
    usage: Json = {  # noqa: RUF012
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    def test_everything_at_once(self) -> None:
        told = from_chat(
            whole("tool_calls", self.usage, reasoning_content="hm", content="Looking.", tool_calls=[call("{}")]),
            tools=[TOOL],
            tool_choice={"type": "function", "name": "look"},
            text={"format": SCHEMA},
            temperature=0.5,
            store=True,
        )
        reasoning, message, function = told["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
        assert message["content"] == [{"type": "output_text", "text": "Looking.", "annotations": [], "logprobs": []}]
        assert (function["type"], function["call_id"], function["arguments"]) == ("function_call", "c0", "{}")
        assert told["usage"] == {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 14,
        }
        assert (told["status"], told["store"], told["model"], told["temperature"]) == ("completed", False, "auto", 0.5)
        assert told["tools"] == [TOOL]
        assert told["tool_choice"] == {"type": "function", "name": "look"}
        assert told["text"] == {"format": SCHEMA}

    @pytest.mark.parametrize(
        ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
    )
    def test_an_answer_that_stops_short_says_why(self, finish: str, reason: str) -> None:
        told = from_chat(whole(finish, content="half"))
        assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert told["output"][0]["status"] == "incomplete"

    def test_cut_arguments_are_marked(self) -> None:
        told = from_chat(whole("length", tool_calls=[call("{}"), call('{"a', 1)]))
        assert [item["status"] for item in told["output"]] == ["completed", "incomplete"]
        told = from_chat(whole("length", tool_calls=[call('{"a'), call("{}", 1)]))
        assert [item["status"] for item in told["output"]] == ["incomplete", "completed"]

    def test_a_refusal(self) -> None:
        told = from_chat(whole(refusal="no"))
        assert told["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]

    def test_logprobs_reach_the_text(self) -> None:
        logprobs = [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]
        told = from_chat(whole(content="x", choice={"logprobs": {"content": logprobs}}), top_logprobs=0)
        assert told["output"][0]["content"][0]["logprobs"] == logprobs
        translator = responses.stream(_streamed())
        out = translator.feed(chunk({"content": "x"}, choice={"logprobs": {"content": logprobs}}) + chunk({}, "stop"))
        events = [json.loads(event.data) for event in SSEParser().feed(out + translator.finish())]
        assert next(e for e in events if e["type"] == "response.output_text.delta")["logprobs"] == logprobs
        assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs

    def test_errors_are_openais_own(self) -> None:
        told = json.loads(responses.error(ModelNotFound("no such model", param="model"), "req_1"))["error"]
        assert (told["type"], told["code"], told["param"]) == ("invalid_request_error", "model_not_found", "model")


def _streamed() -> Request:
    return responses.to_chat(b'{"model": "auto", "input": "hi", "stream": true}')
