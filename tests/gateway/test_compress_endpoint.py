"""POST /v1/compress: messages in, messages out, under the tenant's policy, and nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.fake_server import FakeServer
from trimtab.compression.policy import CompressionPolicy
from trimtab.gateway.tighten import tightened
from trimtab.protocol.errors import Forbidden, InvalidRequest

ROWS = [{"id": n, "name": f"row {n}", "price": 1.50, "tags": ["a", "b"], "none": None} for n in range(40)]
CALL = {"id": "c1", "type": "function", "function": {"name": "rows", "arguments": '{"n": 40}'}}


def conversation(result: str | None = None) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "List the rows."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": result or json.dumps(ROWS, indent=2)},
    ]


def configured(upstream: FakeServer, *names: str) -> dict[str, Any]:
    """Deadlines are tested elsewhere: a busy machine must not fail these."""
    config = over(upstream, *names)
    config["tenants"]["acme"]["policy"] = {"compress": {"deadline_ms": 10_000.0}}
    return config


async def post(
    running: Running, body: Any, key: str = KEY, path: str = "/v1/compress", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.url + path, data=raw, headers={"authorization": f"Bearer {key}", **headers}) as response,
    ):
        return response.status, await response.json(), {n.lower(): value for n, value in response.headers.items()}


def limited(upstream: FakeServer, **limits: Any) -> dict[str, Any]:
    config = configured(upstream)
    config["tenants"]["acme"]["limits"] = limits
    return config


@pytest.mark.parametrize("path", ["/v1/compress", "/compress"])
async def test_messages_come_back_smaller_and_nothing_is_sent(serve: Serve, upstream: FakeServer, path: str) -> None:
    asked = conversation()
    async with serve(configured(upstream)) as running:
        status, told, headers = await post(running, {"messages": asked}, path=path)
        receipt = await running.gateway.ledger.find(headers["x-request-id"])
    assert status == 200
    assert told["id"] == headers["x-request-id"]
    assert [m["role"] for m in told["messages"]] == [m["role"] for m in asked]
    assert told["messages"][:3] == asked[:3]
    assert json.loads(told["messages"][3]["content"]) == ROWS
    assert len(told["messages"][3]["content"]) < len(asked[3]["content"])
    assert told["tokens_after"] < told["tokens_before"]
    assert told["ratio"] == pytest.approx(told["tokens_after"] / told["tokens_before"], abs=1e-4)
    assert [line["stage"] for line in told["lines"]] == ["admit", "prune", "compress", "settle"]
    assert told["cost_usd"] == 0
    assert upstream.counts.calls == 0
    assert receipt is not None
    assert (receipt.tenant, receipt.kind, receipt.outcome, receipt.status) == ("acme", "compress", "ok", 200)
    assert receipt.cost_microusd == 0


async def test_tools_come_back_too_and_other_fields_do_not(serve: Serve, upstream: FakeServer) -> None:
    tool = {"type": "function", "function": {"name": "rows", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "messages": conversation(), "tools": [tool], "temperature": 0.5, "stream": True}
    async with serve(configured(upstream)) as running:
        status, told, _ = await post(running, body)
    assert status == 200
    assert [each["function"]["name"] for each in told["tools"]] == ["rows"]
    assert not {"temperature", "stream", "policy"} & told.keys()


async def test_it_asks_for_a_key_and_keeps_a_keys_models(serve: Serve, upstream: FakeServer) -> None:
    config = configured(upstream, "m", "n")
    config["tenants"]["acme"]["models"] = ["m"]
    async with serve(config) as running:
        assert (await post(running, {"messages": []}, key="nobody"))[0] == 401
        assert (await post(running, {"model": "n", "messages": []}))[0] == 403
        assert (await post(running, {"model": "o", "messages": []}, key=OTHER_KEY))[0] == 404
        assert (await post(running, {"model": "m", "messages": []}))[0] == 200
        assert (await post(running, {"messages": []}))[0] == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        ({}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [], "model": 7}, "model"),
        ({"messages": [], "policy": "less"}, "policy"),
        ({"messages": [], "policy": {"lossles": False}}, "policy.lossles"),
        ({"messages": [], "policy": {"context": {"enabled": "no"}}}, "policy.context.enabled"),
        ({"messages": [], "policy": {"floor": 7.0}}, "policy.floor"),
        ({"messages": [], "trimtab": {"query": 1}}, "trimtab.query"),
    ],
)
async def test_what_is_wrong_is_named(serve: Serve, upstream: FakeServer, body: Any, param: str | None) -> None:
    async with serve(configured(upstream)) as running:
        status, told, _ = await post(running, body)
    assert status == 400
    assert told["error"]["param"] == param


async def test_a_request_may_tighten_and_not_loosen(serve: Serve, upstream: FakeServer) -> None:
    asked = conversation()
    async with serve(configured(upstream)) as running:
        status, told, _ = await post(running, {"messages": asked, "policy": {"lossless": False}})
        assert status == 200
        assert told["messages"] == asked
        assert told["tokens_after"] == told["tokens_before"]
        status, told, _ = await post(running, {"messages": asked, "policy": {"context": {"enabled": True}}})
    assert status == 403
    assert "policy.context.enabled" in told["error"]["message"]


@pytest.mark.parametrize("how", ["field", "header"])
async def test_switched_off_by_the_caller(serve: Serve, upstream: FakeServer, how: str) -> None:
    asked = conversation()
    field = {"trimtab": {"compress": False}} if how == "field" else {}
    headers = {"x-trimtab-compress": "off"} if how == "header" else {}
    async with serve(configured(upstream)) as running:
        status, told, _ = await post(running, {"messages": asked, **field}, **headers)
    assert status == 200
    assert told["messages"] == asked


async def test_it_counts_as_a_request_and_as_no_tokens(serve: Serve, upstream: FakeServer) -> None:
    config = limited(upstream, requests_per_minute=2, tokens_per_minute=50)
    async with serve(config) as running:
        status, _, headers = await post(running, {"messages": conversation()})
        assert status == 200, "a prompt of more than 50 tokens, none of which a model reads"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert headers["x-ratelimit-remaining-tokens"] == "50"
        assert (await post(running, {"messages": []}))[0] == 200
        status, told, _ = await post(running, {"messages": []})
        assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (await post(running, {"messages": []}, key=OTHER_KEY))[0] == 200


async def test_a_summary_is_charged_here_too(serve: Serve, upstream: FakeServer) -> None:
    config = configured(upstream, "small", "big")
    config["routes"] = {"auto": {"small": "small", "large": "big"}}
    turns = {"enabled": True, "above": 800, "keep": 0.5, "summarise": True}
    config["tenants"]["acme"]["policy"]["compress"] |= {"turns": turns, "floor": 0.0}
    config["tenants"]["acme"]["limits"] = {"usd_per_day": 1}
    talk = [
        {"role": role, "content": f"Chapter {n}: " + f"the caravan went on past well {n}. " * 20}
        for n in range(12)
        for role in ("user", "assistant")
    ] + [{"role": "user", "content": "Where did it begin?"}]
    async with serve(config) as running:
        _, told, _ = await post(running, {"model": "auto", "messages": talk, "max_tokens": 16})
        totals = await running.gateway.ledger.totals("acme")
    assert upstream.counts.calls == len(told["charges"]) > 0
    assert told["cost_usd"] > 0
    assert told["cost_usd"] == pytest.approx(sum(charge["microusd"] for charge in told["charges"]) / 1e6)
    assert totals.cost_microusd == sum(charge["microusd"] for charge in told["charges"])
    assert totals.prompt_tokens == upstream.counts.prompt_tokens


async def test_a_draining_gateway_takes_no_more(serve: Serve, upstream: FakeServer) -> None:
    async with serve(configured(upstream)) as running:
        running.gateway.drain()
        status, told, _ = await post(running, {"messages": []})
        assert running.gateway.in_flight == 0
    assert (status, told["error"]["code"]) == (503, "server_shutdown")


@pytest.mark.parametrize("content", ['{"broken": [1, 2', "[" * 3000, None, 7, [{"type": "text"}], "x" * 200_000])
async def test_odd_messages_come_back_as_they_were(serve: Serve, upstream: FakeServer, content: Any) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    async with serve(configured(upstream)) as running:
        status, told, _ = await post(running, raw)
    assert status == 200
    assert told["messages"][0]["content"] == content


# Tightening.

POLICY = CompressionPolicy.model_validate(
    {"context": {"enabled": True, "recall": 0.9}, "turns": {"enabled": True, "summarise": True}, "floor": 0.4}
)


@pytest.mark.parametrize(
    "wished",
    [
        {"lossless": False},
        {"context": {"enabled": False}},
        {"context": {"recall": 0.95, "deadline_ms": 20}},
        {"context": {"enabled": True, "recall": 0.9}},
        {"turns": {"above": 50_000, "keep": 0.9, "summarise": True}},
        {"floor": 1, "deadline_ms": 5, "usd_per_s": 1.0},
        {},
    ],
)
def test_tighter_is_taken(wished: dict[str, Any]) -> None:
    made = tightened(POLICY, wished).model_dump()
    for name, value in wished.items():
        for inner, wish in value.items() if isinstance(value, dict) else [(None, value)]:
            assert (made[name][inner] if inner else made[name]) == wish
    untouched = POLICY.model_dump()
    assert {n: v for n, v in made.items() if n not in wished} == {n: v for n, v in untouched.items() if n not in wished}


@pytest.mark.parametrize(
    "wished",
    [
        {"context": {"recall": 0.5}},
        {"context": {"deadline_ms": 60_000.0}},
        {"prose": {"enabled": True}},
        {"turns": {"summarise": False}},
        {"turns": {"above": 10}},
        {"floor": 0.1},
    ],
)
def test_looser_is_refused(wished: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        tightened(POLICY, wished)


NAMES = st.sampled_from([*CompressionPolicy.model_fields, "enabled", "keep", "recall", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@given(JSON)
def test_whatever_is_wished_nothing_is_ever_looser(wished: Any) -> None:
    try:
        made = tightened(POLICY, wished)
    except (Forbidden, InvalidRequest):
        return
    assert not (made.lossless and not POLICY.lossless)
    assert made.floor >= POLICY.floor
    for section in ("context", "demonstrations", "turns", "prose", "tools"):
        before, after = getattr(POLICY, section), getattr(made, section)
        assert not (after.enabled and not before.enabled)
        assert getattr(after, "keep", 1) >= getattr(before, "keep", 1)
        assert getattr(after, "recall", 1) >= getattr(before, "recall", 1)
