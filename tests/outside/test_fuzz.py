"""Requests that were right and have been damaged: the answer is never a 500, never nothing, and never somebody else's.

The damage is drawn from a seed, so a failure names what to run again.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from harness import KEY

from trimtab.backends.fake_server import FakeServer

WORDS: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**63, 2**64, -(2**63), "", "m", "\u0000", "\ud7ff", "é" * 300,
    [], {}, [[]], [None], {"a": None}, {"": {}}, ["m"], "data:image/png;base64," + "A" * 300, "{}", "NaN", "true",
]  # fmt: skip
BITS = [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\r\n\r\n", b"0\r\n\r\n", b"\xff"]
PATHS = {
    "/v1/chat/completions": {
        "model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": False, "n": 1, "max_tokens": 5, "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "stream_options": {"include_usage": True}, "response_format": {"type": "json_object"}, "user": "u",
    },
    "/v1/completions": {"model": "m", "prompt": ["a"], "best_of": 1, "stream": True, "logprobs": 1},
    "/v1/embeddings": {"model": "m", "input": ["a"], "encoding_format": "float"},
    "/v1/messages": {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stream": False,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "/v1/messages/count_tokens": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {
        "model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "instructions": "i", "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "text": {"format": {"type": "text"}},
        "stream": False, "reasoning": {"effort": "low"}, "max_output_tokens": 5,
    },
}  # fmt: skip


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, inner in below for spot in spots(inner, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], word: Any) -> Any:
    if not path:
        return word
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], word)
    return copy


async def wrong_answer(wire: Any, path: str, body: bytes) -> str | None:
    reply = await wire.once(wire.post(body, path.encode()), 10)
    if reply.status == 200 or 400 <= reply.status < 500:
        return None
    return f"{path} {body[:300]!r}: {reply.status} {reply.text[:300]!r}"


@pytest.mark.parametrize("path", PATHS)
async def test_any_value_anywhere_is_answered_and_never_by_a_500(wire: Any, upstream: FakeServer, path: str) -> None:
    upstream.use({"tokens": 2})  # (the fake falls over odd `dimensions`; embeddings go without)
    bodies = [
        json.dumps(changed(PATHS[path], spot, word), ensure_ascii=False).encode()
        for spot in spots(PATHS[path])
        for word in WORDS
    ]
    wrong = []
    for at in range(0, len(bodies), 16):
        wrong += await asyncio.gather(*(wrong_answer(wire, path, body) for body in bodies[at : at + 16]))
    assert [line for line in wrong if line] == []


@pytest.mark.parametrize("seed", range(4))
async def test_damaged_bytes_hang_nobody_and_leave_the_gateway_as_it_was(
    wire: Any, upstream: FakeServer, seed: int
) -> None:
    upstream.use({"tokens": 2})
    draw = random.Random(seed)
    chunked = b"Transfer-Encoding: chunked"
    body = wire.ask()
    whole = [
        wire.post(body),
        wire.post(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"/v1/chat/completions", chunked),
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n",
    ]

    async def once() -> None:
        data = bytearray(draw.choice(whole))
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data))
            match draw.randrange(4):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randrange(1, 9)]
                case 2:
                    data[at:at] = draw.choice(
                        [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\r\n\r\n", b"0\r\n\r\n", b"\xff"]
                    )
                case 3:
                    data[at:at] = data[draw.randrange(len(data)) :][:40]
        async with wire.line() as line:
            await line.send(bytes(data))
            line.writer.write_eof()
            seen = await line.ended(5)
        assert b"HTTP/1.1 5" not in seen, (seed, bytes(data), seen[:500])

    for _ in range(20):
        await asyncio.gather(*(once() for _ in range(10)))
    await wire.running.settled()
    assert not wire.running.gateway._working
    assert (await wire.once(wire.post(body))).status == 200
