"""The clients that people use, against the real gateway: what they send is understood, what they get they can read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from harness import KEY, Running, Serve, over
from pydantic import BaseModel

from trimtab.backends.engine.weights import DEFAULT, resolve
from trimtab.backends.fake_script import TEXT
from trimtab.backends.fake_server import FakeServer
from trimtab.protocol.errors import ModelUnavailable

ASK: list[Any] = [{"role": "user", "content": "Where does the small flap sit?"}]
WEATHER: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]


class Ship(BaseModel):
    name: str
    masts: int


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m", "m2", retries={"attempts": 1})) as running:
        yield running


@pytest.fixture
async def client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY) as client:
        yield client


@pytest.fixture
async def claude(running: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_openai_in_threads(running: Running) -> None:
    def talk() -> list[str]:
        with openai.OpenAI(base_url=running.base_url, api_key=KEY) as client:
            whole = client.chat.completions.create(model="m", messages=ASK).choices[0].message.content or ""
            stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
            parts = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            return [whole, parts, client.responses.create(model="m", input="hi").output_text]

    for texts in await asyncio.gather(*(asyncio.to_thread(talk) for _ in range(4))):
        assert texts == [TEXT] * 3


async def test_structured_output_is_parsed(client: openai.AsyncOpenAI, upstream: FakeServer) -> None:
    upstream.use({"json": {"name": "Vasa", "masts": 3}})
    parsed = await client.chat.completions.parse(model="m", messages=ASK, response_format=Ship)
    assert parsed.choices[0].message.parsed == Ship(name="Vasa", masts=3)
    assert json.loads(upstream.seen[-1].body)["response_format"]["type"] == "json_schema"
    async with client.chat.completions.stream(model="m", messages=ASK, response_format=Ship) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Ship(name="Vasa", masts=3)
    answer = await client.responses.parse(model="m", input="which ship?", text_format=Ship)
    assert answer.output_parsed == Ship(name="Vasa", masts=3)


async def test_tools_in_a_stream_and_their_results_on_the_way_back(
    client: openai.AsyncOpenAI, upstream: FakeServer
) -> None:
    upstream.use({"tool_calls": [{"name": "weather", "arguments": '{"at": "sea"}'}]})
    async with client.chat.completions.stream(model="m", messages=ASK, tools=WEATHER) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"at": "sea"}
    upstream.use({})
    more = [
        *ASK,
        {"role": "assistant", "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}})]},
        {"role": "tool", "tool_call_id": call.id, "content": "wet"},
    ]
    assert (await client.chat.completions.create(model="m", messages=more)).choices[0].message.content == TEXT
    assert json.loads(upstream.seen[-1].body)["messages"] == more


async def test_responses_whole_and_streamed(client: openai.AsyncOpenAI, upstream: FakeServer) -> None:
    upstream.use({"prompt_tokens": 12, "tokens": 7})
    whole = await client.responses.create(model="m", input="hi", instructions="be brief")
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (12, 7)
    text, kinds = "", []
    async for event in await client.responses.create(model="m", input="hi", stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == whole.output_text
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_openais_client_retries_as_it_is_told(client: openai.AsyncOpenAI, upstream: FakeServer) -> None:
    upstream.use({"faults": {"status": 503, "retry_after": 0.01, "first": 2}})
    assert (await client.chat.completions.create(model="m", messages=ASK)).choices
    assert len(upstream.seen) == 3
    upstream.use({"faults": {"status": 400}})
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="m", messages=ASK)
    assert len(upstream.seen) == 4


@pytest.mark.parametrize(
    ("key", "model", "error"),
    [
        ("wrong", "m", openai.AuthenticationError),
        (KEY, "nope", openai.NotFoundError),
        (KEY, "", openai.BadRequestError),
    ],
)
async def test_openais_errors(running: Running, key: str, model: str, error: type[openai.APIStatusError]) -> None:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=key) as client:
        with pytest.raises(error) as raised:
            await client.chat.completions.create(model=model, messages=ASK)
    assert raised.value.request_id
    assert raised.value.code


async def test_anthropic(claude: anthropic.AsyncAnthropic, upstream: FakeServer) -> None:
    upstream.use({"prompt_tokens": 20, "tokens": 9})
    whole = await claude.messages.create(model="m", max_tokens=50, messages=ASK)
    assert whole.content[0].type == "text"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (20, 9)
    async with claude.messages.stream(model="m", max_tokens=50, messages=ASK, system="be brief") as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "end_turn"
    counted = await claude.messages.count_tokens(model="m", messages=ASK)
    assert counted.input_tokens > 0


async def test_anthropics_errors_have_its_types(claude: anthropic.AsyncAnthropic, upstream: FakeServer) -> None:
    for status, error in (
        (400, anthropic.BadRequestError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ):
        upstream.use({"faults": {"status": status}})
        with pytest.raises(error) as raised:
            await claude.messages.create(model="m", max_tokens=5, messages=ASK)
        body: Any = raised.value.body
        assert body["type"] == "error"
        assert body["error"]["type"].endswith("_error")
    upstream.use({"faults": {"cut_after": 3}})
    with pytest.raises(anthropic.APIStatusError):
        async with claude.messages.stream(model="m2", max_tokens=50, messages=ASK) as stream:
            await stream.get_final_message()
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(model="nope", max_tokens=5, messages=ASK)


async def test_langchain(running: Running, upstream: FakeServer) -> None:
    chat_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = chat_openai.ChatOpenAI(model="m", base_url=running.base_url, api_key=KEY, max_retries=0, stream_usage=True)
    upstream.use({"prompt_tokens": 12, "tokens": 7})
    answer = await model.ainvoke("Where does the small flap sit?")
    assert answer.usage_metadata["input_tokens"] == 12
    parts = [part async for part in model.astream("Where does the small flap sit?")]
    assert "".join(part.text for part in parts) == answer.text
    assert sum((part.usage_metadata or {}).get("output_tokens", 0) for part in parts) == 7
    upstream.use({"json": {"name": "Vasa", "masts": 3}})
    assert await model.with_structured_output(Ship).ainvoke("which ship?") == Ship(name="Vasa", masts=3)
    upstream.use({"tool_calls": [{"name": "weather", "arguments": '{"at": "sea"}'}]})
    called = await model.bind_tools(WEATHER).ainvoke("hi")
    assert called.tool_calls[0]["args"] == {"at": "sea"}
    upstream.use({"faults": {"cut_after": 3}})
    with pytest.raises(openai.APIError):
        [part async for part in model.astream("hi")]
    vectors = chat_openai.OpenAIEmbeddings(
        model="m", base_url=running.base_url, api_key=KEY, check_embedding_ctx_length=False
    )
    upstream.use({})
    assert len(await vectors.aembed_documents(["a", "b"])) == 2
    await model.root_async_client.close()
    await vectors.async_client._client.close()


def cached_weights() -> Path | None:
    try:
        return resolve(DEFAULT)
    except ModelUnavailable:
        return None


@pytest.mark.skipif(cached_weights() is None, reason="the default model is not in the cache")
async def test_the_bundled_model_answers(serve: Serve) -> None:
    config = {"models": {"small": {"backend": "engine", "weights": str(cached_weights())}}, "tenants": {"local": {}}}
    async with (
        serve(config) as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key="local", timeout=60) as client,
    ):
        question: list[Any] = [{"role": "user", "content": "What is the capital of France? One word."}]
        whole = await client.chat.completions.create(model="small", messages=question, max_tokens=8, temperature=0)
        assert "Paris" in (whole.choices[0].message.content or "")
        stream = await client.chat.completions.create(
            model="small", messages=question, max_tokens=8, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == whole.choices[0].message.content
