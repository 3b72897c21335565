"""Answers under a cap of ours: what the client sees is the answer as it would have been without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from harness import KEY, Running, Serve, over
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.base import Call
from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway import continuation
from trimtab.gateway.continuation import JoinedStream, Style
from trimtab.protocol.errors import UpstreamCut
from trimtab.protocol.messages import Answer, Request, Usage
from trimtab.routing import cap
from trimtab.routing.cap import Cap

TEXT = "One flap turns the rudder,\n\nand the rudder  turns the ship: 舵 → 🚢. " * 12
ASKED: Any = [{"role": "user", "content": "What does a trim tab do?"}]


@pytest.fixture
def small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caps of eight tokens, which nearly every answer reaches."""
    monkeypatch.setattr(cap, "LEAST", 8)
    monkeypatch.setattr(cap, "MARGIN", 0.0)


def capped(upstream: FakeServer, style: str = "vllm", **model: Any) -> dict[str, Any]:
    config = over(upstream, **{"continues": style, **model})
    config["tenants"]["acme"]["policy"] = {"output": {"cap": True}}
    return config


def client(running: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0)


async def last_receipt(running: Running) -> dict[str, Any]:
    await running.settled()
    async with (
        aiohttp.ClientSession() as session,
        session.get(running.base_url + "/usage", headers={"authorization": f"Bearer {KEY}"}) as response,
    ):
        assert response.status == 200
    with running.gateway.ledger._reading() as db:
        (raw,) = db.execute("SELECT receipt FROM receipts ORDER BY rowid DESC LIMIT 1").fetchone()
    return dict(json.loads(raw))


def line(receipt: dict[str, Any], stage: str) -> dict[str, Any]:
    return dict(next(entry for entry in receipt["lines"] if entry["stage"] == stage))


def parts(receipt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["what"]: part for part in line(receipt, "plan").get("parts", [])}


@pytest.mark.parametrize("style", ["vllm", "prefix", "plain"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_sees_one_whole_answer(
    serve: Serve, upstream: FakeServer, small_caps: None, style: str, stream: bool
) -> None:
    upstream.use({"text": TEXT, "continues": True})
    async with serve(capped(upstream, style)) as running, client(running) as api:
        if stream:
            chunks = [
                c
                async for c in await api.chat.completions.create(
                    model="m", messages=ASKED, stream=True, stream_options={"include_usage": True}
                )
            ]
            told = [c for c in chunks if c.choices]
            text = "".join(c.choices[0].delta.content or "" for c in told)
            reasons = [c.choices[0].finish_reason for c in told if c.choices[0].finish_reason]
            [usage] = [c.usage for c in chunks if c.usage]
            assert len({c.id for c in chunks}) == 1
            assert [c.choices[0].delta.role for c in told if c.choices[0].delta.role] == ["assistant"]
        else:
            answer = await api.chat.completions.create(model="m", messages=ASKED)
            text, usage = answer.choices[0].message.content or "", answer.usage
            reasons = [answer.choices[0].finish_reason]
        receipt = await last_receipt(running)
    assert text == TEXT
    assert reasons == ["stop"]
    calls = [json.loads(seen.body) for seen in upstream.seen]
    assert [call.get("max_tokens") for call in calls] == [8 * 2**n for n in range(len(calls))]
    assert len(calls) > 3
    assert calls[1]["messages"][:-1] == ASKED
    last = calls[-1]["messages"][-1]
    assert last["role"] == "assistant"
    assert TEXT.startswith(last["content"])
    assert last["content"] == last["content"].rstrip()
    assert ("continue_final_message" in calls[-1]) is (style == "vllm")
    assert last.get("prefix") is (True if style == "prefix" else None)
    # What each part cost is what the client is told, and what is charged.
    assert usage is not None
    assert receipt["usage"]["completion"] == usage.completion_tokens
    assert usage.completion_tokens >= len(TEXT.split())
    assert usage.prompt_tokens == receipt["usage"]["prompt"] == sum(len(s.body) // 4 + 1 for s in upstream.seen)
    assert receipt["cost_microusd"] == (usage.prompt_tokens * 2_000_000 + usage.completion_tokens * 8_000_000) // 10**6
    assert receipt["attempts"] == len(calls)
    assert parts(receipt)["cap"]["why"] == "8 tokens"
    assert parts(receipt)["continued"].get("count", 1) == len(calls) - 1


async def test_a_limit_of_the_clients_own_ends_the_answer(serve: Serve, upstream: FakeServer, small_caps: None) -> None:
    upstream.use({"text": TEXT, "continues": True})
    async with serve(capped(upstream)) as running, client(running) as api:
        answer = await api.chat.completions.create(model="m", messages=ASKED, max_tokens=5)
        assert answer.choices[0].finish_reason == "length"
    [seen] = upstream.seen
    assert json.loads(seen.body)["max_tokens"] == 5


@pytest.mark.parametrize(
    "beside",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"n": 2},
        {"stop": ["x"]},
        {"seed": 3},
        {"frequency_penalty": 0.5},
        {"max_completion_tokens": 2_000},
    ],
)
async def test_what_cannot_be_taken_up_is_not_capped(
    serve: Serve, upstream: FakeServer, small_caps: None, beside: dict[str, Any]
) -> None:
    upstream.use({"text": TEXT, "continues": True})
    async with serve(capped(upstream)) as running, client(running) as api:
        answer = await api.chat.completions.create(model="m", messages=ASKED, **beside)
        assert answer.choices[0].finish_reason == "stop"
    assert all("max_tokens" not in json.loads(seen.body) for seen in upstream.seen)


async def test_nothing_is_capped_by_default_nor_where_nobody_can_continue(
    serve: Serve, upstream: FakeServer, small_caps: None
) -> None:
    upstream.use({"text": TEXT})
    config = capped(upstream)
    del config["models"]["m"]["continues"]
    plain = over(upstream, continues="vllm")
    for written in (config, plain):
        async with serve(written) as running, client(running) as api:
            answer = await api.chat.completions.create(model="m", messages=ASKED)
            assert answer.choices[0].message.content == TEXT
        assert "max_tokens" not in json.loads(upstream.seen[-1].body)


async def test_anthropics_stream_is_one_message_too(serve: Serve, upstream: FakeServer, small_caps: None) -> None:
    """Their requests bring a limit, so there is no cap: and the answer is as long as the limit lets it be."""
    upstream.use({"text": TEXT, "continues": True})
    async with (
        serve(capped(upstream)) as running,
        anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as api,
    ):
        said = await api.messages.create(model="m", max_tokens=4_000, messages=ASKED)
    assert said.content[0].type == "text"
    assert said.content[0].text == TEXT
    assert len(upstream.seen) == 1


async def test_responses_are_continued(serve: Serve, upstream: FakeServer, small_caps: None) -> None:
    upstream.use({"text": TEXT, "continues": True})
    async with serve(capped(upstream)) as running, client(running) as api:
        said = await api.responses.create(model="m", input="What does a trim tab do?")
        assert said.output_text == TEXT
        assert said.status == "completed"


# What goes wrong in a later part.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_part_that_fails_once_is_asked_for_again(
    serve: Serve, upstream: FakeServer, small_caps: None, stream: bool
) -> None:
    upstream.use({"text": TEXT, "continues": True, "faults": {"status": 503, "every": 3}})
    async with serve(capped(upstream, retries={"attempts": 2})) as running, client(running) as api:
        if stream:
            chunks = await api.chat.completions.create(model="m", messages=ASKED, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
        else:
            text = (await api.chat.completions.create(model="m", messages=ASKED)).choices[0].message.content or ""
    assert text == TEXT


async def test_a_stream_whose_second_part_dies_is_an_error_and_no_short_answer(
    serve: Serve, upstream: FakeServer, small_caps: None
) -> None:
    upstream.use({"text": TEXT, "continues": True, "faults": {"cut_after": 4, "every": 2}})
    async with serve(capped(upstream)) as running, client(running) as api:
        chunks = await api.chat.completions.create(model="m", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match=r"middle of the answer|broke off"):
            _ = [c async for c in chunks]
        receipt = await last_receipt(running)
    assert receipt["outcome"] == "cut"
    # The first part is counted to the token, the second by what passed.
    assert receipt["usage"]["completion"] >= 8 + 2
    assert receipt["usage"]["prompt"] == sum(len(seen.body) // 4 + 1 for seen in upstream.seen)


async def test_a_whole_answer_whose_second_part_dies_is_an_error_and_paid(
    serve: Serve, upstream: FakeServer, small_caps: None
) -> None:
    upstream.use({"text": TEXT, "continues": True, "faults": {"status": 500, "every": 2}})
    async with serve(capped(upstream)) as running, client(running) as api:
        with pytest.raises(openai.InternalServerError):
            await api.chat.completions.create(model="m", messages=ASKED)
        receipt = await last_receipt(running)
    assert receipt["outcome"] == "error"
    [charge] = receipt["charges"]
    assert (charge["model"], charge["usage"]["completion"]) == ("m", 8)
    assert receipt["cost_microusd"] == charge["microusd"] > 0


async def test_a_client_that_leaves_in_the_second_part_stops_it(
    serve: Serve, upstream: FakeServer, small_caps: None
) -> None:
    upstream.use({"text": TEXT, "continues": True, "between_s": 0.02})
    async with serve(capped(upstream)) as running, client(running) as api:
        chunks = await api.chat.completions.create(model="m", messages=ASKED, stream=True)
        async for _ in chunks:
            if len(upstream.seen) > 1:
                break
        await chunks.close()
        receipt = await last_receipt(running)
        async with asyncio.timeout(5):
            while upstream.counts.open:
                await asyncio.sleep(0.01)
    assert receipt["outcome"] == "disconnected"
    assert 8 < receipt["usage"]["completion"] < 40


# The joint itself, without a gateway.


class Chopped:
    """A stream of a fake backend, its bytes cut anew."""

    def __init__(self, inner: Any, size: int) -> None:
        self.headers: Mapping[str, str] = inner.headers
        self._inner, self._size = inner, size

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._cut()

    async def _cut(self) -> AsyncIterator[bytes]:
        async for data in self._inner:
            for at in range(0, len(data), self._size):
                yield data[at : at + self._size]

    async def aclose(self) -> None:
        await self._inner.aclose()

    def spent(self) -> Usage | None:
        return None


def call(cap_tokens: int) -> Call:
    body = {"model": "m", "messages": ASKED, "stream": True, "stream_options": {"include_usage": True}}
    return Call("chat", Request.build("chat", {**body, "max_tokens": cap_tokens}), "r1")


@settings(max_examples=60)
@given(
    text=st.lists(st.sampled_from([" ", "\n", "a", "word", "é", "🚢", "  ", "\t", "x."]), max_size=60).map("".join),
    tokens=st.integers(1, 9),
    size=st.integers(1, 300),
    style=st.sampled_from(["engine", "vllm", "prefix", "plain"]),
    room=st.none() | st.integers(2, 80),
)
async def test_joined_parts_are_the_text(text: str, tokens: int, size: int, style: Style, room: int | None) -> None:
    """However an answer is cut into parts and its bytes into pieces; unless the model's own room ends it."""
    fake = FakeBackend({"text": text, "continues": True})
    await fake.start()

    async def more(asked: Call) -> Any:
        return Chopped(await fake.stream(asked), size)

    first = call(tokens)
    joined = JoinedStream(first, await more(first), Cap(tokens, ours=True), style, room, more)
    events = b"".join([data async for data in joined])
    said, reasons, done = "", [], 0
    for event in events.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            done += event == b"data: [DONE]"
            continue
        chunk = json.loads(event[6:])
        for choice in chunk["choices"]:
            said += choice["delta"].get("content") or ""
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert done == 1
    assert reasons == ["stop"]
    assert said == text
    whole = await continuation.complete(
        first, await fake.complete(first), Cap(tokens, ours=True), style, room, fake.complete, lambda used: None
    )
    assert json.loads(whole.body)["choices"][0]["message"]["content"] == text
    assert whole.finish_reasons == ("stop",)


async def test_an_answer_that_was_all_thought_is_asked_for_once_more() -> None:
    """There is nothing to take up, so the cap goes."""
    fake = FakeBackend({"text": "the answer", "reasoning": "hm " * 20, "continues": True})
    await fake.start()
    first = call(8)
    whole = await continuation.complete(
        first, await fake.complete(first), Cap(8, ours=True), "vllm", None, fake.complete, lambda used: None
    )
    assert json.loads(whole.body)["choices"][0]["message"]["content"] == "the answer"
    joined = JoinedStream(first, await fake.stream(first), Cap(8, ours=True), "vllm", None, fake.stream)
    events = b"".join([data async for data in joined])
    assert events.count(b'"the"') == 1
    assert events.count(b'"reasoning_content"') == 8


async def test_what_parts_used_is_told_when_a_later_one_fails() -> None:
    paid: list[Usage] = []

    async def fail(asked: Call) -> Answer:
        raise UpstreamCut("gone")

    fake = FakeBackend({"text": TEXT, "continues": True})
    await fake.start()
    with pytest.raises(UpstreamCut):
        await continuation.complete(
            call(8), await fake.complete(call(8)), Cap(8, ours=True), "vllm", None, fail, paid.append
        )
    assert [used.completion for used in paid] == [8]
