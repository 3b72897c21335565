"""Answers that an upstream's own slip makes impossible to tell in another form than they came in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from harness import KEY, Running, Serve, over

BODY: dict[str, Any] = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "How high is it?"}]}
STREAMED = {**BODY, "stream": True}
WHOLE = b'{"object":"chat.completion","choices":[{"index":0,"message":{"content":"new"},"finish_reason":"stop"}]}'


@dataclass
class Canned:
    """An upstream that gives whoever streams `stream` and everybody else `whole`, byte for byte."""

    stream: bytes
    whole: bytes
    url: str = ""
    asked: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        request = json.loads(await reader.readexactly(size))
        self.asked += 1
        body, kind = (self.stream, "text/event-stream") if request.get("stream") else (self.whole, "application/json")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n".encode())
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def canned() -> AsyncIterator[Canned]:
    upstream = Canned(b"", WHOLE)
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield upstream


async def ask(session: aiohttp.ClientSession, at: Running, body: Any) -> tuple[str, bytes, Any]:
    """What the header says of the cache, the answer, and the receipt's line."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with session.post(f"{at.base_url}/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200
        got, name = await response.read(), response.headers["x-request-id"]
        said = response.headers["x-trimtab-cache"]
        assert ("age" in response.headers) == (said == "hit")
    await at.settled()
    async with session.get(f"{at.base_url}/receipts/{name}", headers=headers) as response:
        lines = (await response.json())["lines"]
    return said, got, next(line for line in lines if line["stage"] == "recall")


def streamed(delta: bytes) -> bytes:
    choice = b'{"index":0,"delta":{"content":"a"%b},"finish_reason":"stop"}' % delta
    return b'data: {"object":"chat.completion.chunk","choices":[%b]}\n\ndata: [DONE]\n\n' % choice


async def test_what_cannot_be_told_in_the_other_form_is_asked_for_and_no_hit(serve: Serve, canned: Canned) -> None:
    canned.stream = streamed(b',"tool_calls":["x"]')
    async with serve(over(canned, "m")) as running, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        first = await ask(session, running, STREAMED)
        assert (first[0], canned.asked) == ("miss", 1)
        said, got, line = await ask(session, running, BODY)
        assert (said, got, line["did"], canned.asked) == ("miss", WHOLE, "miss", 2)
        assert "form" in line["reason"]
        assert line.get("entry") is None
        assert (await ask(session, running, STREAMED))[:2] == ("hit", first[1])
        assert canned.asked == 2


async def test_who_shares_what_cannot_be_told_in_its_form_asks_itself(serve: Serve, canned: Canned) -> None:
    canned.stream = streamed(b',"tool_calls":[[]]')
    async with serve(over(canned, "m")) as running, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        found = await asyncio.gather(*(ask(session, running, body) for body in (STREAMED, BODY, STREAMED, BODY)))
        assert [json.loads(got)["choices"][0]["message"]["content"] for _, got, _ in found[1::2]] == ["new", "new"]
        assert [line["did"] for said, _, line in found] == [said for said, _, line in found]
        assert [said for said, _, _ in found[1::2]] == ["miss", "miss"]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":[{"index":0,"message":{"content":"a","tool_calls":{"a":1}},"finish_reason":"stop"}]}',
        b'{"choices":[{"index":0,"message":{"content":"a","tool_calls":[7]},"finish_reason":"stop"}]}',
        b'{"choices":[{"index":0,"message":{"content":"a"},"logprobs":3,"finish_reason":"stop"}],"usage":[]}',
        b'{"choices":[{"index":0,"message":{"content":"a","role":{}},"finish_reason":"stop"}],"x":1e999}',
    ],
)
async def test_a_whole_answer_that_cannot_be_taken_apart_is_asked_for_as_a_stream(
    serve: Serve, canned: Canned, answer: bytes
) -> None:
    canned.whole, canned.stream = answer, streamed(b"")
    async with serve(over(canned, "m")) as running, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        assert (await ask(session, running, BODY))[1] == answer
        said, got, line = await ask(session, running, STREAMED)
        assert said == line["did"]
        assert canned.asked == (1 if said == "hit" else 2)
        for event in got.decode().split("\n\n"):
            assert event in ("", "data: [DONE]") or isinstance(json.loads(event.removeprefix("data: ")), dict)
