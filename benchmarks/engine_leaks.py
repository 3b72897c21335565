"""Thousands of answers of the bundled engine that their clients leave at random moments; then nothing may be left over.

    python benchmarks/engine_leaks.py [WEIGHTS] [--requests 3000] [--json OUT] [--quick] [--seed N]

Clients leave before the model has read the prompt, between two pieces of text, or not at all; some ask for several
answers, a form, or share a beginning with others. Pages, tasks, threads, open files and memory are counted after some
of them, and at the end; `n` is how many left in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Report, Row, arguments, at_most
from rich.progress import Progress

from trimtab.backends.base import Call, Timeouts
from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.weights import DEFAULT
from trimtab.protocol.messages import Request

TOGETHER = 24  # clients at a time; 16 answers run, so some leave while they wait
PAGE = os.sysconf("SC_PAGE_SIZE")
WARM_UP = 200  # visits before anything is counted: every page has been used once, every cache is built
MEMORY_BAR_MB = 16.0


@dataclass(frozen=True)
class Count:
    """What there is of everything that could leak."""

    used_pages: int
    lost_pages: int
    queued: int
    tasks: int
    threads: int
    files: int
    rss_mb: float


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("weights", nargs="?", default=DEFAULT)
    parser.add_argument("--requests", type=int, default=3_000, help="of which about two thirds leave")
    options = parser.parse_args()
    requests = 100 if options.quick else options.requests
    before, after, left = asyncio.run(run(options.weights, requests, options.seed))
    rows = [
        at_most("leaked_pages", after.used_pages + after.lost_pages, 0, n=left),
        at_most("leaked_answers", after.queued, 0, n=left),
        at_most("leaked_tasks", after.tasks - before.tasks, 0, n=left),
        at_most("leaked_threads", max(0, after.threads - before.threads), 0, n=left),
        at_most("leaked_files", max(0, after.files - before.files), 0, n=left),
        at_most("memory_growth_mb", max(0.0, after.rss_mb - before.rss_mb), MEMORY_BAR_MB, unit="MB", n=left),
        Row("rss_mb", after.rss_mb, "MB", left),
    ]
    Report("engine_leaks", rows, options.seed).publish(options.json)


async def run(weights: str, requests: int, seed: int) -> tuple[Count, Count, int]:
    """What was there early and at the end, and how many clients left in between."""
    chance, left = random.Random(seed), [0]
    backend = EngineBackend(weights, threads=1, kv_mb=128)
    await backend.start()
    while not backend.ready():
        await asyncio.sleep(0.05)
    memory = backend._loop.loaded.engine._memory
    for part in (memory.keys, memory.values):
        part.zero_()  # the system gives it as it is used: now, before anything is counted
    with Progress() as progress:
        bar = progress.add_task("answers", total=WARM_UP + requests)
        await visits(backend, WARM_UP, chance, [0], lambda: progress.advance(bar))
        before = await counted(backend)
        await visits(backend, requests, chance, left, lambda: progress.advance(bar))
        after = await counted(backend)
    await backend.close()
    return before, after, left[0]


async def visits(backend: EngineBackend, count: int, chance: random.Random, left: list[int], done: Any) -> None:
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            gone = await visit(backend, call(chance, number), chance)
            left[0] += gone
            done()

    async with asyncio.TaskGroup() as group:
        for _ in range(TOGETHER):
            group.create_task(client())


async def visit(backend: EngineBackend, asked: Call, chance: random.Random) -> bool:
    """Whether the client left before the answer was whole."""
    stream = await backend.stream(asked)
    kind = chance.random()
    if kind < 0.3:  # while it waits, or is read
        await asyncio.sleep(chance.expovariate(20))
        await stream.aclose()
        return True
    most = 1 << 30 if kind > 0.8 else chance.randint(1, 12)
    try:
        async for _ in stream:
            most -= 1
            if most == 0:
                return True
    finally:
        await stream.aclose()
    return False


def call(chance: random.Random, number: int) -> Call:
    text = "Tell me about the sea. " * chance.randint(0, 8) + f"And about number {chance.randrange(50)}."
    fields: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
    fields |= {"max_tokens": chance.randint(1, 16), "n": chance.choice((1, 1, 1, 3)), "seed": number}
    if chance.random() < 0.1:
        fields["response_format"] = {"type": "json_object"}
    tenant = chance.choice(("one", "two"))
    return Call("chat", Request.build("chat", fields), f"leak-{number}", tenant, timeouts=Timeouts(600, 600, 600, 600))


async def counted(backend: EngineBackend) -> Count:
    """Counted when the engine has come to rest."""
    loaded = backend._loop.loaded
    assert loaded is not None
    engine, until = loaded.engine, time.monotonic() + 30
    while engine.busy and time.monotonic() < until:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # what glibc keeps of freed memory is not leaked
        ctypes.CDLL(None).malloc_trim(0)
    pool = engine.pool
    return Count(
        pool.used,
        pool.total - pool.free - pool.cached - pool.used,
        len(engine.running) + len(engine.waiting),
        len(asyncio.all_tasks()),
        threading.active_count(),
        len(list(Path("/proc/self/fd").iterdir())),
        int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20,
    )


if __name__ == "__main__":
    main()
