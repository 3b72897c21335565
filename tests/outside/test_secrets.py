"""What a gateway knows and must not tell: planted secrets, every kind of failure, and then a search of all it wrote.

Keys may stand nowhere. What people said may stand in the upstream's request and nowhere in logs, metrics or the ledger.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from harness import Running, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.keys import hash_key

CLIENT = "tt-CANARYclient-5b1f0e9a77"
UPSTREAM = "sk-CANARYupstream-90ad1177c3"
HEADER = "CANARYheader-4417bb"
REDIS = "CANARYredis-71c2"
BASIC = "Q0FOQVJZYmFzaWM6eA=="
STRANGE = "CANARYstranger-8f2e"
COOKIE = "CANARYcookie-18ab"
KEYS = [CLIENT, UPSTREAM, HEADER, REDIS, BASIC, STRANGE, COOKIE]
SAID = "CANARYsaid the quick brown fox"
SAID_BACK = "CANARYanswer jumps over"


def config(upstream: FakeServer) -> dict[str, Any]:
    made = over(upstream, "m", "dead", api_key=UPSTREAM, headers={"x-tenant-secret": HEADER})
    made["models"]["dead"]["base_url"] = "http://127.0.0.1:9/v1"
    made["models"]["m"]["timeouts"] = {"first_token_s": 0.5, "idle_s": 0.3, "total_s": 1.0}
    made["tenants"] = {"acme": {"keys": [hash_key(CLIENT)], "limits": {"requests_per_minute": 500}}}
    made["store"] = {"redis": f"redis://user:{REDIS}@127.0.0.1:9/0"}
    return made


CREDENTIALS: list[dict[str, str]] = [
    {},
    {"authorization": f"Bearer {STRANGE}"},
    {"authorization": f"Basic {BASIC}"},
    {"authorization": STRANGE},
    {"authorization": f"Bearer  {CLIENT}"},
    {"x-api-key": STRANGE},
    {"x-api-key": CLIENT, "cookie": f"session={COOKIE}"},
    {"api-key": CLIENT, "proxy-authorization": f"Basic {BASIC}"},
    {"x-goog-api-key": STRANGE, "cookie": COOKIE},
]
SCRIPTS: list[dict[str, Any]] = [
    {},
    {"key": "another"},
    *({"faults": {"status": status}} for status in (400, 401, 403, 404, 429, 500, 503)),
    {"faults": {"status": 500, "body": f"Traceback: key {UPSTREAM} is wrong for {SAID}"}},
    {"faults": {"status": 500, "body": {"error": {"message": f"Incorrect API key provided: {UPSTREAM}."}}}},
    {"faults": {"error_after": 1, "error": {"message": f"bad key: Bearer {UPSTREAM}", "type": "server_error"}}},
    {"faults": {"error_after": 3, "error": {"message": f"bad key {UPSTREAM}", "type": "server_error"}}},
    *({"faults": {"wire": wire}} for wire in ("rst", "html", "close_mid_chunk", "bad_chunk", "sse_error")),
    *({"faults": {"garble": [garble]}} for garble in ("broken_json", "two_on_line")),
    {"faults": {"cut_after": 2}},
    {"faults": {"hang_after": 2}},
    {"faults": {"silent": True}},
    {"faults": {"refuse": True}},
]
PATHS = ["chat/completions", "completions", "messages", "responses", "embeddings"]


async def everything(base: str, upstream: FakeServer) -> str:
    """A mix of good and failing requests; what the failing ones were told."""
    told: list[str] = []
    mine = {"authorization": f"Bearer {CLIENT}"}
    async with aiohttp.ClientSession() as session:

        async def send(path: str, headers: dict[str, str], body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with session.post(f"{base}/v1/{path}", data=data, headers=headers) as response:
                text = await response.text(errors="replace")
                told.append(json.dumps(dict(response.headers)))
                if response.status != 200 or '"error"' in text:
                    told.append(text)

        def ask(model: str = "m", **more: Any) -> dict[str, Any]:
            said = [{"role": "user", "content": SAID}]
            return {"model": model, "messages": said, "prompt": SAID, "input": SAID, "max_tokens": 9, **more}

        for script in SCRIPTS:
            upstream.use({"text": SAID_BACK, **script})
            await asyncio.gather(*(send(PATHS[0], mine, ask(stream=stream)) for stream in (False, True)))
        upstream.use({"text": SAID_BACK})
        for credential in CREDENTIALS:
            for path in PATHS:
                await send(path, credential, ask())
            async with session.get(f"{base}/v1/models", headers=credential) as response:
                told.append(await response.text())
        for body in (b"{", b"[" * 100_000, f'{{"model": 1, "{SAID}": '.encode(), ask("dead"), ask(""), ask(stream=1)):
            for path in PATHS:
                await send(path, mine, body)
        for path in (f"receipts/{CLIENT}", f"models/{CLIENT}"):
            async with session.get(f"{base}/v1/{path}", headers={"authorization": f"Bearer {STRANGE}"}) as response:
                told.append(await response.text())
        async with session.get(f"{base}/v1/usage", headers=mine) as response:
            told.append(await response.text())
        for path in ("metrics", "health/readiness", ""):
            async with session.get(f"{base}/{path}", headers=mine) as response:
                told.append(await response.text())
    return "\n".join(told)


def found(secrets: list[str], text: str) -> dict[str, str]:
    """Each secret that is there, with what stands around it."""
    return {s: text[max(0, text.find(s) - 200) : text.find(s) + 100] for s in secrets if s in text}


async def test_no_secret_and_no_word_is_told_anywhere(process: Any, upstream: FakeServer) -> None:
    async with process(config(upstream), "--log-level", "debug") as served:
        told = await everything(served.url, upstream)
        served.process.terminate()
        assert await served.exit() == 0
        log = "".join(served.log)
        files = "".join(path.read_bytes().decode("latin-1") for path in Path(served.ledger).parent.glob("process.db*"))
    assert "draining" in log
    assert "acme" in files, "the search is worth something only if there is something to search"
    assert found([*KEYS, SAID, SAID_BACK], log) == {}
    assert found([*KEYS, SAID, SAID_BACK], files) == {}
    assert found([*KEYS, SAID, SAID_BACK], told) == {}
    assert any(SAID in seen.body.decode() for seen in upstream.seen)
    heads = "".join(seen.head.decode("latin-1") for seen in upstream.seen)
    assert found([CLIENT, STRANGE, COOKIE, BASIC, REDIS], heads) == {}
    assert UPSTREAM in heads


async def test_names_that_nobody_configured_make_no_metrics(serve: Serve, upstream: FakeServer) -> None:
    """LiteLLM #35666: scanned paths and mistyped models grew /metrics without bound."""
    key = "tt-of-the-metrics-test-0123456789"
    made = over(upstream)
    made["tenants"] = {"acme": {"keys": [hash_key(key)]}}
    async with serve(made) as running, aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:

        async def series() -> set[str]:
            async with session.get(f"{running.url}/metrics") as response:
                return {line.split(" ")[0] for line in (await response.text()).splitlines() if line[0] != "#"}

        async def wander(i: int) -> None:
            body = {"model": f"typo-{i}", "messages": [], "user": f"user-{i}"}
            async with session.post(f"{running.base_url}/chat/completions", json=body) as response:
                assert response.status == 404
            async with session.post(
                f"{running.base_url}/chat/completions", json={**body, "model": "m"}, headers={"x-request-id": f"r-{i}"}
            ) as response:
                assert response.status == 200
            for path in (f"v1/models/typo-{i}", f"wp-admin/{i}", f"v1/receipts/{i}"):
                async with session.get(f"{running.url}/{path}") as response:
                    assert response.status == 404
            async with session.put(f"{running.url}/v1/chat/completions", headers={"x": str(i)}) as response:
                assert response.status == 405

        await wander(-1)
        await running.settled()
        before = await series()
        for i in range(200):
            await wander(i)
        await running.settled()
        assert await series() == before
        assert await kept(running) < 50, "what the gateway remembers of each stranger"


async def kept(running: Running) -> int:
    """How much larger the largest of the gateway's own tables is than its configuration."""
    gateway = running.gateway
    return max(len(gateway._working), len(gateway._backends), len(gateway._retired))
