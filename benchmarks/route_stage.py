"""What the `plan` and `route` stages add to a request beside its embedding, in a gateway as it is served.

Walks whole exchanges of a tenant with a share to keep, each prompt once and embedded beforehand. Time is the thread's
own: what else runs on the machine is not the stages'.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.backends.embed import Embedder
from trimtab.gateway.config import Config
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.live import Gateway
from trimtab.protocol.embedded import asked, embed_once
from trimtab.protocol.messages import Request, Usage

STAGES = ("plan", "route")


def config(ledger: Path) -> Config:
    fake = {"backend": "fake", "price": {"input": 1, "output": 4}}
    written: dict[str, Any] = {
        "models": {"small": fake, "large": {**fake, "price": {"input": 10, "output": 40}}},
        "routes": {"auto": {"small": "small", "large": "large"}},
        "tenants": {"acme": {"policy": {"cache": {"exact": False}, "route": {"large_share": 0.3}}}},
        "ledger": {"path": str(ledger)},
    }
    return Config.model_validate(written, context={"environ": {}})


def stage_times(prompts: Sequence[str], warm: int = 100) -> list[float]:
    """Milliseconds of the two stages for each prompt but the first `warm`."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_times(prompts, config(Path(folder) / "ledger.db")))[warm:]


async def _times(prompts: Sequence[str], made: Config) -> list[float]:
    gateway = Gateway(made, Ledger(made.ledger.path), LocalLimiter())
    await gateway.start()
    embedder = gateway.live.pruning.embedder
    assert embedder is not None
    try:
        return [await _one(gateway, embedder, prompt) for prompt in prompts]
    finally:
        await gateway.close()


async def _one(gateway: Gateway, embedder: Embedder, prompt: str) -> float:
    live = gateway.live
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "temperature": 1}
    request = Request.parse("chat", json.dumps(body).encode())
    exchange = gateway.exchange(gateway.new_id(), request, live.authenticate([]), [], time.monotonic())
    await live.admit(exchange)
    await embed_once(exchange, embedder, asked(request) or "")
    stages = [stage for stage in live.pipeline.stages if stage.name in STAGES]
    began = time.thread_time()
    for stage in stages:
        await stage(exchange)
    taken = (time.thread_time() - began) * 1_000
    exchange.receipt.target, exchange.spent = exchange.targets[0].name, Usage(200, 50)
    gateway.settle(exchange, live, "ok", 200)
    return taken


def p99(prompts: Sequence[str]) -> float:
    return float(np.quantile(stage_times(prompts), 0.99))
