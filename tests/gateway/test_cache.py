"""The exact tier through a real gateway, with real clients, over a scripted upstream on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer

ASK: list[Any] = [{"role": "user", "content": "How high is Mount Everest?"}]
BODY: dict[str, Any] = {"model": "m", "messages": ASK, "temperature": 0}


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m")) as running:
        yield running


class Got:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def cache(self) -> str:
        return str(self.headers["x-trimtab-cache"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What the model said, streamed or not, every part of it."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            message = self.json["choices"][0]["message"]
            return str((message.get("reasoning_content") or "") + (message.get("content") or ""))
        return "".join(
            (c["delta"].get("reasoning_content") or "") + (c["delta"].get("content") or "")
            for event in self.events
            for c in event["choices"]
        )

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


async def ask(
    session: aiohttp.ClientSession,
    at: Running,
    body: Any,
    key: str = KEY,
    path: str = "chat/completions",
    **headers: str,
) -> Got:
    head = {"authorization": f"Bearer {key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with session.post(f"{at.base_url}/{path}", json=body, headers=head) as response:
        return Got(response.status, response.headers, await response.read())


async def receipt(session: aiohttp.ClientSession, at: Running, got: Got) -> Any:
    await at.settled()
    url = f"{at.base_url}/receipts/{got.headers['x-request-id']}"
    async with session.get(url, headers={"authorization": f"Bearer {KEY}"}) as response:
        return await response.json()


async def test_a_repeat_is_the_same_bytes_costs_nothing_and_says_so(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    first, second = [await ask(session, running, BODY) for _ in range(2)]
    assert (first.cache, second.cache) == ("miss", "hit")
    assert second.body == first.body
    assert len(upstream.seen) == 1
    assert "age" not in first.headers
    assert int(second.headers["age"]) >= 0
    assert second.headers["x-trimtab-model"] == "m"
    assert float(second.headers["x-trimtab-cost-usd"]) == 0
    story = await receipt(session, running, second)
    assert story["cost_usd"] == 0
    assert story["saved_microusd"] == (await receipt(session, running, first))["cost_microusd"] > 0
    assert [line["stage"] for line in story["lines"]] == ["admit", "recall", "settle"]
    assert story["lines"][1]["entry"] == second.headers["x-trimtab-cache-id"]


@pytest.mark.parametrize(
    "script",
    [
        {},
        {"reasoning": "Let me think about that. It is high."},
        {"tool_calls": [{"name": "f", "arguments": '{"a": 1}'}, {"name": "g", "arguments": "{}"}]},
        {"extra": {"x_new_field": {"number": 1.50}}},
        {"together": 3},
        {"faults": {"garble": ["crlf"]}},
        {"faults": {"garble": ["comments"]}},
        {"faults": {"garble": ["two_in_event"]}},
        {"faults": {"garble": ["usage_with_choices"]}},
        {"faults": {"garble": ["usage_null"]}},
        {"faults": {"garble": ["usage_absent"]}},
        {"faults": {"garble": ["split_utf8"]}},
        {"faults": {"garble": ["no_done"]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_comes_again_chunk_by_chunk(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, script: Any, usage: bool
) -> None:
    upstream.use(script)
    body = {**BODY, "stream": True, **({"stream_options": {"include_usage": True}} if usage else {})}
    first, second = [await ask(session, running, body) for _ in range(2)]
    if script == {"faults": {"garble": ["two_in_event"]}}:
        assert len(upstream.seen) == 2, "what cannot be read is not kept"
        return
    assert (first.cache, second.cache) == ("miss", "hit")
    assert len(upstream.seen) == 1
    assert second.events == first.events
    assert sum(event.get("usage") is not None for event in second.events) == (
        usage and script != {"faults": {"garble": ["usage_absent"]}}
    )


@pytest.mark.parametrize("streamed_first", [True, False])
@pytest.mark.parametrize(
    "script",
    [{}, {"reasoning": "Hm. So."}, {"tool_calls": [{"name": "f", "arguments": '{"a": [1, 2]}'}, {"name": "g"}]}],
)
async def test_the_other_form_says_the_same(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, script: Any, streamed_first: bool
) -> None:
    upstream.use(script)
    streamed = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    first = await ask(session, running, streamed if streamed_first else BODY)
    other = await ask(session, running, BODY if streamed_first else streamed)
    assert other.cache == "hit"
    assert len(upstream.seen) == 1
    assert other.text == first.text
    whole, events = (other.json, first.events) if streamed_first else (first.json, other.events)
    assert whole["object"] == "chat.completion"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert whole["id"] == events[0]["id"]
    assert whole["usage"] == next(event["usage"] for event in events if event.get("usage"))
    ends = [c["finish_reason"] for event in events for c in event["choices"] if c["finish_reason"]]
    assert ends == [whole["choices"][0]["finish_reason"]]
    calls: dict[int, dict[str, str]] = {}
    for event in events:
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                known = calls.setdefault(call["index"], {"name": "", "arguments": "", "id": ""})
                known["id"] += call.get("id") or ""
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
    told = [{"id": c["id"], **c["function"]} for c in whole["choices"][0]["message"].get("tool_calls") or []]
    assert told == list(calls.values())


async def test_real_clients_take_what_is_replayed(running: Running, upstream: FakeServer) -> None:
    upstream.use({"reasoning": "Think.", "text": "It is 8,849 m high: 舵 🚢."})
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as client:
        plain = await client.chat.completions.create(model="m", messages=ASK, temperature=0)
        for _ in range(2):
            text = ""
            stream = await client.chat.completions.create(model="m", messages=ASK, temperature=0, stream=True)
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            assert text == plain.choices[0].message.content == "It is 8,849 m high: 舵 🚢."
    assert len(upstream.seen) == 1
    cold = {"temperature": 0}
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as other:
        said = [await other.messages.create(model="m", max_tokens=64, messages=ASK, extra_body=cold) for _ in range(2)]
        async with other.messages.stream(model="m", max_tokens=64, messages=ASK, extra_body=cold) as events:
            last = await events.get_final_message()
    assert len(upstream.seen) == 2
    assert said[0].content == said[1].content
    assert [block.type for block in last.content] == [block.type for block in said[0].content]
    assert last.content[-1].text == said[0].content[-1].text  # type: ignore[union-attr]


async def test_embeddings_come_again(running: Running, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    body = {"model": "m", "input": "a text"}
    first, second = [await ask(session, running, body, path="embeddings") for _ in range(2)]
    assert (first.cache, second.cache) == ("miss", "hit")
    assert second.body == first.body
    assert (await ask(session, running, {**body, "input": "b"}, path="embeddings")).cache == "miss"


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.1},
        {"temperature": None},
        {"messages": [*ASK, {"role": "assistant", "content": "x"}, *ASK]},
    ],
)
async def test_another_request_is_another(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, changes: dict[str, Any]
) -> None:
    await ask(session, running, BODY)
    assert (await ask(session, running, {**BODY, **changes})).cache in ("miss", "bypass")
    assert len(upstream.seen) == 2


async def test_another_tenant_never_gets_it(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    await ask(session, running, BODY)
    assert (await ask(session, running, BODY, OTHER_KEY)).cache == "miss"
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("script", "body"),
    [
        ({}, {"max_tokens": 3}),
        ({"finish": "content_filter"}, {}),
        ({"finish": "length"}, {}),
        ({"text": ""}, {}),
        ({"faults": {"status": 500}}, {}),
        ({"faults": {"error_after": 2}}, {"stream": True}),
        ({"faults": {"error_after": 0}}, {"stream": True}),
        ({"faults": {"cut_after": 3}}, {"stream": True}),
        ({"faults": {"garble": ["no_finish"]}}, {"stream": True}),
        ({"faults": {"garble": ["broken_json"]}}, {"stream": True}),
        ({}, {"max_tokens": 3, "stream": True}),
        ({"finish": "content_filter"}, {"stream": True}),
    ],
    ids=str,
)
async def test_what_is_not_whole_is_not_kept(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, script: Any, body: Any
) -> None:
    upstream.use(script)
    await ask(session, running, {**BODY, **body})
    upstream.use({"text": "sound"})
    again = await ask(session, running, {**BODY, **body})
    assert again.cache == "miss"
    assert len(upstream.seen) == 2


async def test_what_a_fallback_said_is_not_kept(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m", "stand-in")
    config["models"]["m"]["fallbacks"] = ["stand-in"]
    upstream.use({"models": {"m": {"faults": {"status": 503}}}})
    async with serve(config) as running:
        got = await ask(session, running, BODY)
        assert (got.status, got.cache, got.headers["x-trimtab-model"]) == (200, "miss", "stand-in")
        upstream.use({"text": "The model itself."})
        assert (await ask(session, running, BODY)).text == "The model itself."
        assert (await ask(session, running, BODY)).cache == "hit"


async def test_a_client_that_leaves_keeps_nothing(running: Running, upstream: FakeServer) -> None:
    upstream.use({"between_s": 0.02, "tokens": 50})
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=ASK, temperature=0, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await running.settled()
        upstream.use({"text": "sound"})
        whole = await client.chat.completions.create(model="m", messages=ASK, temperature=0)
    assert whole.choices[0].message.content == "sound"


@pytest.mark.parametrize(
    ("wish", "headers", "told", "calls"),
    [
        ({"cache": {"no-cache": True}}, {}, "bypass", 2),
        ({"cache": {"no-store": True}}, {}, "hit", 1),
        ({"cache": {"use-cache": False}}, {}, "bypass", 2),
        ({"cache": {"namespace": "mine"}}, {}, "miss", 2),
        ({"cache": {"s-maxage": 0}}, {}, "miss", 2),
        ({"cache": {"s-maxage": 60}}, {}, "hit", 1),
        ({}, {"cache_control": "no-cache"}, "bypass", 2),
        ({}, {"cache_control": "max-age=60"}, "hit", 1),
        ({}, {"x_trimtab_cache": "off"}, "bypass", 2),
    ],
)
async def test_a_caller_may_tighten(
    running: Running,
    upstream: FakeServer,
    session: aiohttp.ClientSession,
    wish: Any,
    headers: dict[str, str],
    told: str,
    calls: int,
) -> None:
    await ask(session, running, BODY)
    await asyncio.sleep(0.01)
    got = await ask(session, running, {**BODY, **wish}, **headers)
    assert got.cache == told
    assert len(upstream.seen) == calls
    assert all(b'"cache"' not in seen.body for seen in upstream.seen)


async def test_nothing_is_kept_that_a_caller_wants_unkept(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    await ask(session, running, {**BODY, "cache": {"no-store": True}})
    await ask(session, running, BODY, cache_control="no-store")
    await ask(session, running, {**BODY, "cache": {"ttl": 0}})
    assert (await ask(session, running, BODY)).cache == "miss"
    assert len(upstream.seen) == 4
    wrong = await ask(session, running, {**BODY, "cache": {"no-store": "yes"}})
    assert wrong.status == 400
    assert wrong.json["error"]["param"] == "cache.no-store"


async def test_a_policy_may_switch_it_off_or_widen_it(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    config["tenants"]["acme"]["policy"] = {"cache": {"exact": False}}
    config["tenants"]["zenith"]["policy"] = {"cache": {"when": "always"}}
    async with serve(config) as running:
        assert [(await ask(session, running, BODY)).cache for _ in range(2)] == ["off", "off"]
        warm = {**BODY, "temperature": 1.0}
        assert [(await ask(session, running, warm, OTHER_KEY)).cache for _ in range(2)] == ["miss", "hit"]


async def test_a_public_namespace_is_shared_by_those_whose_operators_said_so(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    for tenant in ("acme", "zenith"):
        config["tenants"][tenant]["policy"] = {"cache": {"public": ["faq"]}}
    async with serve(config) as running:
        shared = {**BODY, "cache": {"namespace": "faq"}}
        assert (await ask(session, running, shared)).cache == "miss"
        assert (await ask(session, running, shared, OTHER_KEY)).cache == "hit"
        own = {**BODY, "cache": {"namespace": "other"}}
        assert (await ask(session, running, own)).cache == "miss"
        assert (await ask(session, running, own, OTHER_KEY)).cache == "miss"


async def test_a_namespace_is_public_only_for_those_who_declared_it(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    config["tenants"]["acme"]["policy"] = {"cache": {"public": ["faq"]}}
    async with serve(config) as running:
        shared = {**BODY, "cache": {"namespace": "faq"}}
        assert (await ask(session, running, shared)).cache == "miss"
        assert (await ask(session, running, shared, OTHER_KEY)).cache == "miss"


async def test_a_model_that_moved_answers_anew(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    from trimtab.gateway.config import Config

    config = over(upstream, "m")
    async with serve(config) as running:
        await ask(session, running, BODY)
        config["models"]["m"]["model"] = "m-2"
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))
        assert (await ask(session, running, BODY)).cache == "miss"
        config["models"]["m"]["price"] = {"input": 3, "output": 9}
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))
        assert (await ask(session, running, BODY)).cache == "hit", "a price is no reason to ask again"


# The same request at the same moment.


@pytest.mark.parametrize("leader_streams", [False, True])
@pytest.mark.parametrize("follower_streams", [False, True])
async def test_the_same_request_at_the_same_moment_asks_once(
    running: Running,
    upstream: FakeServer,
    session: aiohttp.ClientSession,
    leader_streams: bool,
    follower_streams: bool,
) -> None:
    upstream.use({"accept_s": 0.1, "between_s": 0.005})
    leader = asyncio.ensure_future(ask(session, running, {**BODY, "stream": leader_streams}))
    await asyncio.sleep(0.03)
    followers = [ask(session, running, {**BODY, "stream": follower_streams}) for _ in range(20)]
    got = await asyncio.gather(leader, *followers)
    assert len(upstream.seen) == 1
    assert [one.cache for one in got] == ["miss"] + ["hit"] * 20
    assert len({one.text for one in got}) == 1
    assert got[0].text
    story = await receipt(session, running, got[1])
    assert story["cost_usd"] == 0
    assert story["saved_microusd"] > 0


async def test_followers_of_a_stream_get_each_chunk_as_it_comes(running: Running, upstream: FakeServer) -> None:
    upstream.use({"between_s": 0.05, "tokens": 20})
    arrived: list[float] = []
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as client:

        async def read(times: list[float]) -> None:
            stream = await client.chat.completions.create(model="m", messages=ASK, temperature=0, stream=True)
            async for _ in stream:
                times.append(asyncio.get_running_loop().time())

        leader = asyncio.ensure_future(read([]))
        await asyncio.sleep(0.2)
        await read(arrived)
        await leader
    assert len(upstream.seen) == 1
    assert arrived[-1] - arrived[0] > 0.4, "not all at once, at the end"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_leader_that_leaves_does_not_take_the_answer_with_it(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, streams: bool
) -> None:
    upstream.use({"accept_s": 0.05, "between_s": 0.02, "tokens": 15})
    body = {**BODY, "stream": streams}
    leader = asyncio.ensure_future(ask(session, running, body))
    await asyncio.sleep(0.1 if streams else 0.02)
    follower = asyncio.ensure_future(ask(session, running, body))
    await asyncio.sleep(0.05)
    leader.cancel()
    got = await follower
    assert got.status == 200
    assert len(upstream.seen) == 1
    assert got.text
    assert (await ask(session, running, BODY)).cache == "hit"
    await running.settled()
    assert running.gateway.in_flight == 0


async def test_when_the_last_follower_leaves_too_the_upstream_is_closed(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"between_s": 0.05, "tokens": 2_000})
    body = {**BODY, "stream": True}
    asked = [asyncio.ensure_future(ask(session, running, body)) for _ in range(3)]
    await asyncio.sleep(0.3)
    assert len(upstream.seen) == 1
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await running.settled(5)
    assert running.gateway.in_flight == 0
    assert (await ask(session, running, {**BODY, "max_tokens": 1})).cache == "miss"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_failure_is_nobody_elses(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession, streams: bool
) -> None:
    upstream.use({"accept_s": 0.1, "text": "sound", "faults": {"status": 500, "first": 1}})
    body = {**BODY, "stream": streams}
    leader = asyncio.ensure_future(ask(session, running, body))
    await asyncio.sleep(0.03)
    got = await asyncio.gather(*(ask(session, running, body) for _ in range(5)))
    assert (await leader).status >= 500
    assert [one.status for one in got] == [200] * 5
    assert {one.text for one in got} == {"sound"}
    story = await receipt(session, running, got[0])
    assert [line["stage"] for line in story["lines"]][:3] == ["admit", "recall", "prune"]


async def test_a_stream_that_is_cut_is_cut_for_those_who_share_it(
    running: Running, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"between_s": 0.03, "faults": {"cut_after": 8}})
    body = {**BODY, "stream": True}
    got = await asyncio.gather(*(ask(session, running, body) for _ in range(3)))
    assert all(b"[DONE]" not in one.body for one in got)
    assert all(b'"error"' in one.body for one in got)
    await running.settled()
    assert running.gateway.in_flight == 0
