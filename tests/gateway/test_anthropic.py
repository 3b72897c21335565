"""Anthropic's protocol: what its requests become in chat, and chat's answers in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway import anthropic
from trimtab.gateway.sse import SSEParser
from trimtab.protocol.errors import (
    BudgetExceeded,
    Forbidden,
    Internal,
    InvalidKey,
    InvalidRequest,
    LimitExceeded,
    ModelNotFound,
    Overloaded,
    RequestTooLarge,
    TrimtabError,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamGarbled,
    UpstreamTimeout,
)
from trimtab.protocol.messages import Request

Json = dict[str, Any]
HI = [{"role": "user", "content": "hi"}]
_floats = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no other
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def to_chat(**fields: Any) -> Json:
    body = {"model": "auto", "max_tokens": 5000, "messages": HI, **fields}
    chat: Json = json.loads(anthropic.to_chat(json.dumps(body).encode()).encode())
    return chat


def messages(*turns: Json, **fields: Any) -> list[Json]:
    said: list[Json] = to_chat(messages=list(turns), **fields)["messages"]
    return said


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        to_chat(**fields)
    return raised.value


def chunk(delta: Json | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, "choices": choices, **more}).encode() + b"\n\n"


def whole(finish: str = "stop", usage: Json | None = None, choice: Json | None = None, **message: Any) -> bytes:
    one = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **(choice or {})}
    return json.dumps({"id": "chatcmpl-1", "created": 1, "model": "up", "choices": [one], "usage": usage}).encode()


def call(arguments: str, name: str = "look", index: int = 0) -> Json:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def from_chat(answer: bytes, **fields: Any) -> Json:
    body = {"model": "auto", "max_tokens": 50, "messages": HI, **fields}
    message: Json = json.loads(anthropic.from_chat(answer, anthropic.to_chat(json.dumps(body).encode())))
    return message


class TestRequests:
    def test_the_plain_fields(self) -> None:
        chat = to_chat(
            system="be brief",
            temperature=0.5,
            top_p=0.9,
            top_k=4,
            stop_sequences=["END"],
            metadata={"user_id": "u1"},
            stream=True,
            seed=3,
        )
        assert chat == {
            "model": "auto",
            "messages": [{"role": "system", "content": "be brief"}, *HI],
            "max_completion_tokens": 5000,
            "stream": True,
            "stream_options": {"include_usage": True},
            "stop": ["END"],
            "user": "u1",
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 4,
            "seed": 3,
        }

    def test_number_spelling_survives(self) -> None:
        body = b'{"model":"a","max_tokens":9,"messages":[{"role":"user","content":"x"}],"temperature":0.50,"seed":1e2}'
        encoded = anthropic.to_chat(body).encode()
        assert b'"temperature":0.50' in encoded
        assert b'"seed":1e2' in encoded

    def test_tools(self) -> None:
        schema = {"type": "object", "properties": {"z": {}, "a": {}}}
        chat = to_chat(
            tools=[
                {"name": "look", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}
            ],
            tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        )
        function = {"name": "look", "description": "d", "parameters": schema}
        assert chat["tools"] == [{"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}]
        assert list(chat["tools"][0]["function"]["parameters"]["properties"]) == ["z", "a"]
        assert chat["tool_choice"] == {"type": "function", "function": {"name": "look"}}
        assert chat["parallel_tool_calls"] is False

    @pytest.mark.parametrize(("kind", "chat"), [("auto", "auto"), ("any", "required"), ("none", "none")])
    def test_tool_choice(self, kind: str, chat: str) -> None:
        assert to_chat(tool_choice={"type": kind})["tool_choice"] == chat

    def test_a_whole_tool_turn(self) -> None:
        said = messages(
            {"role": "user", "content": "weather in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "c0", "name": "look", "input": {"city": "Oslo", "n": 1.0}},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c0", "content": "rain"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": "no"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "And tomorrow?"},
                ],
            },
        )
        calls = [
            {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"city": "Oslo", "n": 1.0}'}},
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ]
        assert said[1:] == [
            {"role": "assistant", "content": "Looking.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c0", "content": "rain"},
            {"role": "tool", "tool_call_id": "c1", "content": "Error: no"},
            {"role": "user", "content": "And tomorrow?"},
        ]

    def test_a_call_without_words_has_no_content(self) -> None:
        (said,) = messages(
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
        )
        assert said["content"] is None

    def test_images(self) -> None:
        (said,) = messages(
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": PIXEL},
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    {"type": "text", "text": "what is this?"},
                ],
            }
        )
        urls = [part["image_url"]["url"] for part in said["content"][:2]]
        assert urls == ["data:image/png;base64,iVBORw0KGgo=", "https://example.com/a.png"]
        assert said["content"][2] == {"type": "text", "text": "what is this?"}

    def test_the_image_of_a_result_goes_to_the_user(self) -> None:
        result = {"type": "tool_result", "tool_use_id": "c0", "content": [{"type": "image", "source": PIXEL}]}
        tool, user = messages({"role": "user", "content": [result, {"type": "text", "text": "well?"}]})
        assert tool == {"role": "tool", "tool_call_id": "c0", "content": ""}
        assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
        assert "c0" in user["content"][0]["text"]
        assert user["content"][2]["text"] == "well?"

    def test_documents(self) -> None:
        plain = {
            "type": "document",
            "title": "T",
            "source": {"type": "text", "media_type": "text/plain", "data": "body"},
        }
        pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}
        (said,) = messages({"role": "user", "content": [plain, pdf]})
        assert [part.get("text") for part in said["content"][:2]] == ["T", "body"]
        assert said["content"][2]["file"]["file_data"] == "data:application/pdf;base64,JVBE"

    def test_cache_marks_stay_where_they_stand(self) -> None:
        mark = {"type": "ephemeral", "ttl": "1h"}
        chat = to_chat(
            system=[{"type": "text", "text": "long"}, {"type": "text", "text": "rules", "cache_control": mark}],
            messages=[{"role": "user", "content": [{"type": "text", "text": "q", "cache_control": mark}]}],
        )
        system, user = chat["messages"]
        assert system["content"] == [
            {"type": "text", "text": "long"},
            {"type": "text", "text": "rules", "cache_control": mark},
        ]
        assert user["content"] == [{"type": "text", "text": "q", "cache_control": mark}]

    @pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (4096, "low"), (4097, "medium"), (20000, "high")])
    def test_thinking(self, budget: int, effort: str) -> None:
        thinking = {"type": "enabled", "budget_tokens": budget}
        assert to_chat(thinking=thinking, max_tokens=32000)["reasoning_effort"] == effort

    def test_thinking_that_says_nothing_of_effort(self) -> None:
        assert "reasoning_effort" not in to_chat(thinking={"type": "disabled"})
        assert "reasoning_effort" not in to_chat(thinking={"type": "adaptive"})

    def test_output_config(self) -> None:
        schema = {"type": "object"}
        chat = to_chat(output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}})
        assert chat["reasoning_effort"] == "high"
        assert chat["response_format"]["json_schema"]["schema"] == schema
        assert "output_config" not in chat

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": "9"}, "max_tokens"),
            ({"max_tokens": True}, "max_tokens"),
            ({"model": None}, "model"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
            ({"messages": [*HI, {"role": "user"}]}, "messages[1].content"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "web"}]}]}, "messages[0].content[0].type"),
            ({"system": 3}, "system"),
            ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
            ({"tools": [{"name": "w"}]}, "tools[0].input_schema"),
            ({"tools": [{"name": "w", "input_schema": 3}]}, "tools[0].input_schema"),
            ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
            ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "thinking.budget_tokens"),
            ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
            ({"stop_sequences": "x"}, "stop_sequences"),
            ({"stream": "yes"}, "stream"),
            ({"container": "c"}, "container"),
            ({"mcp_servers": [{}]}, "mcp_servers"),
            ({"inference_geo": "eu"}, "inference_geo"),
            ({"n": 2}, "n"),
            ({"metadata": {"user_id": 3}}, "metadata.user_id"),
        ],
    )
    def test_bad_requests_name_the_field(self, fields: Json, param: str) -> None:
        assert refused(**fields).param == param

    def test_what_is_refused_is_named(self) -> None:
        assert "web_search_20250305" in refused(tools=[{"type": "web_search_20250305", "name": "w"}]).message
        stored = {"type": "image", "source": {"type": "file", "file_id": "f"}}
        assert "stored file" in refused(messages=[{"role": "user", "content": [stored]}]).message

    def test_blocks_on_the_wrong_side(self) -> None:
        use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
        assert refused(messages=[{"role": "user", "content": [use]}]).param == "messages[0].content[0]"
        result = {"type": "tool_result", "tool_use_id": "c"}
        assert refused(messages=[{"role": "assistant", "content": [result]}]).param == "messages[0].content[0]"

    def test_nulls_are_not_given(self) -> None:
        assert to_chat(system=None, tools=None, thinking=None, top_k=None) == to_chat()


class TestAnswers:
    def test_everything_at_once(self) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
        message = from_chat(
            whole("tool_calls", usage, reasoning_content="hm", content="Looking.", tool_calls=[call('{"n": 1.0}')])
        )
        assert message == {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "auto",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "c0", "name": "look", "input": {"n": 1.0}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 7,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 3,
                "output_tokens": 4,
            },
        }

    def test_tokens_written_to_a_providers_cache_are_counted_once(self) -> None:
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 30},
            "cache_creation_input_tokens": 50,
        }
        told = from_chat(whole(usage=usage, content="x"))["usage"]
        assert (told["input_tokens"], told["cache_read_input_tokens"], told["cache_creation_input_tokens"]) == (
            20,
            30,
            50,
        )

    @pytest.mark.parametrize(
        ("finish", "message", "reason"),
        [
            ("stop", {"content": "x"}, "end_turn"),
            ("length", {"content": "x"}, "max_tokens"),
            ("content_filter", {"content": "x"}, "refusal"),
            ("stop", {"refusal": "no"}, "refusal"),
            ("stop", {"tool_calls": [call("{}")]}, "tool_use"),
            ("tool_calls", {"tool_calls": [call("{}")]}, "tool_use"),
        ],
    )
    def test_stop_reasons(self, finish: str, message: Json, reason: str) -> None:
        assert from_chat(whole(finish, **message))["stop_reason"] == reason

    @pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
    def test_a_stop_sequence_that_the_upstream_names(self, field: str) -> None:
        answer = whole(content="x", choice={field: "END"})
        told = from_chat(answer, stop_sequences=["STOP", "END"])
        assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")
        assert from_chat(answer, stop_sequences=["other"])["stop_reason"] == "end_turn"

    def test_unreadable_arguments(self) -> None:
        with pytest.raises(UpstreamGarbled, match="look"):
            from_chat(whole("tool_calls", tool_calls=[call('{"a":')]))
        cut = from_chat(whole("length", tool_calls=[call('{"a":')]))
        assert (cut["stop_reason"], cut["content"][0]["input"]) == ("max_tokens", {})

    def test_unreadable_arguments_in_a_stream_fail_before_the_block_ends(self) -> None:
        translator = anthropic.stream(_streamed())
        translator.feed(chunk({"tool_calls": [call('{"a":')]}) + chunk({}, "tool_calls"))
        with pytest.raises(UpstreamGarbled) as raised:
            translator.finish()
        assert b"content_block_stop" not in translator.fail(raised.value)

    @given(st.dictionaries(st.text(), st.recursive(st.none() | _floats | st.text(), st.lists)))
    def test_a_call_comes_back_as_it_went(self, arguments: Json) -> None:
        """What the model wrote is what the next request says it wrote, byte for byte."""
        written = json.dumps(arguments)
        message = anthropic.from_chat(whole("tool_calls", tool_calls=[call(written)]), _streamed())
        turn = {"role": "assistant", "content": 0}
        body = json.dumps({"model": "a", "max_tokens": 1, "messages": [turn]}).encode()
        content = message[message.index(b'"content":') + 10 : message.index(b',"stop_reason"')]
        request = anthropic.to_chat(body.replace(b'"content": 0', b'"content": ' + content))
        assert request.get("messages")[0]["tool_calls"][0]["function"]["arguments"] == written


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (InvalidRequest("m", param="p"), "invalid_request_error"),
            (InvalidKey("m"), "authentication_error"),
            (Forbidden("m"), "permission_error"),
            (ModelNotFound("m"), "not_found_error"),
            (RequestTooLarge("m"), "request_too_large"),
            (LimitExceeded("m"), "rate_limit_error"),
            (BudgetExceeded("m"), "rate_limit_error"),
            (Internal("m"), "api_error"),
            (UpstreamCut("m"), "api_error"),
            (UpstreamTimeout("idle", 3), "timeout_error"),
            (Overloaded("m"), "overloaded_error"),
            (UpstreamAnswered(529, b"{}"), "overloaded_error"),
        ],
    )
    def test_types(self, error: TrimtabError, kind: str) -> None:
        told = json.loads(anthropic.error(error, "req_9"))
        assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", kind, "req_9")
        assert told["error"]["source"] == error.source

    def test_an_upstreams_own_words_are_kept_and_no_page_of_html(self) -> None:
        own = UpstreamAnswered(400, b'{"error": {"message": "bad image", "type": "invalid_request_error"}}')
        assert json.loads(anthropic.error(own))["error"]["message"] == "bad image"
        assert b"<html>" not in anthropic.error(UpstreamAnswered(500, b"<html>secret</html>"))


class TestCounting:
    def test_it_grows_with_what_is_sent(self) -> None:
        def count(**fields: Any) -> int:
            body = {"model": "auto", "messages": HI, **fields}
            told: int = json.loads(anthropic.count_tokens(json.dumps(body).encode()))["input_tokens"]
            return told

        tool = {"name": "look", "description": "look at the weather of a place", "input_schema": {"type": "object"}}
        image = {"role": "user", "content": [{"type": "image", "source": PIXEL}]}
        assert 0 < count() < 12
        assert count(messages=[{"role": "user", "content": "word " * 100}]) == pytest.approx(104, abs=5)
        assert count(tools=[tool]) > count() + 10
        assert count(messages=[image]) > 1600

    def test_it_needs_messages(self) -> None:
        with pytest.raises(InvalidRequest):
            anthropic.count_tokens(b'{"model": "auto"}')


def _streamed() -> Request:
    return anthropic.to_chat(json.dumps({"model": "auto", "max_tokens": 9, "messages": HI, "stream": True}).encode())


def test_usage_that_comes_early_is_told_at_the_start() -> None:
    first = anthropic.stream(_streamed()).feed(chunk({"role": "assistant"}, usage={"prompt_tokens": 8}))
    start = json.loads(SSEParser().feed(first)[0].data)
    assert start["message"]["usage"]["input_tokens"] == 8
