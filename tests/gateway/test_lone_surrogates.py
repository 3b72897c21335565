"""Half of a surrogate pair in a request goes to the upstream as the client wrote it, and nobody on the way minds."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer

HALF = "cut \ud83d here"
ROWS = json.dumps([{"id": n, "name": f"row {n}", "price": 1.50} for n in range(60)], indent=2)
CALL = {"id": "c1", "type": "function", "function": {"name": "rows", "arguments": '{"n": 60}'}}
TOOL = {"type": "function", "function": {"name": "rows", "description": HALF, "parameters": {"type": "object"}}}
EVERYTHING = {
    "context": {"enabled": True},
    "demonstrations": {"enabled": True},
    "turns": {"enabled": True, "above": 10},
    "tools": {"enabled": True, "share": True},
    "floor": 0.0,
    "deadline_ms": 10_000.0,
}


def turns(result: str = ROWS, user: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Which row is 7?", **(user or {})},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": result},
    ]


BODIES: dict[str, dict[str, Any]] = {
    "in a tool's result": {"messages": turns(ROWS + HALF)},
    "in JSON inside a tool's result": {"messages": turns(json.dumps([{"cut": HALF}] * 60, indent=2))},
    "in a user's text": {"messages": [*turns(), {"role": "user", "content": HALF}]},
    "in a part of a message that nobody reads": {"messages": turns(user={"name": HALF})},
    "the wrong way round": {"messages": turns("\ude00 \ud83d, " * 1000)},
    "in a name": {"messages": turns(user={HALF: 1})},
}


def configured(upstream: FakeServer, **compress: Any) -> dict[str, Any]:
    config = over(upstream)
    config["models"]["local"] = {"backend": "fake"}
    config["tenants"]["acme"]["limits"] = {"tokens_per_minute": 10_000_000, "usd_per_day": 100}
    config["tenants"]["acme"]["policy"] = {"compress": {**EVERYTHING, **compress}}
    return config


async def post(running: Running, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, bytes, str]:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(running.url + path, data=body, headers=headers) as got:
        return got.status, await got.read(), got.headers.get("x-request-id", "")


@pytest.mark.parametrize("stream", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("name", BODIES)
async def test_the_upstream_gets_the_clients_own_bytes(
    serve: Serve, upstream: FakeServer, name: str, stream: dict[str, Any]
) -> None:
    body = json.dumps({"temperature": 1.50, **BODIES[name], **stream, "model": "m"}, indent=1).encode()
    async with serve(configured(upstream)) as running:
        status, answer, request_id = await post(running, body)
        await running.settled()
        receipt = await running.gateway.ledger.find(request_id)
    assert status == 200, answer
    assert upstream.seen[-1].body == body
    assert receipt is not None
    assert (receipt.outcome, receipt.stream) == ("ok", bool(stream))
    assert receipt.usage is not None
    assert not [line for line in receipt.lines if line.did == "undone"]


async def test_a_stream_without_usage_keeps_them_but_for_the_option_that_we_set(
    serve: Serve, upstream: FakeServer
) -> None:
    body = json.dumps({"messages": turns(HALF), "stream": True, "model": "m"}, separators=(",", ":")).encode()
    async with serve(configured(upstream)) as running:
        status, _, _ = await post(running, body)
    assert status == 200
    assert upstream.seen[-1].body == body[:-1] + b',"stream_options":{"include_usage":true}}'


@pytest.mark.parametrize(
    "odd",
    [{"tools": [TOOL]}, {"metadata": {"cut": HALF}}, {"user": HALF}, {HALF: [HALF]}, {"tools": [TOOL], "user": HALF}],
    ids=repr,
)
async def test_other_fields_keep_their_bytes_while_messages_are_compressed(
    serve: Serve, upstream: FakeServer, odd: dict[str, Any]
) -> None:
    body = json.dumps({"messages": turns(), **odd, "model": "m"}).encode()
    async with serve(configured(upstream, turns={}, demonstrations={}, context={})) as running:
        status, answer, request_id = await post(running, body)
        await running.settled()
        receipt = await running.gateway.ledger.find(request_id)
    assert status == 200, answer
    sent = upstream.seen[-1].body
    assert len(sent) < len(body)
    for name, value in odd.items():
        assert f"{json.dumps(name)}:{json.dumps(value)}".encode() in sent
    assert receipt is not None
    assert receipt.end_user == (HALF.replace("\ud83d", "\ufffd") if "user" in odd else None)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": HALF * 300}),
        ("/v1/completions", {"prompt": [HALF, HALF], "stream": True}),
        ("/v1/embeddings", {"input": [HALF]}),
    ],
)
async def test_other_kinds(serve: Serve, upstream: FakeServer, path: str, fields: dict[str, Any]) -> None:
    body = json.dumps({**fields, "model": "m", "stream_options": {"include_usage": True}}).encode()
    async with serve(configured(upstream)) as running:
        status, answer, _ = await post(running, body, path)
    assert status == 200, answer
    assert upstream.seen[-1].body == body


@pytest.mark.parametrize("stream", [False, True])
async def test_the_fake_answers_it(serve: Serve, upstream: FakeServer, stream: bool) -> None:
    body = json.dumps({"messages": turns(ROWS + HALF), "stream": stream, "model": "local", HALF: HALF}).encode()
    async with serve(configured(upstream)) as running:
        status, answer, _ = await post(running, body)
    assert status == 200, answer
    assert b'"error"' not in answer


@pytest.mark.parametrize("name", BODIES)
async def test_compress_gives_the_messages_back_as_they_were(serve: Serve, upstream: FakeServer, name: str) -> None:
    body = json.dumps({**BODIES[name], "tools": [TOOL], "model": "m"}).encode()
    async with serve(configured(upstream)) as running:
        status, answer, request_id = await post(running, body, "/v1/compress")
        receipt = await running.gateway.ledger.find(request_id)
    assert status == 200, answer
    told = json.loads(answer)
    assert told["messages"] == BODIES[name]["messages"]
    assert told["tools"] == [TOOL]
    assert told["tokens_before"] == told["tokens_after"] > 0
    assert receipt is not None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": HALF}], "max_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "system": HALF, "max_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], HALF: 1, "max_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "metadata": {"user_id": HALF}}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": HALF}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": HALF}]}),
        ("/v1/responses", {"input": HALF}),
        ("/v1/responses", {"input": "x", "metadata": {"a": HALF}}),
        ("/v1/responses", {"input": "x", HALF: HALF}),
        ("/v1/responses", {"input": "x", "user": HALF, "stream": True}),
        ("/v1/responses", {"input": [{"role": "user", "content": HALF}], "stream": True}),
        ("/v1/chat/completions", {"messages": turns(), "model": HALF}),
        ("/v1/chat/completions", {"messages": turns(), "trimtab": {"query": HALF, "keep": [HALF]}}),
        ("/v1/chat/completions", {"messages": turns(), "trimtab": {HALF: HALF}}),
        ("/v1/chat/completions", {"messages": turns(), "trimtab": HALF}),
        ("/v1/chat/completions", {"messages": turns(), "stream": HALF}),
        ("/v1/chat/completions", {"messages": turns(), "n": HALF}),
        ("/v1/compress", {"messages": turns(), "policy": {HALF: 1}}),
        ("/v1/compress", {"messages": HALF}),
    ],
)
async def test_where_it_cannot_go_on_the_client_is_told(
    serve: Serve, upstream: FakeServer, path: str, fields: dict[str, Any]
) -> None:
    """Never an error of ours; and an error is one that its reader can read."""
    async with serve(configured(upstream)) as running:
        status, answer, _ = await post(running, json.dumps({"model": "m", **fields}).encode(), path)
        assert running.gateway.in_flight == 0
    assert status == 200 or 400 <= status < 500
    if status != 200:
        assert json.loads(answer.decode())["error"]["message"]
    else:
        assert b"internal" not in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_an_answer_that_was_cut_inside_a_character_is_an_answer(
    serve: Serve, upstream: FakeServer, path: str
) -> None:
    """An upstream that writes such an escape has answered; its client is to have it, and to pay for it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": HALF}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    said = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    upstream.use({"faults": {"status": 200, "body": json.dumps(said)}})
    field = "input" if path.endswith("responses") else "messages"
    body = {"model": "m", "max_tokens": 50, field: [{"role": "user", "content": "Hi"}], "temperature": 0}
    if field == "input":
        del body["max_tokens"]
    async with serve(configured(upstream)) as running:
        for _ in range(2):  # the second may come from the cache
            status, answer, name = await post(running, json.dumps(body).encode(), path)
            assert status == 200, answer
            assert "cut " in answer.decode()
        await running.settled()
        async with aiohttp.ClientSession() as session:
            headers = {"authorization": f"Bearer {KEY}"}
            async with session.get(f"{running.url}/v1/receipts/{name}", headers=headers) as got:
                assert (await got.json())["outcome"] == "ok"
