"""How long a look-up takes and what an entry takes up, with a thousand, a hundred thousand and a million of them.

    python benchmarks/cache_lookup.py [--json OUT] [--quick] [--million] [--seed N]

Exact look-ups in the store of this process and in a Valkey, over a unix socket and over TCP; then look-ups by meaning,
the embedding of the question included. Each store and size has a process of its own, so that its memory is its own. An
answer has about 1.1 KB.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from cache_house import Valkey, alone, no_store, note, valkey
from report import Row, at_most

from trimtab.cache.entry import Entry
from trimtab.cache.key import Place, Scope, place
from trimtab.cache.store import Change, Store
from trimtab.protocol.messages import Request, Usage

SECRET = b"s" * 32
SCOPE = Scope("acme", b"epoch")
PARTITION, FAMILY = b"p" * 32, b"f" * 32
LOOKED_UP = 5_000
ASKED = ("please explain how do", "can you say how do")
NAMES = {1_000: "1k", 10_000: "10k", 100_000: "100k", 1_000_000: "1m"}
ROOM = {1_000: 1, 10_000: 1, 100_000: 2, 1_000_000: 8}  # GB that must be free
BODY = json.dumps(
    {"id": "chatcmpl-1", "choices": [{"message": {"content": "word " * 180}, "finish_reason": "stop"}]}
).encode()
PAGE = os.sysconf("SC_PAGE_SIZE")
_WORDS = Path(__file__).read_text().split('"""')[1].split()


def rows(options: Any) -> list[Row]:
    """`options` has `quick` and `seed`, and perhaps `million`: with it, a million entries are looked at, too."""
    million = getattr(options, "million", False)
    sizes = [1_000, 10_000] if options.quick else [1_000, 100_000, *([1_000_000] if million else [])]
    found: list[Row] = []
    missing = no_store()
    for size in sizes:
        if _free_gb() < ROOM[size]:
            note(options, f"no rows with {NAMES[size]} entries: less than {ROOM[size]} GB of memory is free")
            continue
        found += _exact(_child("memory", size, options.seed), "memory", size)
        if missing is None and size <= 100_000:
            found += _exact(_child("unix", size, options.seed), "unix", size)
            found += _exact(_child("tcp", size, options.seed), "tcp", size)
        found += semantic(options, size)
    if missing is not None:
        note(options, missing)
    if not million:
        note(options, "a million entries are looked at with --million")
    return found


def semantic(options: Any, size: int) -> list[Row]:
    """A question in other words: embedding, the nearest of one family, vetoes, the verifier, the entry."""
    told = _child("semantic", size, options.seed)
    if "missing" in told:
        note(options, f"no rows about look-ups by meaning: {told['missing']}")
        return []
    name, n = NAMES[size], told["n"]
    p99 = f"lookup_p99_ms_{name}"
    return [
        at_most(p99, told["p99_ms"], 20.0, unit="ms", n=n)
        if size == 100_000
        else Row(p99, told["p99_ms"], unit="ms", n=n),
        Row(f"lookup_p50_ms_{name}", told["p50_ms"], unit="ms", n=n),
        Row(f"lookup_found_{name}", told["found"], unit="share", n=n),
        Row(f"nearest_p50_ms_{name}", told["nearest_p50_ms"], unit="ms", n=n),
        Row(f"nearest_p99_ms_{name}", told["nearest_p99_ms"], unit="ms", n=n),
        Row(f"index_bytes_per_entry_{name}", told["bytes"], unit="bytes", n=size),
    ]


def _exact(told: dict[str, Any], kind: str, size: int) -> list[Row]:
    name = f"{kind}_{NAMES[size]}"
    return [
        Row(f"get_p50_us_{name}", told["p50_ms"] * 1000, unit="us", n=told["n"]),
        Row(f"get_p99_us_{name}", told["p99_ms"] * 1000, unit="us", n=told["n"]),
        Row(f"absent_p50_us_{name}", told["absent_p50_ms"] * 1000, unit="us", n=told["n"]),
        Row(f"entry_bytes_{name}", told["bytes"], unit="bytes", n=size),
        Row(f"entry_size_{name}", told["size"], unit="bytes", n=size),
        at_most(f"get_wrong_{name}", told["wrong"], 0, n=told["n"]),
    ]


def _child(kind: str, size: int, seed: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", kind, str(size), "--seed", str(seed)]
    told: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return told


# In a process of its own.


def entry(n: int) -> tuple[Place, Entry]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"question {n}"}], "temperature": 0}
    at = place(SECRET, SCOPE, Request.build("chat", body))
    now = time.time()
    # A body of its own for each, as from an upstream.
    text = BODY.replace(b"chatcmpl-1", b"chatcmpl-%d" % n)
    used = Usage(prompt=200, completion=180)
    return at, Entry(at.id, "acme", "", at.partition, at.key, "chat", "m", "m", "whole", text, now, now + 3600, used)


async def exact(kind: str, size: int, seed: int) -> dict[str, Any]:
    """Fill a store, then look up some that are there and some that are not."""
    pick = random.Random(seed)
    async with _store(kind) as (store, occupied):
        before = occupied()
        places: list[Place] = []
        total = 0
        wanted = set(pick.sample(range(size), min(size, LOOKED_UP)))
        for n in range(size):
            at, made = entry(n)
            store.put(made, 1 << 40)
            total += made.size
            if n in wanted:
                places.append(at)
            if n % 500 == 499:
                await _drained(store)
        await _drained(store)
        gc.collect()
        bytes_each = (occupied() - before) / size
        absent = [entry(size + n)[0] for n in range(500)]
        pick.shuffle(places)
        times, found = await _timed(store.get, places)
        gone, none = await _timed(store.get, absent)
    right = sum(one is not None and one.belongs(at) for one, at in zip(found, places, strict=True))
    wrong = len(places) - right + sum(one is not None for one in none)
    told = {"p50_ms": _at(times, 0.5), "p99_ms": _at(times, 0.99), "absent_p50_ms": _at(gone, 0.5)}
    return {**told, "n": len(places), "bytes": bytes_each, "size": total / size, "wrong": wrong}


async def _timed(get: Callable[[Place], Awaitable[Entry | None]], places: list[Place]) -> tuple[list[float], list[Any]]:
    times, found = [], []
    for at in places:
        begun = time.perf_counter()
        found.append(await get(at))
        times.append((time.perf_counter() - begun) * 1000)
    return times, found


@contextlib.asynccontextmanager
async def _store(kind: str) -> AsyncIterator[tuple[Store, Callable[[], int]]]:
    """An empty store, and what says how many bytes it occupies."""
    if kind == "memory":
        from trimtab.cache.store_memory import MemoryStore

        yield MemoryStore(), resident
        return
    from trimtab.cache.store_redis import RedisStore

    with valkey(tcp=kind == "tcp") as server:
        store = RedisStore(server.url if kind == "unix" else server.tcp_url, SECRET, timeout=1.0)
        await store.start(lambda change: None)
        try:
            yield store, lambda: _used(server)
        finally:
            await store.close()


async def _drained(store: Store) -> None:
    drain = getattr(store, "drain", None)
    if drain is not None and not await drain(30):
        raise RuntimeError("the store does not take what it is given")


def _used(server: Valkey) -> int:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
        line.connect(str(server.socket))
        line.sendall(b"INFO memory\r\n")
        told = line.recv(65536).decode()
    return int(told.split("used_memory:")[1].split("\r\n")[0])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _at(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


async def meaning(size: int, seed: int) -> dict[str, Any]:
    """The whole of `SemanticTier.look` over one family of `size` questions, in which every asked one has kin."""
    try:
        parts = await _tier(size, seed)
    except ImportError as e:
        return {"missing": str(e)}
    look, nearest, asked, bytes_each, close = parts
    times, near, outcomes = [], [], []
    for question in asked:
        begun = time.perf_counter()
        outcomes.append(await look(question))
        times.append((time.perf_counter() - begun) * 1000)
        near.append(nearest())
    await close()
    found = sum(outcome in ("near", "semantic-hit") for outcome in outcomes) / len(outcomes)
    told = {"p50_ms": _at(times, 0.5), "p99_ms": _at(times, 0.99)}
    told |= {"nearest_p50_ms": _at(near, 0.5), "nearest_p99_ms": _at(near, 0.99)}
    return {**told, "n": len(asked), "found": found, "bytes": bytes_each}


async def _tier(size: int, seed: int) -> Any:
    """The tier, filled. Kept questions are a few hundred embedded ones, and neighbours of them by small steps, since to
    embed so many would take longer than all the rest."""
    import numpy as np

    from trimtab.backends.embed import EmbedOptions, open_embedder
    from trimtab.backends.registry import MissingExtra, open_pair_scorer
    from trimtab.cache.evidence import Ledger
    from trimtab.cache.policy import CachePolicy, SemanticPolicy
    from trimtab.cache.semantic import SemanticTier
    from trimtab.cache.store_memory import MemoryStore
    from trimtab.cache.verifier import CalibratedVerifier, shipped
    from trimtab.cache.vetoes import load
    from trimtab.cache.wishes import NONE

    try:
        embedder, scorer = open_embedder(EmbedOptions()), open_pair_scorer()
    except MissingExtra as e:
        raise ImportError(str(e)) from e
    await embedder.start()
    await scorer.start()
    load()
    pick, chance = random.Random(seed), np.random.default_rng(seed)
    bases = [f"how do {' '.join(pick.sample(_WORDS, 8))} work" for _ in range(min(size, 400))]
    known = await embedder.embed(bases)
    store = MemoryStore()
    asker: Any = None  # nothing is audited: a candidate is only looked at
    tier: Any = SemanticTier(store, Ledger(shipped().prior, time.time), CalibratedVerifier(scorer), asker)
    tier.embedder = embedder
    await store.start(lambda change: None)
    kept = [
        _question(n, bases[n % len(bases)], _vector(known[n % len(bases)], n >= len(bases), chance))
        for n in range(size)
    ]
    gc.collect()
    before = resident()
    for made in kept:
        tier.heard(Change("put", "acme", made.id, made))
    bytes_each = (resident() - before) / size
    for made in kept:
        store.put(made, 1 << 40)
    policy = CachePolicy(semantic=SemanticPolicy(enabled=True, deadline_ms=2_000))
    last: list[Any] = [None]

    async def look(question: str) -> str:
        at = Place(SCOPE, PARTITION, b"k" * 32, FAMILY, question)
        finding = await tier.look(_Exchange(), at, policy, NONE)
        last[0] = np.frombuffer(finding.vector, np.float16).astype(np.float32)
        return str(finding.outcome)

    def nearest() -> float:
        begun = time.perf_counter()
        tier._index.nearest(FAMILY, last[0], 4, 0.6)
        return (time.perf_counter() - begun) * 1000

    async def close() -> None:
        await embedder.close()
        await scorer.close()
        await store.close()

    await look("a first question that loads what is loaded late")
    # None is asked twice: its vector would be remembered.
    asked = [f"{start} {base[7:]} once" for start in ASKED[: 1 if size < 50_000 else 2] for base in bases]
    return look, nearest, pick.sample(asked, len(asked)), bytes_each, close


def _vector(of: Any, near: bool, chance: Any) -> bytes:
    """The vector itself, or one at a cosine of about 0.93 from it."""
    import numpy as np

    moved = of + chance.standard_normal(len(of), np.float32) * 0.02 * near
    return bytes((moved / np.linalg.norm(moved)).astype(np.float16).tobytes())


def _question(n: int, question: str, vector: bytes) -> Entry:
    now = time.time()
    return Entry(
        id=f"{n:024x}",
        tenant="acme",
        namespace="",
        partition=PARTITION,
        key=b"%032d" % n,
        kind="chat",
        model="m",
        target="m",
        form="whole",
        body=BODY,
        made=now,
        expires=now + 3600,
        family=FAMILY,
        question=f"Tell me {question}",
        vector=vector,
    )


class _Exchange:
    """As much of one as a look-up reads."""

    class tenant:
        name = "acme"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}


def _one(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    kind, size = asked.one[0], int(asked.one[1])
    print(json.dumps(uvloop.run(meaning(size, asked.seed) if kind == "semantic" else exact(kind, size, asked.seed))))


def _free_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 1e6


def main() -> int:
    if "--one" in sys.argv:
        _one(sys.argv[1:])
        return 0
    return alone(
        "cache_lookup",
        __doc__,
        rows,
        ("--million", {"action": "store_true", "help": "a million entries, too: minutes"}),
    )


if __name__ == "__main__":
    sys.exit(main())
