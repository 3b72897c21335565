"""Requests through a real gateway with the real `openai` client, over a scripted upstream on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer

ASK: list[Any] = [{"role": "user", "content": "Where does the small flap sit?"}]


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m", "fake-cut3")) as running:
        yield running


@pytest.fixture
async def client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_a_plain_answer_keeps_the_upstreams_bytes(running: Running, upstream: FakeServer) -> None:
    upstream.use({"extra": {"x_new_field": {"number": 1}}})
    body = {"model": "m", "messages": ASK}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{upstream.url}/chat/completions", json=body) as direct:
            want = await direct.json()
        async with session.post(
            f"{running.base_url}/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
        ) as relayed:
            got = await relayed.json()
            assert relayed.status == 200
    for answer in (want, got):
        answer.pop("id")
    assert got == want
    assert got["x_new_field"] == {"number": 1}


async def test_every_field_reaches_the_upstream_untouched(running: Running, upstream: FakeServer) -> None:
    raw = (
        b'{"model": "m",  "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:'
        b'image/png;base64,AAAA"}}]}], "temperature": 1.0, "top_p": 1e0, "seed": 12345678901234567890, "prediction": '
        b'{"type": "content", "content": "x"}, "tools": [{"type": "function", "function": {"name": "f"}}], '
        b'"parallel_tool_calls": '
        b'false, "metadata": {"a": "b"}, "my_new_field": {"z": 1, "a": 2.50}, "logprobs": true, "n": 1}'
    )
    async with aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        async with session.post(f"{running.base_url}/chat/completions", data=raw, headers=headers) as response:
            assert response.status == 200
    assert upstream.seen[-1].body == raw


async def test_an_edit_for_a_stream_touches_one_field(running: Running, upstream: FakeServer) -> None:
    raw = b'{"model":"m","messages":[],"temperature":1.0,"stream":true,"zzz":1e3}'
    async with aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        async with session.post(f"{running.base_url}/chat/completions", data=raw, headers=headers) as response:
            await response.read()
    assert upstream.seen[-1].body == raw[:-1] + b',"stream_options":{"include_usage":true}}'


async def test_no_credential_and_no_header_of_the_clients_travels_on(running: Running, upstream: FakeServer) -> None:
    headers = {
        "authorization": f"Bearer {KEY}",
        "x-api-key": "also-a-secret",
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{running.base_url}/chat/completions", json={"model": "m", "messages": ASK}, headers=headers
        ) as response,
    ):
        assert response.status == 200
    head = upstream.seen[-1].head.decode()
    assert KEY not in head
    assert "also-a-secret" not in head
    assert "cookie" not in head.lower()
    assert "x-forwarded-for" not in head.lower()
    assert upstream.seen[-1].header("authorization") == "Bearer sk-upstream-secret-0123456789"
    assert upstream.seen[-1].header("traceparent") == headers["traceparent"]


async def test_a_stream_is_the_same_text_with_and_without_usage(
    client: openai.AsyncOpenAI, upstream: FakeServer
) -> None:
    plain = await client.chat.completions.create(model="m", messages=ASK)
    texts, usages = [], []
    for options in ({}, {"stream_options": {"include_usage": True}}):
        text, usage = "", 0
        async for chunk in await client.chat.completions.create(model="m", messages=ASK, stream=True, **options):  # type: ignore[call-overload]
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage += chunk.usage is not None
        texts.append(text)
        usages.append(usage)
    assert texts == [plain.choices[0].message.content] * 2
    assert usages == [0, 1]


async def test_parallel_tool_calls_and_logprobs_come_through_a_stream(
    client: openai.AsyncOpenAI, upstream: FakeServer
) -> None:
    upstream.use({"tool_calls": [{"name": "f", "arguments": '{"a": 1}'}, {"name": "g", "arguments": "{}"}]})
    calls: dict[int, str] = {}
    finish = None
    async for chunk in await client.chat.completions.create(model="m", messages=ASK, stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "" if call.function else "")
    assert {index: json.loads(text) for index, text in calls.items()} == {0: {"a": 1}, 1: {}}
    assert finish == "tool_calls"
    upstream.use({})
    answer = await client.chat.completions.create(model="m", messages=ASK, logprobs=True)
    assert answer.choices[0].logprobs is not None


async def test_embeddings_and_legacy_completions(client: openai.AsyncOpenAI) -> None:
    vectors = await client.embeddings.create(model="m", input=["a", "b"])
    assert len(vectors.data) == 2
    answer = await client.completions.create(model="m", prompt="Once")
    assert answer.choices[0].text
    parts = [
        chunk.choices[0].text async for chunk in await client.completions.create(model="m", prompt="Once", stream=True)
    ]
    assert "".join(parts) == answer.choices[0].text


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m", "fake-cut3"]
    assert (await client.models.retrieve("m")).id == "m"
    with pytest.raises(openai.NotFoundError) as error:
        await client.models.retrieve("nope")
    assert error.value.code == "model_not_found"


async def test_a_cut_stream_ends_in_an_error_event_and_never_in_done(
    running: Running, client: openai.AsyncOpenAI
) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"model": "fake-cut3", "messages": ASK, "stream": True}
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{running.base_url}/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
    assert response.status == 200
    assert "[DONE]" not in text
    assert json.loads(text.strip().split("\n\n")[-1][6:])["error"]["code"] == "upstream_stream_cut"
    with pytest.raises(openai.APIError):
        async for _ in await client.chat.completions.create(model="fake-cut3", messages=ASK, stream=True):
            pass


@pytest.mark.parametrize("status", [400, 404, 408, 409, 422, 429, 500, 502, 503, 529])
async def test_an_upstreams_error_keeps_its_status_and_says_whose_it_is(
    client: openai.AsyncOpenAI, upstream: FakeServer, status: int
) -> None:
    upstream.use({"faults": {"status": status, "retry_after": 7}})
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(model="m", messages=ASK, stream=stream)
        assert error.value.status_code == status
        assert error.value.body["source"] == "upstream"  # type: ignore[index]
        retriable = status in (408, 409, 429) or status >= 500
        assert error.value.response.headers["x-should-retry"] == str(retriable).lower()
        assert error.value.response.headers.get("retry-after") == ("7" if retriable else None)


async def test_the_upstream_refusing_our_key_is_not_the_clients_401(
    client: openai.AsyncOpenAI, upstream: FakeServer
) -> None:
    upstream.use({"key": "another"})
    with pytest.raises(openai.APIStatusError) as error:
        await client.chat.completions.create(model="m", messages=ASK)
    assert error.value.status_code == 502
    assert error.value.code == "upstream_auth"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"faults": {"refuse": True}}, 502),
        ({"faults": {"wire": "html"}}, 502),
        ({"faults": {"cut_after": 0}}, 502),
        ({"faults": {"wire": "rst", "wire_after": 0}}, 502),
        ({"faults": {"wire": "close_mid_chunk", "wire_after": 0}}, 502),
        ({"faults": {"status": 500, "wire": "sse_error"}}, 500),
        ({"faults": {"status": 302}}, 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_upstream_is_an_upstream_error_never_a_200(
    client: openai.AsyncOpenAI, upstream: FakeServer, script: dict[str, Any], status: int, stream: bool
) -> None:
    """Portkey #267 answered a lost network with 200; #722 crashed on a non-200 event stream."""
    upstream.use(script)
    with pytest.raises(openai.APIStatusError) as error:
        await client.chat.completions.create(model="m", messages=ASK, stream=stream)
    assert error.value.status_code == status
    assert error.value.response.headers["x-trimtab-error-source"] == "upstream"


@pytest.mark.parametrize("stream", [False, True])
async def test_chunks_that_break_the_protocol_do_not_hang(serve: Serve, upstream: FakeServer, stream: bool) -> None:
    upstream.use({"faults": {"wire": "bad_chunk", "wire_after": 3}})
    async with serve(over(upstream, timeouts={"idle_s": 0.3})) as running, aiohttp.ClientSession() as session:
        body = {"model": "m", "messages": ASK, "stream": stream}
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{running.base_url}/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
        assert response.status == (200 if stream else 504)
        assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["source"] == "upstream"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_upstream_and_pays_for_what_was_made(
    running: Running, upstream: FakeServer, stream: bool
) -> None:
    """LiteLLM #37140: a plain request's upstream was never cancelled; #30630: what was made went unbilled."""
    upstream.use({"tokens": 500, "between_s": 0.01, "accept_s": 0 if stream else 3})
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    body = json.dumps({"model": "m", "messages": ASK, "stream": stream}).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
    )
    if stream:
        await reader.readuntil(b"content")
        await asyncio.sleep(0.1)
    else:
        await asyncio.sleep(0.2)
    left = upstream.clock()
    writer.close()
    await upstream.idle()
    assert upstream.seen[-1].gone_at is not None
    assert upstream.seen[-1].gone_at - left < 0.5
    await running.settled()
    totals = await running.gateway.ledger.totals("acme")
    assert totals.requests == 1
    record = upstream.records[-1]
    if stream:
        assert 0 < record.usage.completion < 500
        assert abs(totals.completion_tokens - record.usage.completion) <= 2, "what was in the air may differ"
    assert not running.gateway._working


async def test_a_receipt_tells_the_story_and_only_to_its_tenant(running: Running, upstream: FakeServer) -> None:
    upstream.use({"tokens": 10, "prompt_tokens": 100, "cached_tokens": 40})
    async with aiohttp.ClientSession() as session:
        mine, other = ({"authorization": f"Bearer {key}"} for key in (KEY, OTHER_KEY))
        body = {"model": "m", "messages": ASK, "user": "someone"}
        async with session.post(f"{running.base_url}/chat/completions", json=body, headers=mine) as response:
            request_id = response.headers["x-request-id"]
            assert response.headers["x-trimtab-cost-usd"] == "0.000220"
        for headers, status in ((mine, 200), (other, 404), ({}, 401)):
            async with session.get(f"{running.base_url}/receipts/{request_id}", headers=headers) as response:
                assert response.status == status
                if status == 200:
                    receipt = await response.json()
    assert receipt["usage"] == {"prompt": 100, "completion": 10, "cached": 40}
    assert receipt["cost_microusd"] == 60 * 2 + 20 + 80
    assert [line["stage"] for line in receipt["lines"]] == [
        "admit", "recall", "prune", "compress", "plan", "route", "answer", "settle",
    ]  # fmt: skip
    assert receipt["end_user"] == "someone"


async def test_usage_is_the_upstreams_own_and_a_missing_one_is_flagged(
    running: Running, client: openai.AsyncOpenAI, upstream: FakeServer
) -> None:
    upstream.use({"tokens": 20, "faults": {"garble": ["usage_absent"]}})
    async for _ in await client.chat.completions.create(model="m", messages=ASK, stream=True):
        pass
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK, stream=True)
    async for _ in raw.parse():
        pass
    await running.settled()
    receipt = await running.gateway.ledger.find(raw.headers["x-request-id"])
    assert receipt is not None
    assert receipt.usage is not None
    assert receipt.usage.estimated
    assert receipt.usage.completion == 20
