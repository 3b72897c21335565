"""One suite for every backend: what the gateway may rely on, whoever answers.

SCRIPTED backends answer by a fake's script, in process or through a real socket; adding one is one line.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from trimtab.backends.base import Backend, Stream
from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_server import FakeServer
from trimtab.backends.fake_tally import Tally
from trimtab.backends.openai import OpenAIBackend
from trimtab.backends.registry import create
from trimtab.protocol.errors import (
    TrimtabError,
    UpstreamAnswered,
    UpstreamError,
    UpstreamRefusedKey,
    UpstreamUnreachable,
)

KEY = "sk-contract-0123456789"


@dataclass
class Upstream:
    """A started backend and the book of whoever answers behind it."""

    backend: Backend
    book: Tally | FakeServer | FakeBackend

    async def idle(self) -> None:
        async with asyncio.timeout(2):
            while self.book.counts.open:
                await asyncio.sleep(0.002)


Scripted = Callable[[dict[str, Any]], AbstractAsyncContextManager[Upstream]]


@asynccontextmanager
async def in_process(script: dict[str, Any]) -> AsyncIterator[Upstream]:
    backend = FakeBackend(script)
    await backend.start()
    yield Upstream(backend, backend)
    await backend.close()


def over_http(make: Callable[[str], Backend]) -> Scripted:
    @asynccontextmanager
    async def run(script: dict[str, Any]) -> AsyncIterator[Upstream]:
        async with FakeServer(script) as server:
            backend = make(server.url)
            await backend.start()
            try:
                yield Upstream(backend, server)
            finally:
                await backend.close()

    return run


def _litellm(url: str) -> Backend:
    return create("litellm", {"model": "openai/fake", "api_key": KEY, "api_base": url})


SCRIPTED: dict[str, Scripted] = {
    "fake": in_process,
    "openai": over_http(lambda url: OpenAIBackend(url, api_key=KEY)),
    "litellm": over_http(_litellm),
}
_absent = importlib.util.find_spec("litellm") is None
MARKS = {
    "litellm": [
        pytest.mark.skipif(_absent, reason="litellm is not installed (pip install 'trimtab[litellm]')"),
        # pydantic's, about litellm's own code
        pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"),
        pytest.mark.filterwarnings(
            "ignore:Accessing the .* attribute on the instance is deprecated:DeprecationWarning"
        ),
    ],
}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in SCRIPTED])
def scripted(request: pytest.FixtureRequest) -> Scripted:
    return SCRIPTED[request.param]


async def drain(stream: Stream) -> bytes:
    try:
        return b"".join([piece async for piece in stream])
    finally:
        await stream.aclose()


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for c in chunks if c != "[DONE]" for choice in c["choices"])


async def test_a_plain_answer_has_its_text_usage_and_finish(scripted, call):
    async with scripted({"text": ["one", " two"], "prompt_tokens": 9, "cached_tokens": 4}) as up:
        answer = await up.backend.complete(call())
    body = json.loads(answer.body)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "one two"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (9, 2)
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.completion, answer.usage.cached) == (9, 2, 4)
    assert answer.finish_reasons == ("stop",)


async def test_a_stream_says_what_the_plain_answer_says(scripted, call, events):
    async with scripted({"prompt_tokens": 9}) as up:
        plain = json.loads((await up.backend.complete(call())).body)
        chunks = events(await drain(await up.backend.stream(call(stream=True))))
    assert text_of(chunks) == plain["choices"][0]["message"]["content"]
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    finishes = [c["choices"][0]["finish_reason"] for c in chunks[:-2]]
    assert [finish for finish in finishes if finish] == ["stop"]
    assert len({c["id"] for c in chunks[:-1]}) == 1


async def test_unknown_fields_reach_whoever_answers(scripted, call):
    async with scripted({"echo": True}) as up:
        answer = await up.backend.complete(call(vendor={"deep": [1, None, 2.5]}, metadata={"tag": "a"}, user="u1"))
    got = json.loads(json.loads(answer.body)["choices"][0]["message"]["content"])
    assert got["vendor"] == {"deep": [1, None, 2.5]}
    assert got["metadata"] == {"tag": "a"}
    assert got["user"] == "u1"


async def test_parallel_tool_calls_keep_their_indices(scripted, call, events):
    tools = [{"name": "weather", "arguments": '{"city": "Rome"}'}, {"name": "time", "arguments": "{}"}]
    async with scripted({"tool_calls": tools, "reasoning": "let me see"}) as up:
        plain = json.loads((await up.backend.complete(call())).body)["choices"][0]
        chunks = events(await drain(await up.backend.stream(call(stream=True))))
    assert [c["function"] for c in plain["message"]["tool_calls"]] == tools
    assert plain["message"]["content"] is None
    assert plain["message"]["reasoning_content"] == "let me see"
    assert plain["finish_reason"] == "tool_calls"
    built: dict[int, str] = {}
    names: dict[int, str] = {}
    for chunk in chunks[:-2]:
        for part in chunk["choices"][0]["delta"].get("tool_calls") or []:
            names.setdefault(part["index"], part["function"].get("name"))
            built[part["index"]] = built.get(part["index"], "") + part["function"]["arguments"]
    assert names == {0: "weather", 1: "time"}
    assert built == {0: '{"city": "Rome"}', 1: "{}"}


async def test_logprobs_arrive_with_every_token(scripted, call, events):
    async with scripted({"text": ["a", " b"]}) as up:
        asked = {"logprobs": True, "top_logprobs": 1}
        plain = json.loads((await up.backend.complete(call(**asked))).body)
        chunks = events(await drain(await up.backend.stream(call(stream=True, **asked))))
    assert [entry["token"] for entry in plain["choices"][0]["logprobs"]["content"]] == ["a", " b"]
    got = [c["choices"][0].get("logprobs") for c in chunks[:-2]]
    assert [entry["token"] for found in got if found for entry in found["content"]] == ["a", " b"]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-2]][-1] == "stop"


async def test_legacy_completions_both_ways(scripted, call, events):
    async with scripted({"text": ["a", " b"], "prompt_tokens": 3}) as up:
        plain = json.loads((await up.backend.complete(call("completions"))).body)
        chunks = events(await drain(await up.backend.stream(call("completions", stream=True))))
    assert plain["object"] == "text_completion"
    assert plain["choices"][0]["text"] == "a b"
    assert "".join(c["choices"][0]["text"] for c in chunks[:-1] if c["choices"]) == "a b"
    assert chunks[-2]["usage"]["completion_tokens"] == 2
    assert chunks[-1] == "[DONE]"


async def test_embeddings_as_numbers_and_as_base64(scripted, call):
    async with scripted({"dimensions": 4, "prompt_tokens": 5}) as up:
        numbers = await up.backend.complete(call("embeddings", input=["x", "y"]))
        packed = await up.backend.complete(call("embeddings", input=["x", "y"], encoding_format="base64"))
    vectors = [item["embedding"] for item in json.loads(numbers.body)["data"]]
    texts = [item["embedding"] for item in json.loads(packed.body)["data"]]
    assert [len(v) for v in vectors] == [4, 4]
    assert vectors[0] != vectors[1]
    for vector, text in zip(vectors, texts, strict=True):
        assert struct.unpack("<4f", base64.b64decode(text)) == pytest.approx(vector, rel=1e-6)
    assert numbers.usage is not None
    assert numbers.usage.prompt == 5


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_error_status_keeps_the_upstreams_own_words(scripted, call, status, streaming):
    body = {"error": {"message": "not today", "type": "weather", "param": None, "code": "rain"}}
    async with scripted({"faults": {"status": status, "body": body, "retry_after": 3}}) as up:
        with pytest.raises(UpstreamAnswered) as caught:
            await (up.backend.stream(call(stream=True)) if streaming else up.backend.complete(call()))
    assert caught.value.http_status == status
    assert json.loads(caught.value.body)["error"]["message"] == "not today"
    assert caught.value.retry_after == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_the_gateways_trouble_and_is_not_shown(scripted, call, status):
    said = {"error": {"message": f"bad key {KEY}", "type": "invalid_request_error"}}
    async with scripted({"faults": {"status": status, "body": said}}) as up:
        with pytest.raises(UpstreamRefusedKey) as caught:
            await up.backend.complete(call())
    assert caught.value.http_status == 502
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
async def test_nobody_there(scripted, call, streaming):
    async with scripted({"faults": {"refuse": True}}) as up:
        with pytest.raises(UpstreamUnreachable):
            await (up.backend.stream(call(stream=True)) if streaming else up.backend.complete(call()))


async def test_what_fails_at_first_succeeds_when_tried_again(scripted, call):
    async with scripted({"text": "ok", "faults": {"status": 503, "first": 2}}) as up:
        for _ in range(2):
            with pytest.raises(UpstreamAnswered):
                await up.backend.complete(call())
        answer = await up.backend.complete(call())
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize("after", [1, 2, 4])
async def test_a_cut_stream_never_looks_whole(scripted, call, events, after):
    async with scripted({"faults": {"cut_after": after}}) as up:
        got = bytearray()
        try:
            stream = await up.backend.stream(call(stream=True))
            try:
                async for piece in stream:
                    got += piece
            finally:
                await stream.aclose()
        except UpstreamError:
            pass
    assert b"[DONE]" not in got
    assert b'"finish_reason":"' not in got


async def test_a_cut_plain_answer_is_an_error(scripted, call):
    async with scripted({"faults": {"cut_after": 1}}) as up:
        with pytest.raises(UpstreamError):
            await up.backend.complete(call())


async def test_an_error_event_in_a_stream_is_not_swallowed(scripted, call, events):
    async with scripted({"faults": {"error_after": 2}}) as up:
        chunks = events(await drain(await up.backend.stream(call(stream=True))))
    told = [c["error"]["message"] for c in chunks if c != "[DONE]" and "error" in c]
    assert told == ["the fake upstream failed in the middle"]


async def test_absent_usage_is_not_invented(scripted, call, events):
    async with scripted({"faults": {"garble": ["usage_absent"]}}) as up:
        answer = await up.backend.complete(call())
        chunks = events(await drain(await up.backend.stream(call(stream=True))))
    assert answer.usage is None
    assert not [c for c in chunks[:-1] if c.get("usage")]


async def test_closing_a_stream_stops_the_upstream_and_may_be_done_twice(scripted, call):
    async with scripted({"tokens": 10_000, "between_s": 0.01}) as up:
        stream = await up.backend.stream(call(stream=True))
        reading = aiter(stream)
        for _ in range(3):
            assert await anext(reading)
        before = time.monotonic()
        await stream.aclose()
        await stream.aclose()
        await up.idle()
        assert time.monotonic() - before < 1
        assert up.book.counts.aborted == 1
        assert up.book.counts.completion_tokens < 100


async def test_closing_wakes_a_waiting_reader(scripted, call):
    async with scripted({"faults": {"hang_after": 2}}) as up:
        stream = await up.backend.stream(call(stream=True))
        reading = asyncio.ensure_future(drain_quietly(stream))
        await asyncio.sleep(0.1)
        assert not reading.done()
        await stream.aclose()
        assert b"[DONE]" not in await asyncio.wait_for(reading, 1)
        await up.idle()
        assert up.book.counts.aborted == 1


async def drain_quietly(stream: Stream) -> bytes:
    got = b""
    try:
        async for piece in stream:
            got += piece
    except TrimtabError:
        pass
    return got


async def test_cancelling_a_reader_then_closing_stops_the_upstream(scripted, call):
    async with scripted({"faults": {"hang_after": 2}}) as up:
        stream = await up.backend.stream(call(stream=True))
        reading = asyncio.ensure_future(drain(stream))
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await up.idle()
        assert up.book.counts.aborted == 1


@pytest.mark.parametrize("script", [{"first_byte_s": 30.0}, {"accept_s": 30.0}, {"faults": {"silent": True}}])
async def test_cancelling_a_plain_call_stops_the_upstream(scripted, call, script):
    async with scripted(script) as up:
        # The first call may load a library; what is measured is the second.
        waiting = asyncio.ensure_future(up.backend.complete(call()))
        async with asyncio.timeout(20):
            while not up.book.counts.open:
                await asyncio.sleep(0.005)
        before = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await up.idle()
        assert time.monotonic() - before < 1
        assert up.book.counts.aborted == 1
        assert up.book.counts.completion_tokens == 0


async def test_concurrent_calls_do_not_mix(scripted, call):
    async def ask(up: Upstream, user: str) -> str:
        body = await drain(await up.backend.stream(call(stream=True, user=user)))
        said = [json.loads(e[6:])["choices"] for e in body.decode().split("\n\n") if e.startswith("data: {")]
        text = "".join(c["delta"].get("content") or "" for choices in said for c in choices)
        return json.loads(text)["user"]

    async with scripted({"echo": True, "between_s": 0.001}) as up:
        users = [f"user-{i}" for i in range(20)]
        assert await asyncio.gather(*(ask(up, user) for user in users)) == users
        assert up.book.counts.completed == 20


async def test_what_a_stream_has_spent_is_exact_or_unknown(scripted, call):
    async with scripted({"text": ["a"] * 50, "prompt_tokens": 7}) as up:
        stream = await up.backend.stream(call(stream=True))
        async for _ in stream:
            spent = stream.spent()
            if spent is None:
                break
            last = up.book.records[-1].usage
            assert (spent.prompt, spent.completion) == (last.prompt, last.completion)
        await stream.aclose()


async def test_ready_only_between_start_and_close(scripted, call):
    async with scripted({}) as up:
        assert up.backend.ready()
