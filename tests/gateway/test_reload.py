"""Reloads in a simulated second hand: a good file is taken, a bad or half-written one changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from trimtab.gateway.config import Config
from trimtab.gateway.config_file import load_config
from trimtab.gateway.reload import ConfigWatcher, needs_restart


def text(*names: str) -> str:
    return "models:\n" + "".join(f"  {name}: {{backend: fake}}\n" for name in names)


class Seconds:
    """A sleep that ends when the test says that a second has gone by."""

    def __init__(self) -> None:
        self._ticks: asyncio.Queue[None] = asyncio.Queue()
        self.waiting = asyncio.Event()

    async def sleep(self, _: float) -> None:
        self.waiting.set()
        await self._ticks.get()

    async def tick(self, count: int = 1) -> None:
        for _ in range(count):
            await asyncio.wait_for(self.waiting.wait(), 5)
            self.waiting.clear()
            self._ticks.put_nowait(None)
            await asyncio.wait_for(self.waiting.wait(), 5)  # asleep again: whatever the second brought is done


class Bench:
    """A watcher under test, what it applied, and what it said of each reload."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = Seconds()
        self.applied: list[list[str]] = []
        self.outcomes: list[str | None] = []
        self.refuse: Exception | None = None
        self.watcher = ConfigWatcher(
            path, self._apply, self.outcomes.append, load=lambda p: load_config(p, {}), sleep=self.seconds.sleep
        )

    async def _apply(self, config: Config) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        self.applied.append(list(config.models))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    path = tmp_path / "c.yaml"
    path.write_text(text("a"))
    made = Bench(path)
    running = asyncio.ensure_future(made.watcher.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_nothing_changes_nothing(bench: Bench) -> None:
    await bench.seconds.tick(3)
    assert (bench.applied, bench.outcomes) == ([], [])


async def test_a_changed_file_is_taken_once_it_has_settled(bench: Bench) -> None:
    bench.path.write_text(text("a", "b"))
    await bench.seconds.tick()
    assert bench.applied == []
    await bench.seconds.tick()
    assert bench.applied == [["a", "b"]]
    await bench.seconds.tick(3)
    assert bench.applied == [["a", "b"]]


async def test_a_file_being_written_is_left_alone(bench: Bench) -> None:
    whole = text("a", "b", "c")
    for end in range(20, len(whole), 15):
        bench.path.write_text(whole[:end])
        await bench.seconds.tick()
    assert (bench.applied, bench.outcomes) == ([], [])
    bench.path.write_text(whole)
    await bench.seconds.tick(2)
    assert (bench.applied, bench.outcomes) == ([["a", "b", "c"]], [None])


async def test_a_file_put_in_its_place_is_seen_even_if_it_looks_the_same(bench: Bench) -> None:
    other = bench.path.with_name("other.yaml")
    other.write_text(text("z"))
    before = bench.path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(bench.path)
    await bench.seconds.tick(2)
    assert bench.applied == [["z"]]


async def test_an_invalid_file_changes_nothing_and_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "trimtab.config")
    bench.path.write_text("models:\n  a: {backend: fake, oops: 1}\n")
    await bench.seconds.tick(2)
    assert bench.applied == []
    assert bench.watcher.last_error is not None
    assert "c.yaml:2:22: models.a.oops: unknown key" in bench.watcher.last_error
    assert bench.outcomes == [bench.watcher.last_error]
    assert "the old configuration goes on serving" in caplog.text
    await bench.seconds.tick(3)
    assert len(bench.outcomes) == 1  # said once, not every second
    bench.path.write_text(text("b"))
    await bench.seconds.tick(2)
    assert bench.applied == [["b"]]
    assert bench.watcher.last_error is None


async def test_a_file_that_is_gone_is_a_fault_until_it_is_back(bench: Bench) -> None:
    bench.path.unlink()
    await bench.seconds.tick(2)
    assert bench.watcher.last_error is not None
    assert "No such file" in bench.watcher.last_error
    bench.path.write_text(text("a"))
    await bench.seconds.tick(2)
    assert (bench.applied, bench.watcher.last_error) == ([["a"]], None)


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.001)


async def test_a_request_is_served_at_once_changed_or_not(bench: Bench) -> None:
    await bench.seconds.waiting.wait()
    bench.watcher.request()
    await _until(lambda: bench.applied == [["a"]])
    bench.watcher.request()
    await _until(lambda: bench.applied == [["a"], ["a"]])


async def test_a_configuration_that_cannot_be_applied_changes_nothing(bench: Bench) -> None:
    bench.refuse = RuntimeError("no such weights")
    assert await bench.watcher.reload() is False
    assert bench.watcher.last_error == f"{bench.path}: cannot be served: no such weights"
    bench.refuse = None
    assert await bench.watcher.reload() is True
    assert bench.outcomes == [f"{bench.path}: cannot be served: no such weights", None]


async def test_the_door_is_not_opened_by_a_reload(tmp_path: Path) -> None:
    """The file says loopback, the command line said otherwise, and then the keys are taken out of the file."""
    path = tmp_path / "c.yaml"
    path.write_text(text("a") + "tenants: {local: {}}\n")
    applied: list[Config] = []
    watcher = ConfigWatcher(path, applied.append, host="0.0.0.0", load=lambda p: load_config(p, {}))
    assert await watcher.reload() is False
    assert applied == []
    assert "has no keys" in (watcher.last_error or "")


async def test_what_waits_for_a_restart_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "trimtab.config")
    path = tmp_path / "c.yaml"
    path.write_text(text("a"))
    old = load_config(path, {})
    applied: list[Config] = []
    watcher = ConfigWatcher(path, applied.append, current=old, load=lambda p: load_config(p, {}))
    assert await watcher.reload()
    assert caplog.text == ""
    path.write_text(text("a") + "server: {port: 4001, max_body_mb: 1}\nledger: {path: /tmp/other.db}\n")
    assert await watcher.reload()
    assert "taken up at the next start: server.port, ledger.path" in caplog.text
    assert needs_restart(old, applied[-1]) == ["server.port", "ledger.path"]
