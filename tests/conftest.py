"""A real gateway on a loopback port, inside the test's own event loop, for tests that are clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import PromptServer, Running, Serve
from hypothesis import settings

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config
from trimtab.gateway.live import Gateway
from trimtab.gateway.server import bind, build, uvicorn_config

if TYPE_CHECKING:
    from valkeys import Valkey

# Triton decides when it is first imported whether it interprets kernels; without a GPU it can do nothing else.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# As backends/engine/backend.py does: with other tests on the same cores, torch's threads must not spin their time away.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# How long an example takes is the machine's affair: a pause of its own must fail no test.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    """What importing and collecting have made stays to the end: no collection of garbage needs to walk through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`async with serve({...configuration...}) as running`. The ledger and the port are the fixture's."""

    @contextlib.asynccontextmanager
    async def start(config: Mapping[str, Any]) -> AsyncIterator[Running]:
        written = {"ledger": {"path": str(tmp_path / "ledger.db")}, **config}
        written["server"] = {"port": 0, **written.get("server", {})}
        made = Config.model_validate(written, context={"environ": {}})
        gateway = build(made)
        sock = bind("127.0.0.1", 0)
        await gateway.start()
        await _warm(gateway, made)
        server = PromptServer(uvicorn_config(gateway, made))
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield Running(gateway, sock.getsockname()[1])
        finally:
            gateway.cut()
            server.end()
            await serving
            await gateway.close()
            sock.close()

    return start


async def _warm(gateway: Gateway, config: Config) -> None:
    """Who gives the router all the time there is tests what it decides, and not how soon an embedder is loaded."""
    patient = any(tenant.policy.route.deadline_ms == 5_000 for tenant in config.tenants.values())
    if patient and gateway.routing.embedder is not None:
        await gateway.routing.embedder.embed(["warm"], tenant="nobody")


@pytest.fixture
async def upstream() -> AsyncIterator[FakeServer]:
    """A scripted OpenAI-compatible server on a real socket; `upstream.use({...})` changes its script."""
    async with FakeServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    from valkeys import Valkey

    server = Valkey(**{"enable-debug-command": "local"}).start()
    yield server
    server.remove()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The session's server, emptied."""
    valkey_server.say("FLUSHALL")
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server of the test's own, to be killed, frozen and filled."""
    from valkeys import Valkey

    server = Valkey(tcp=True, **{"enable-debug-command": "local"}).start()
    yield server
    server.remove()
