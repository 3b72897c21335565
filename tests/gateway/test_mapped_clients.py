"""The vendors' own clients against the mapped protocols: a real server on loopback, canned chat answers behind it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pydantic
import pytest
import uvicorn

from trimtab.gateway import anthropic as mapped_anthropic
from trimtab.gateway import responses as mapped_responses
from trimtab.protocol.errors import LimitExceeded, TrimtabError, UpstreamCut
from trimtab.protocol.messages import Request

Json = dict[str, Any]
MAPPINGS: dict[str, Any] = {m.path: m for m in (mapped_anthropic, mapped_responses)}
HI = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


def chunk(delta: Json | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, "choices": choices, **more}).encode() + b"\n\n"


def whole(finish: str = "stop", usage: Json | None = None, **message: Any) -> bytes:
    one = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"id": "chatcmpl-1", "created": 1, "model": "up", "choices": [one], "usage": usage}).encode()


def call(arguments: str, name: str = "look", index: int = 0) -> Json:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


# Thought, text and two calls whose arguments come interleaved.
BUSY = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm", "reasoning": "hm"}),
    chunk({"content": "Look"}),
    chunk({"content": "ing."}),
    chunk({"tool_calls": [call('{"city"', index=0)]}),
    chunk({"tool_calls": [call('{"ci', "see", index=1)]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ':"Oslo"}'}}]}),
    chunk({"tool_calls": [{"index": 1, "function": {"arguments": 'ty":"Rome"}'}}]}),
    chunk({}, "tool_calls"),
    chunk(None, usage=USAGE),
    b"data: [DONE]\n\n",
]


@dataclass
class MappedServer:
    """What the next answer is: `refuse` before anything, else a whole answer or `chunks`, ended by `fail` if given."""

    url: str = ""
    whole: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    fail: TrimtabError | None = None
    refuse: TrimtabError | None = None
    asked: list[Request] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["path"].endswith("/count_tokens"):
            await self._send(send, 200, [mapped_anthropic.count_tokens(body)], b"application/json")
            return
        mapping = MAPPINGS[scope["path"]]
        try:
            request = mapping.to_chat(body)
            self.asked.append(request)
            if self.refuse is not None:
                raise self.refuse
        except TrimtabError as e:
            await self._send(send, e.http_status, [mapping.error(e, "req_1")], b"application/json")
            return
        if not request.stream:
            await self._send(send, 200, [mapping.from_chat(self.whole, request)], b"application/json")
            return
        translator = mapping.stream(request)
        told = [translator.feed(chunk) for chunk in self.chunks]
        told.append(translator.finish() if self.fail is None else translator.fail(self.fail))
        await self._send(send, 200, told, b"text/event-stream")

    async def _send(self, send: Any, status: int, parts: list[bytes], kind: bytes) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def mapped_server() -> Iterator[MappedServer]:
    played = MappedServer()
    config = uvicorn.Config(played, port=0, lifespan="off", ws="none", log_level="critical", interface="asgi3")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    played.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield played
    server.should_exit = True
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture
def anthropic_client(mapped_server: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mapped_server.url, api_key="k", max_retries=0) as client:
        yield client


class TestAnthropicsOwnClient:
    asked: Json = {"model": "auto", "max_tokens": 50, "messages": HI}  # noqa: RUF012

    def test_a_message(self, mapped_server: Any, anthropic_client: anthropic.Anthropic) -> None:
        mapped_server.whole = whole("tool_calls", USAGE, content="Looking.", tool_calls=[call('{"city":"Oslo"}')])
        message = anthropic_client.messages.create(**self.asked)
        text, use = message.content
        assert isinstance(text, anthropic.types.TextBlock)
        assert isinstance(use, anthropic.types.ToolUseBlock)
        assert (text.text, use.input, message.stop_reason) == ("Looking.", {"city": "Oslo"}, "tool_use")
        assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 2)

    def test_a_stream_with_thought_text_and_interleaved_calls(
        self, mapped_server: Any, anthropic_client: anthropic.Anthropic
    ) -> None:
        mapped_server.chunks = BUSY
        with anthropic_client.messages.stream(**self.asked) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        assert text == "Looking."
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        inputs = [block.input for block in message.content if block.type == "tool_use"]
        assert inputs == [{"city": "Oslo"}, {"city": "Rome"}]
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 9, 2)

    def test_every_event_satisfies_the_clients_own_model(
        self, mapped_server: Any, anthropic_client: anthropic.Anthropic
    ) -> None:
        mapped_server.chunks = BUSY
        seen = set()
        for event in anthropic_client.messages.create(**self.asked, stream=True):
            type(event).model_validate_json(event.to_json())
            seen.add(event.type)
        assert len(seen) == 6

    def test_an_error_in_the_middle_is_raised(self, mapped_server: Any, anthropic_client: anthropic.Anthropic) -> None:
        mapped_server.chunks = [chunk({"content": "half"})]
        mapped_server.fail = UpstreamCut("the upstream went away")
        seen: list[str] = []
        with (
            anthropic_client.messages.stream(**self.asked) as stream,
            pytest.raises(anthropic.APIStatusError, match="went away"),
        ):
            seen.extend(stream.text_stream)
        assert seen == ["half"]

    def test_an_error_before_the_stream(self, mapped_server: Any, anthropic_client: anthropic.Anthropic) -> None:
        mapped_server.refuse = LimitExceeded("too many")
        with pytest.raises(anthropic.RateLimitError) as raised:
            anthropic_client.messages.create(**self.asked)
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["error"]["type"] == "rate_limit_error"

    def test_what_it_sends_back_is_understood(self, mapped_server: Any, anthropic_client: anthropic.Anthropic) -> None:
        mapped_server.whole = whole("tool_calls", USAGE, reasoning_content="hm", tool_calls=[call('{"city":"Oslo"}')])
        first = anthropic_client.messages.create(**self.asked)
        result = {"type": "tool_result", "tool_use_id": "c0", "content": "rain"}
        turns: Any = [*HI, first.to_param(), {"role": "user", "content": [result]}]
        mapped_server.whole = whole(content="It rains.")
        anthropic_client.messages.create(**{**self.asked, "messages": turns})
        said = mapped_server.asked[-1].get("messages")
        assert said[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"city":"Oslo"}'}
        assert said[2] == {"role": "tool", "tool_call_id": "c0", "content": "rain"}

    def test_counting(self, anthropic_client: anthropic.Anthropic) -> None:
        assert (
            anthropic_client.messages.count_tokens(
                model="auto", messages=[{"role": "user", "content": "hi"}]
            ).input_tokens
            > 0
        )


@pytest.fixture
def openai_client(mapped_server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mapped_server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


class City(pydantic.BaseModel):
    name: str


class TestOpenAIsOwnClient:
    def test_a_response(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.whole = whole("tool_calls", USAGE, content="Looking.", tool_calls=[call('{"city":"Oslo"}')])
        response = openai_client.responses.create(model="auto", input="hi", tools=[TOOL])
        assert (response.output_text, response.status) == ("Looking.", "completed")
        function = response.output[1]
        assert function.type == "function_call"
        assert (function.name, function.arguments) == ("look", '{"city":"Oslo"}')
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.total_tokens) == (9, 11)
        # Not lenient construction: the object satisfies the client's model strictly.
        type(response).model_validate_json(mapped_responses.from_chat(mapped_server.whole, mapped_server.asked[-1]))

    def test_a_parsed_response(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.whole = whole(content='{"name": "Oslo"}')
        response = openai_client.responses.parse(model="auto", input="hi", text_format=City)
        assert response.output_parsed == City(name="Oslo")
        assert mapped_server.asked[-1].get("response_format")["json_schema"]["name"] == "City"

    def test_a_stream_with_thought_text_and_interleaved_calls(
        self, mapped_server: Any, openai_client: openai.OpenAI
    ) -> None:
        mapped_server.chunks = BUSY
        text = ""
        with openai_client.responses.stream(model="auto", input="hi", tools=[TOOL]) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    text += event.delta
                    assert event.snapshot == text
            response = stream.get_final_response()
        assert text == response.output_text == "Looking."
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
        arguments = [item.arguments for item in response.output if item.type == "function_call"]
        assert arguments == ['{"city":"Oslo"}', '{"city":"Rome"}']
        assert response.usage is not None
        assert response.usage.output_tokens == 2

    def test_every_event_satisfies_the_clients_own_model(
        self, mapped_server: Any, openai_client: openai.OpenAI
    ) -> None:
        mapped_server.chunks = [
            chunk({"reasoning_content": "hm"}),
            chunk({"content": "a"}),
            chunk({"refusal": "b"}),
            chunk({"tool_calls": [call("{}")]}),
            chunk({}, "tool_calls"),
            chunk(None, usage=USAGE),
        ]
        seen = set()
        for event in openai_client.responses.create(model="auto", input="hi", stream=True):
            type(event).model_validate_json(event.to_json())
            seen.add(event.type)
        assert len(seen) == 15
        assert "response.completed" in seen

    def test_a_short_answer_ends_as_incomplete(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.chunks = [chunk({"content": "half"}, "length"), b"data: [DONE]\n\n"]
        *_, last = openai_client.responses.create(model="auto", input="hi", stream=True)
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details is not None
        assert last.response.incomplete_details.reason == "max_output_tokens"

    def test_an_error_in_the_middle_is_told_and_raised(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.chunks = [chunk({"content": "half"})]
        mapped_server.fail = UpstreamCut("the upstream went away")
        seen = []
        stream = openai_client.responses.create(model="auto", input="hi", stream=True)
        with pytest.raises(openai.APIError, match="went away"):
            seen.extend(event for event in stream)
        told = seen[-1]
        assert told.type == "response.failed"
        assert told.response.status == "failed"
        assert told.response.error is not None
        assert told.response.error.code == "server_error"

    def test_an_error_before_the_answer_began_is_raised(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.fail = UpstreamCut("the upstream went away")
        stream = openai_client.responses.create(model="auto", input="hi", stream=True)
        with pytest.raises(openai.APIError, match="went away"):
            next(stream)

    def test_an_error_before_the_stream(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.refuse = LimitExceeded("too many")
        with pytest.raises(openai.RateLimitError) as raised:
            openai_client.responses.create(model="auto", input="hi")
        assert raised.value.code == "rate_limit_exceeded"

    def test_what_it_sends_back_is_understood(self, mapped_server: Any, openai_client: openai.OpenAI) -> None:
        mapped_server.whole = whole("tool_calls", reasoning_content="hm", content="Looking.", tool_calls=[call("{}")])
        first = openai_client.responses.create(model="auto", input="hi")
        history: Any = [
            {"role": "user", "content": "hi"},
            *first.output,
            {"type": "function_call_output", "call_id": "c0", "output": "rain"},
        ]
        mapped_server.whole = whole(content="It rains.")
        assert openai_client.responses.create(model="auto", input=history, store=False).output_text == "It rains."
        said = mapped_server.asked[-1].get("messages")
        assert [m["role"] for m in said] == ["user", "assistant", "tool"]
        assert said[1]["content"] == "Looking."
        assert said[1]["tool_calls"][0]["id"] == said[2]["tool_call_id"] == "c0"
