"""A configuration that changes under load: nobody notices but those it concerns."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import KEY, OTHER_KEY, over

from trimtab.backends.fake_server import FakeServer

ASK: list[Any] = [{"role": "user", "content": "hi"}]


def write(path: Path, config: Any) -> None:
    """As an editor or a mounted ConfigMap does it: another file in the place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(config if isinstance(config, str) else json.dumps(config))
    os.replace(fresh, path)


class Client:
    def __init__(self, served: Any, session: aiohttp.ClientSession) -> None:
        self.served = served
        self.session = session

    async def ask(self, model: str = "m", key: str = KEY) -> int:
        body = {"model": model, "messages": ASK}
        headers = {"authorization": f"Bearer {key}"}
        async with self.session.post(
            f"{self.served.base_url}/chat/completions", json=body, headers=headers
        ) as response:
            await response.read()
            return response.status

    async def ready(self) -> tuple[int, dict[str, Any]]:
        async with self.session.get(f"{self.served.url}/health/readiness") as response:
            return response.status, await response.json()

    async def reloads(self) -> Counter[str]:
        async with self.session.get(f"{self.served.url}/metrics") as response:
            text = await response.text()
        lines = [line for line in text.splitlines() if line.startswith("trimtab_config_reloads_total")]
        return Counter({line.split('"')[1]: int(float(line.split()[-1])) for line in lines})

    async def until(self, result: str, count: int) -> None:
        async with asyncio.timeout(8):
            while (await self.reloads())[result] < count:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", ["signal", "watch"])
async def test_a_model_comes_a_key_goes_and_a_bad_file_changes_nothing(
    process: Any, upstream: FakeServer, way: str
) -> None:
    config = over(upstream)
    async with process(config) as served, aiohttp.ClientSession() as session:
        client = Client(served, session)

        async def reload(written: Any, result: str) -> None:
            before = (await client.reloads())[result]
            write(served.config, written)
            if way == "signal":
                served.signal(signal.SIGHUP)
            await client.until(result, before + 1)

        assert await client.ask("fresh") == 404
        changed = copy.deepcopy(config)
        changed["models"]["fresh"] = changed["models"]["m"]
        await reload(changed, "applied")
        assert await client.ask("fresh") == 200

        del changed["tenants"]["zenith"]
        assert await client.ask(key=OTHER_KEY) == 200
        await reload(changed, "applied")
        assert await client.ask(key=OTHER_KEY) == 401
        assert await client.ask() == 200

        wrongs: list[Any] = ["models: [", "", {**changed, "nonsense": 1}]
        for wrong in wrongs if way == "signal" else wrongs[-1:]:  # what is wrong is the same to both, and a watch waits
            await reload(wrong, "failed")
            assert await client.ask("fresh") == 200
        status, report = await client.ready()
        assert status == 200
        assert any("configuration" in reason for reason in report["degraded"])
        assert any("nonsense" in line for line in served.log)

        await reload(config, "applied")
        assert (await client.ready())[1]["degraded"] == []
        assert await client.ask("fresh") == 404


async def test_a_stream_outlives_the_model_and_the_key_it_began_with(process: Any, upstream: FakeServer) -> None:
    upstream.use({"tokens": 30, "between_s": 0.05})
    config = over(upstream, "m", "other")
    async with process(config) as served, aiohttp.ClientSession() as session:
        client = Client(served, session)
        body = {"model": "m", "messages": ASK, "stream": True}
        async with session.post(
            f"{served.base_url}/chat/completions", json=body, headers={"authorization": f"Bearer {OTHER_KEY}"}
        ) as response:
            text = (await response.content.readany()).decode()
            changed = copy.deepcopy(config)
            del changed["models"]["m"]
            del changed["tenants"]["zenith"]
            write(served.config, changed)
            served.signal(signal.SIGHUP)
            await client.until("applied", 1)
            assert await client.ask("m") == 404
            text += await response.text()
        assert text.endswith("[DONE]\n\n")
        assert upstream.records[0].outcome == "completed"


async def test_fifty_reloads_under_load_fail_nobody(process: Any, upstream: FakeServer) -> None:
    config = over(upstream)
    async with process(config) as served, aiohttp.ClientSession() as session:
        client = Client(served, session)
        answers: Counter[int] = Counter()
        stop = False

        async def load() -> None:
            while not stop:
                answers[await client.ask()] += 1

        loading = [asyncio.ensure_future(load()) for _ in range(8)]
        for i in range(50):
            changed = copy.deepcopy(config)
            changed["models"]["m"]["timeouts"] = {"idle_s": 10 + i}
            changed["models"][f"extra-{i}"] = changed["models"]["m"]
            write(served.config, changed)
            served.signal(signal.SIGHUP)
            await client.until("applied", i + 1)
        stop = True
        await asyncio.gather(*loading)
        assert set(answers) == {200}
        assert answers[200] > 100
