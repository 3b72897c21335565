"""Whose answer does a client get? Thousands of requests over real sockets, each answer marked with whose it is.

    python benchmarks/cache_isolation.py [--json OUT] [--quick] [--seed N]

First every field of a request is flipped, one at a time, for several tenants: `cross_hits` counts answers that were
made for another tenant or for another request. Then 10,000 mixed requests, plain and streamed, repeated, at the same
moment, left at random, answered badly, under policies that change: `foreign_canaries` counts answers that were not the
client's to get. That runs again over a shared store that is slow, and over one that dies and comes back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from cache_flips import BASES, flips
from cache_house import (
    PATHS,
    Client,
    Got,
    House,
    Marker,
    Valkey,
    alone,
    configuration,
    house,
    key_of,
    no_store,
    note,
    slow,
    valkey,
)
from cache_judge import LINGER, Judge, Visit
from report import Row, at_most

MODELS = ("m", "m2")
CLIENTS = 48
_encode = msgspec.json.Encoder().encode


def rows(options: Any) -> list[Row]:
    """All rows about whose answer is whose. `options` has `quick` and `seed`."""
    tenants, bases, mixed = (2, 1, 1_500) if options.quick else (4, 3, 10_000)
    found = [*flipped(options, tenants, bases)]
    found += mixture(options, "", mixed, options.seed)
    missing = no_store()
    if missing is not None:
        note(options, missing)
        return found
    with valkey() as server:
        found += flipped(options, 2, 1, server, "_store")
        found += mixture(options, "_slow_store", mixed, options.seed + 1, server)
        found += mixture(options, "_lost_store", mixed, options.seed + 2, server, lost=True)
    return found


def _show(options: Any, judge: Judge, what: str) -> None:
    for line in judge.odd[:10]:
        note(options, f"{what}: {line}")


# Every field, one at a time.


def flipped(options: Any, tenants: int, bases: int, server: Valkey | None = None, suffix: str = "") -> list[Row]:
    """`bases`: how many different conversations each tenant has of each kind."""
    with tempfile.TemporaryDirectory(prefix="trimtab-flips-") as folder:
        judge, hits, repeats = uvloop.run(_flipped(Path(folder), tenants, bases, server))
    _show(options, judge, f"cross_hits{suffix}")
    return [
        at_most(f"cross_hits{suffix}", len(judge.odd), 0, n=judge.judged),
        Row(f"flips_kept{suffix}", hits / repeats, unit="share", n=repeats),
    ]


async def _flipped(folder: Path, tenants: int, bases: int, server: Valkey | None) -> tuple[Judge, int, int]:
    """All of it three times over: the first time and again, plain and streamed, and again under another policy."""
    plan = [
        (tenant, kind, flip.body, flip.headers)
        for tenant in range(tenants)
        for base in range(bases)
        for kind, body in BASES.items()
        for flip in flips({**body, "x_base": base} if base else body)
    ]
    judge = Judge()
    hits = repeats = 0
    upstream = Marker()
    async with upstream:
        judge.ended = upstream.ended
        policies = [{"cache": {"when": "always"}}] * tenants
        redis = None if server is None else server.url
        async with house(configuration(folder, upstream, policies, MODELS, redis)) as place:
            serial = 0
            for epoch, times in ((0, 2), (1, 1)):
                if epoch:
                    changed = [{**policy, "compress": {"deadline_ms": 77}} for policy in policies]
                    await place.gateway.apply(configuration(folder, upstream, changed, MODELS, redis))
                for time_ in range(times):
                    visits = [
                        Visit(serial + n, tenant, kind, {**body, **_form(kind, (n + time_) % 2 == 1)}, dict(headers))
                        for n, (tenant, kind, body, headers) in enumerate(plan)
                    ]
                    serial += len(visits)
                    for visit in visits:
                        visit.epochs = epoch, epoch
                    caches = await _make(place, judge, visits)
                    if time_:
                        hits, repeats = caches.count("hit"), len(caches)
    return judge, hits, repeats


def _form(kind: str, stream: bool) -> dict[str, Any]:
    return {"stream": True} if stream and kind != "embeddings" else {}


async def _make(place: House, judge: Judge, visits: list[Visit]) -> list[str]:
    """Make the visits, a few at a time, in their order; what the gateway said of each."""
    caches: list[str] = []
    queue = iter(visits)

    async def work() -> None:
        client = Client(place.port)
        for visit in queue:
            got = await _visit(client, judge, visit)
            judge.see(visit, got)
            caches.append(got.cache)
        await client.leave()

    await asyncio.gather(*(work() for _ in range(8)))
    await place.rest()
    return caches


async def _visit(client: Client, judge: Judge, visit: Visit) -> Got:
    judge.expect(visit)
    visit.began = time.monotonic()
    headers = {"tracestate": f"canary={visit.mark}", **visit.headers}
    return await client.ask(PATHS[visit.kind], key_of(visit.tenant), _encode(visit.body), headers, visit.leave_s)


# Everything at once.

TENANTS = 5
PUBLIC = frozenset({"faq"})
SPOILT: tuple[dict[str, Any], ...] = (
    {"faults": {"status": 500}},
    {"faults": {"cut_after": 4}},
    {"faults": {"error_after": 3}},
    {"faults": {"garble": ["no_finish"]}},
    {"faults": {"garble": ["broken_json"]}},
    {"finish": "length"},
    {"finish": "content_filter"},
)


def policies(epoch: int) -> list[dict[str, Any]]:
    """Tenants 0 and 1 share a public namespace, 2 believes it does, 3 and 4 keep what is sampled."""
    caches: list[dict[str, Any]] = [
        {"public": ["faq"]},
        {"public": ["faq"]},
        {},
        {"when": "always"},
        {"when": "always"},
    ]
    return [{"cache": cache, "compress": {"deadline_ms": 100 + epoch}} for cache in caches]


def plan(count: int, seed: int) -> list[Visit]:
    """All visits in their order: who asks what, how, and who leaves when. A seed gives the same each time."""
    chance = random.Random(seed)
    visits: list[Visit] = []
    for serial in range(count):
        again = visits and chance.random() < 0.2  # the same as a moment ago: at the same moment, as like as not
        visits.append(_again(visits[-1], serial, chance) if again else _planned(serial, chance))
    return visits


def _planned(serial: int, chance: random.Random) -> Visit:
    tenant = chance.randrange(TENANTS)
    topic = serial // 400 * 10 + min(int(chance.expovariate(0.5)), 9)  # few are asked often, and they change slowly
    kind = chance.choices(list(PATHS), (90, 5, 5))[0]
    visit = Visit(serial, tenant, kind, _body(kind, topic, chance), always=tenant in (3, 4))
    visit.public = PUBLIC if tenant in (0, 1) else frozenset()
    return _fate(visit, chance)


def _body(kind: str, topic: int, chance: random.Random) -> dict[str, Any]:
    text = f"What is known about {topic}?"
    variant: dict[str, Any] = chance.choice(
        [{}, {}, {}, {"seed": 1}, {"user": "u"}, {"max_tokens": 99}, {"temperature": 1}, {"temperature": 0.0}]
    )
    wish: dict[str, Any] = chance.choices(
        [{}, {"namespace": "faq"}, {"namespace": "own"}, {"no-cache": True}, {"no-store": True}, {"s-maxage": 0}],
        (70, 15, 5, 4, 4, 2),
    )[0]
    cached = {"cache": wish} if wish else {}
    if kind == "embeddings":
        return {"model": "m", "input": text, **cached}
    asked = {"prompt": text} if kind == "completions" else {"messages": _messages(text, chance)}
    stream: dict[str, Any] = {"stream": True} if chance.random() < 0.5 else {}
    if stream and chance.random() < 0.5:
        stream["stream_options"] = {"include_usage": True}
    return {"model": "m", **asked, "temperature": 0, **variant, **stream, **cached}


def _messages(text: str, chance: random.Random) -> list[dict[str, Any]]:
    system = chance.choice(("Be short.", "Be kind."))
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def _fate(visit: Visit, chance: random.Random) -> Visit:
    if chance.random() < 0.08:
        visit.spoil = chance.choice(SPOILT)
    if chance.random() < 0.25:
        visit.leave_s = chance.uniform(0, 0.06)
    return visit


def _again(before: Visit, serial: int, chance: random.Random) -> Visit:
    body = dict(before.body)
    if before.kind != "embeddings" and chance.random() < 0.5:
        body["stream"] = not body.get("stream", False)
        body.pop("stream_options", None)
    tenant = before.tenant if chance.random() < 0.8 else chance.randrange(TENANTS)
    visit = Visit(serial, tenant, before.kind, body, always=tenant in (3, 4))
    visit.public = PUBLIC if tenant in (0, 1) else frozenset()
    return _fate(visit, chance)


@dataclass
class Mixed:
    """What a mixture came to."""

    judge: Judge
    left: int = 0
    failed: int = 0
    hits: int = 0
    flights_left: int = 0
    upstream_calls: int = 0


def mixture(
    options: Any, suffix: str, count: int, seed: int, server: Valkey | None = None, *, lost: bool = False
) -> list[Row]:
    """`lost`: the store is killed in the middle, and comes back empty."""
    with tempfile.TemporaryDirectory(prefix="trimtab-mix-") as folder:
        found = uvloop.run(_mixture(Path(folder), plan(count, seed), server, lost))
    _show(options, found.judge, f"foreign_canaries{suffix}")
    return [
        at_most(f"foreign_canaries{suffix}", len(found.judge.odd), 0, n=found.judge.judged),
        Row(f"mixed_requests{suffix}", count, n=count),
        Row(f"mixed_left{suffix}", found.left, n=count),
        Row(f"mixed_shared{suffix}", found.judge.shared, n=found.judge.judged),
        Row(f"mixed_failed{suffix}", found.failed, n=count),
        at_most(f"mixed_flights_left{suffix}", found.flights_left, 0),
    ]


async def _mixture(folder: Path, visits: list[Visit], server: Valkey | None, lost: bool) -> Mixed:
    spoilt = {visit.mark: visit.spoil for visit in visits if visit.spoil}
    found = Mixed(Judge())
    script = {"accept_s": 0.003, "between_s": 0.001}
    upstream = Marker(script, lambda name: spoilt.get(name, {}))
    async with upstream:
        found.judge.ended = upstream.ended
        if server is None:
            await _mixed(folder, upstream, visits, found, None)
        else:
            chance = random.Random(len(visits))
            at = server.socket.parent / "p"
            # Half of the replies come at once, and some later than the gateway waits for them.
            async with slow(server.socket, at, lambda: max(0.0, chance.uniform(-0.04, 0.06))):
                await _mixed(folder, upstream, visits, found, f"unix://{at}", server if lost else None)
        found.upstream_calls = upstream.counts.calls
    return found


async def _mixed(
    folder: Path, upstream: Marker, visits: list[Visit], found: Mixed, redis: str | None, server: Valkey | None = None
) -> None:
    epoch = 0
    async with house(configuration(folder, upstream, policies(0), MODELS, redis)) as place:

        async def work(queue: Iterator[Visit]) -> None:
            client = Client(place.port)
            for visit in queue:
                first = epoch
                visit.epochs = first, 1 << 30  # until it is known when it ended
                got = await _visit(client, found.judge, visit)
                visit.epochs = first, epoch
                found.judge.see(visit, got)
                found.left += not got.whole
                found.failed += got.whole and got.status != 200
                found.hits += got.cache == "hit"
            await client.leave()

        async def reload() -> None:
            nonlocal epoch
            await place.gateway.apply(configuration(folder, upstream, policies(epoch + 1), MODELS, redis))
            epoch += 1

        async def make(some: list[Visit]) -> None:
            queue = iter(some)
            await asyncio.gather(*(work(queue) for _ in range(CLIENTS)))

        quarter = max(1, len(visits) // 4)
        for part in range(0, len(visits), quarter):
            some = visits[part : part + quarter]
            around = [_lose(server, part // quarter)] if server is not None else []
            await asyncio.gather(make(some), *around, *([reload()] if part else []))
            await asyncio.sleep(LINGER)  # what was shared at the same moment is over
            await make(
                [_asked_again(visit, len(visits)) for visit in some if visit.spoilt or visit.leave_s is not None]
            )
        await place.rest()
        found.flights_left = place.flights


def _asked_again(visit: Visit, more: int) -> Visit:
    """What was answered badly, or to nobody, is asked for once more: nothing of it may have stayed."""
    return dataclasses.replace(visit, serial=visit.serial + more, spoil={}, leave_s=None)


async def _lose(server: Valkey, part: int) -> None:
    """In the second quarter the store dies, in the third it comes back."""
    act: Callable[[], None] | None = {1: server.kill, 2: server.start}.get(part)
    if act is not None:
        await asyncio.sleep(0.2)
        await asyncio.to_thread(act)


def main() -> int:
    return alone("cache_isolation", __doc__, rows)


if __name__ == "__main__":
    sys.exit(main())
