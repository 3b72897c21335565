"""What the tests of backends share: making calls, and reading event streams without the code under test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from trimtab.backends.base import Call
from trimtab.protocol.messages import Kind, Request

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _call(kind: Kind = "chat", **fields: Any) -> Call:
    base: dict[Kind, dict[str, Any]] = {"chat": CHAT, "completions": {"prompt": "hi"}, "embeddings": {"input": "hi"}}
    asked = {"model": "fake", **base[kind], **fields}
    if asked.get("stream"):
        asked.setdefault("stream_options", {"include_usage": True})
    return Call(kind, Request.build(kind, asked), request_id="req-1", tenant="acme")


@pytest.fixture
def call() -> Callable[..., Call]:
    """`call(kind, field=value, ...)`: a backend's call; a stream asks for usage, as the gateway does."""
    return _call


@pytest.fixture
def events() -> Callable[[bytes], list[Any]]:
    """The data of each event of a whole stream, decoded; "[DONE]" as it is."""

    def read(body: bytes) -> list[Any]:
        text = body.decode("utf-8-sig").replace("\r\n", "\n")
        found = []
        for block in text.split("\n\n"):
            data = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
            if data:
                joined = "\n".join(data)
                found.append(joined if joined == "[DONE]" else json.loads(joined))
        return found

    return read


@pytest.fixture(autouse=True)
async def no_stray_tasks() -> AsyncIterator[None]:
    """Every test leaves the event loop as it found it."""
    before = asyncio.all_tasks()
    yield
    for _ in range(200):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"left running: {left}")
