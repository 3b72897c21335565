"""One tenant at a gateway whose route has two scripted models, as tests of the router need it."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from harness import KEY, Running, over

from trimtab.backends.fake_server import FakeServer

SMALL_PRICE = {"input": 0.1, "cached_input": 0.05, "output": 0.4}
PATIENT = {"deadline_ms": 5_000}  # the machine may be busy; what is tested is what is decided


def problem(number: int) -> str:
    """A word problem as the calibration knows them; each number another one."""
    who, what = ("Maria", "Lena", "Tom", "Ada")[number % 4], ("apples", "pens", "coins")[number % 3]
    return (
        f"{who} has {number + 3} {what}. She buys {number % 7 + 2} more bags with {number % 5 + 4} {what} each and "
        f"gives half of all her {what} to her brother. How many {what} does she have left?"
    )


def routed(upstream: FakeServer, **route: Any) -> dict[str, Any]:
    config = over(upstream, "small", "large", "spare")
    config["models"]["small"]["price"] = SMALL_PRICE
    config["routes"] = {"auto": {"small": "small", "large": "large"}}
    scores = {"floor", "large_share", "usd_per_day", "value"} & route.keys()
    config["tenants"]["acme"]["policy"] = {"route": {**(PATIENT if scores else {}), **route}}
    config["tenants"]["zenith"]["policy"] = {"route": {**(PATIENT if scores else {}), **route}}
    return config


def say(upstream: FakeServer, small: str = "12", large: str = "12", **more: Any) -> None:
    upstream.use({"models": {"small": {"text": small}, "large": {"text": large}, **more}})


class Desk:
    """One tenant's requests to one gateway."""

    def __init__(self, running: Running, session: aiohttp.ClientSession, key: str = KEY) -> None:
        self.running, self._session = running, session
        self.head = {"authorization": f"Bearer {key}"}

    async def ask(
        self,
        question: str | list[dict[str, Any]],
        status: int = 200,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> str:
        """Who answered; with a temperature, so that nothing is cached."""
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        body = {"model": "auto", "messages": messages, "temperature": 1, **fields}
        url = f"{self.running.base_url}/chat/completions"
        async with self._session.post(url, json=body, headers={**self.head, **(headers or {})}) as response:
            text = await response.read()
            assert response.status == status, text
            self.last, self.text = response.headers, text.decode()
        return self.last["x-trimtab-model"]

    async def receipt(self) -> dict[str, Any]:
        await self.running.settled()
        url = f"{self.running.base_url}/receipts/{self.last['x-request-id']}"
        async with self._session.get(url, headers=self.head) as response:
            return dict(await response.json())

    async def line(self) -> dict[str, Any]:
        return next(line for line in (await self.receipt())["lines"] if line["stage"] == "route")

    async def word(self, verdict: str | None, **more: Any) -> tuple[int, dict[str, Any]]:
        await self.running.settled()
        said = {"request_id": self.last["x-request-id"], **({} if verdict is None else {"verdict": verdict}), **more}
        async with self._session.post(f"{self.running.base_url}/feedback", json=said, headers=self.head) as response:
            return response.status, await response.json()

    async def metrics(self) -> str:
        async with self._session.get(f"{self.running.url}/metrics") as response:
            return await response.text()


async def prove(desk: Desk, count: int = 80, first: int = 0) -> None:
    """So many different requests, each answered by both models."""
    for at in range(first, first + count):
        await desk.ask(problem(at))
    await desk.running.idle()


def calls(upstream: FakeServer, model: str) -> int:
    return sum(json.loads(seen.body)["model"] == model for seen in upstream.seen)
