"""What a caller says beside the request, and what changes the answer by it, is part of the question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "How high?"}], "temperature": 0}


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m")) as running:
        yield running


async def asked(at: Running, fields: dict[str, Any], headers: dict[str, str]) -> str:
    head = {"authorization": f"Bearer {KEY}", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at.base_url}/chat/completions", json={**BODY, **fields}, headers=head) as response,
    ):
        await response.read()
        return response.headers["x-trimtab-cache"]


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"trimtab": {"query": "the height"}}, {}),  # other passages are pruned
        ({"trimtab": {"keep": ["8,849"]}}, {}),
        ({"trimtab": {"compress": False}}, {}),  # the answer to the whole request, not to what was left of it
        ({}, {"x-trimtab-query": "the height"}),
        ({}, {"x-trimtab-compress": "off"}),
        ({}, {"openai-beta": "assistants=v2"}),  # passed on to the upstream, which may answer otherwise
        ({}, {"anthropic-beta": "output-128k"}),
    ],
    ids=str,
)
async def test_a_wish_that_changes_the_answer_is_part_of_the_question(
    running: Running, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    assert await asked(running, {}, {}) == "miss"
    assert await asked(running, fields, headers) == "miss"
    assert await asked(running, fields, headers) == "hit"
    assert await asked(running, {}, {}) == "hit"


async def test_where_a_trace_goes_is_not(running: Running) -> None:
    traced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    assert await asked(running, {}, {}) == "miss"
    assert await asked(running, {}, traced) == "hit"
