"""What reviews of the running gateway found wrong, each as the test that showed it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import KEY, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config
from trimtab.gateway.limits import Ask, Reservation
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.relay import DONE, StreamRelay, generated
from trimtab.protocol.errors import UpstreamCut
from trimtab.protocol.exchange import Limits
from trimtab.protocol.messages import Request

HEADERS = {"authorization": f"Bearer {KEY}"}


def event(index: int, text: str, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize("ending", [b"", DONE])
def test_a_stream_of_two_answers_is_whole_only_when_both_are(ending: bytes) -> None:
    relay = StreamRelay(choices=2)
    out = relay.feed(event(0, "done", "stop") + event(1, "half a sen") + ending)
    assert b"[DONE]" not in out
    if ending:
        assert isinstance(relay.error, UpstreamCut)
    else:
        with pytest.raises(UpstreamCut):
            relay.finish()
    whole = StreamRelay(choices=2)
    assert whole.feed(event(0, "done", "stop") + event(1, "done too", "stop") + DONE).endswith(DONE)


@pytest.mark.parametrize(
    ("kind", "fields", "choices"),
    [
        ("chat", {}, 1),
        ("chat", {"n": 3}, 3),
        ("completions", {"prompt": ["a", "b"], "n": 2}, 4),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": "a", "best_of": 5}, 1),
    ],
)
def test_how_many_choices_an_answer_will_have(kind: Any, fields: dict[str, Any], choices: int) -> None:
    assert Request.build(kind, {"model": "m", **fields}).choices == choices


async def test_a_whole_answer_without_usage_is_counted_by_its_words_not_by_its_json(
    serve: Serve, upstream: FakeServer
) -> None:
    upstream.use({"text": "Hi there", "faults": {"garble": ["usage_absent"]}})
    async with (
        serve(over(upstream)) as running,
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.post(f"{running.base_url}/chat/completions", json={"model": "m", "messages": []}) as response,
    ):
        assert response.status == 200
        receipt = await running.gateway.ledger.find(response.headers["x-request-id"])
    assert receipt is not None
    assert receipt.usage is not None
    assert receipt.usage.estimated
    assert receipt.usage.completion == 2
    assert generated(b'{"data": [{"embedding": [0.25, 0.5]}]}') == "", "an embedding generates nothing"


async def test_a_reload_in_the_middle_of_a_request_does_not_take_its_model_away(
    serve: Serve, upstream: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(self: LocalLimiter, tenant: str, limits: Limits, ask: Ask) -> Reservation:
        await asyncio.sleep(0.2)
        return self.try_reserve(tenant, limits, ask)

    monkeypatch.setattr(LocalLimiter, "reserve", slowly)
    written = over(upstream, "m", "other")
    written["tenants"]["acme"]["limits"] = {"requests_per_minute": 100}
    without = {**written, "models": {"other": written["models"]["other"]}}
    async with serve(written) as running, aiohttp.ClientSession(headers=HEADERS) as session:
        asked = asyncio.ensure_future(
            session.post(f"{running.base_url}/chat/completions", json={"model": "m", "messages": []})
        )
        await asyncio.sleep(0.1)
        await running.gateway.apply(Config.model_validate(without, context={"environ": {}}))
        async with await asked as response:
            assert response.status == 200, await response.text()


async def test_a_burst_that_leaves_its_connection_open_is_over_at_done(serve: Serve) -> None:
    body = event(0, "all at once", "stop") + DONE

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(body), body))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = {"models": {"m": {"backend": "openai", "base_url": f"http://127.0.0.1:{port}/v1"}}}
    try:
        async with serve(config) as running, aiohttp.ClientSession() as session:
            began = time.monotonic()
            async with session.post(
                f"{running.base_url}/chat/completions", json={"model": "m", "messages": [], "stream": True}
            ) as response:
                assert await response.read() == body
            assert time.monotonic() - began < 5
            await running.settled()
    finally:
        server.close()


async def test_a_callers_timeout_bounds_all_attempts_together(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"accept_s": 30})
    written = over(upstream, "a", "b", "c")
    written["models"]["a"]["fallbacks"] = ["b", "c"]
    async with serve(written) as running, aiohttp.ClientSession(headers=HEADERS) as session:
        async with session.post(
            f"{running.base_url}/chat/completions",
            json={"model": "a", "messages": []},
            headers={"x-trimtab-timeout": "0.3"},
        ) as response:
            assert response.status == 504
        await running.settled()
    assert upstream.counts.calls == 1


async def test_a_key_that_one_upstream_refuses_is_not_the_end(serve: Serve, upstream: FakeServer) -> None:
    written = over(upstream, "a", "b", retries={"attempts": 3})
    written["models"]["a"] |= {"fallbacks": ["b"], "api_key": "wrong"}
    upstream.use({"key": "sk-upstream-secret-0123456789"})
    async with (
        serve(written) as running,
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.post(f"{running.base_url}/chat/completions", json={"model": "a", "messages": []}) as response,
    ):
        assert response.status == 200
        assert response.headers["x-trimtab-model"] == "b"
        assert response.headers["x-trimtab-attempts"] == "2"


async def test_counting_tokens_speaks_anthropic_and_asks_who_may(serve: Serve, upstream: FakeServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with serve(over(upstream)) as running, aiohttp.ClientSession(headers=HEADERS) as session:
        for path in ("/v1/messages/count_tokens", "/messages/count_tokens"):
            async with session.post(f"{running.url}{path}", json=body) as response:
                assert (await response.json())["input_tokens"] > 0
                assert response.headers["x-request-id"]
        async with session.post(f"{running.url}/v1/messages/count_tokens", json={**body, "model": "nope"}) as response:
            assert response.status == 404
            assert (await response.json())["type"] == "error"


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/usage", "/health/readiness", "/metrics"])
async def test_every_answer_has_an_id(serve: Serve, upstream: FakeServer, path: str) -> None:
    async with serve(over(upstream)) as running, aiohttp.ClientSession(headers=HEADERS) as session:
        async with session.get(running.url + path) as response:
            assert response.status == 200
            assert response.headers["x-request-id"].startswith("req_")
        async with session.put(running.url + path) as response:
            assert response.status == 405
            assert response.headers["x-request-id"].startswith("req_")
            assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_usage_since_no_number_is_refused(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream)) as running, aiohttp.ClientSession(headers=HEADERS) as session:
        for since in ("nan", "inf", "yesterday"):
            async with session.get(f"{running.base_url}/usage?since={since}") as response:
                assert response.status == 400


@pytest.mark.parametrize(
    "arguments", [["--port", "99999"], ["--workers", "0"], ["--workers", "2", "--ledger", "/proc/x"]]
)
def test_a_start_that_cannot_succeed_says_so_and_ends(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "t.yaml").write_text("server: {port: 0}\nmodels:\n  m: {backend: fake}\n")
    command = [sys.executable, "-m", "trimtab.gateway.cli", "serve", "-c", "t.yaml", "--ledger", "l.db", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
