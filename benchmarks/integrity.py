"""Thousands of generated requests through the gateway's stages: whatever they do, nothing may be damaged.

    python benchmarks/integrity.py [--requests 10000] [--json OUT] [--quick] [--keep DIR]

Each request is sent on under two policies, the one that a tenant has by default and one that prunes passages too. What
comes out is held against what went in (integrity_check.py): JSON equal by value with its numbers as spelt, protected
text equal byte by byte, code untouched. Before that, the conversation is sent as it was a turn earlier, which must
come out as the beginning of the whole; afterwards what came out is sent again, which must change nothing more. A stage
that fails, or outlives its deadline by more than `LATE`, is a violation too. Exit status 0 whatever was found.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress_house import House
from hypothesis import HealthCheck, Phase, given, seed, settings
from integrity_check import violations
from integrity_requests import Facts, requests
from report import Report, Row, arguments, at_most
from rich.progress import Progress

from trimtab.compression import conformal
from trimtab.protocol.exchange import Exchange

PIECE = 200
LATE = 0.5  # seconds beyond a policy's deadlines: two noisy cores, a collector's pause
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "lossy": {"context": {"enabled": True, "recall": 0.95, "deadline_ms": 5000}, "floor": 0.2},
}


class Watch:
    """Counts what is checked and what is wrong; the first of each kind is kept with its request."""

    def __init__(self, keep: Path | None = None) -> None:
        self.keep = keep
        self.requests = 0
        self.pruned = 0
        self.changed: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.first: dict[str, bytes] = {}
        self.late: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}

    def report(self, policy: str, complaint: str, body: bytes, earlier: bytes | None) -> None:
        self.wrong[policy] += 1
        self.first.setdefault(f"{policy}: {complaint}", body)
        if self.keep is not None:
            kept = {"policy": policy, "complaint": complaint, "body": body.decode()}
            kept["earlier"] = "" if earlier is None else earlier.decode()
            (self.keep / f"{self.requests:05d}-{policy}-{self.wrong[policy]}.json").write_text(json.dumps(kept))


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--show", action="store_true", help="print the requests behind the violations")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write each violation with its request there")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    count = min(options.requests, 500) if options.quick else options.requests
    gc.collect()
    gc.freeze()  # this and the thresholds as the gateway has them: no walk through all there is during a request
    gc.set_threshold(10_000, 20, 20)
    watch = asyncio.run(run(count, options.seed, options.keep))
    rows = [at_most("violations", sum(watch.wrong.values()), 0, n=watch.requests, unit="requests")]
    for policy in POLICIES:
        rows.append(Row(f"violations_{policy}", watch.wrong[policy], n=watch.requests))
        rows.append(
            Row(f"changed_{policy}", watch.changed[policy] / max(1, watch.requests), unit="share", n=watch.requests)
        )
        rows.append(
            Row(f"cut_short_{policy}", watch.late[policy] / max(1, watch.requests), unit="share", n=watch.requests)
        )
        rows.append(Row(f"slowest_{policy}_ms", watch.slowest[policy] * 1000, unit="ms", n=watch.requests))
    rows.append(Row("pruned_lossy", watch.pruned / max(1, watch.requests), unit="share", n=watch.requests))
    notes = [f"VIOLATION {complaint}" for complaint in list(watch.first)[:20]]
    if options.show:
        notes += [f"{complaint}\n{body.decode()}" for complaint, body in list(watch.first.items())[:5]]
    Report("integrity", rows, options.seed, notes).publish(options.json)
    return 0


async def run(count: int, start: int, keep: Path | None = None) -> Watch:
    # Generated questions bear on nothing, so that nothing would be pruned: here whatever scores best is evidence.
    usual = conformal.shipped
    sure = replace(usual(), least=-math.inf)
    conformal.shipped = lambda: sure
    try:
        return await checked(count, start, Watch(keep))
    finally:
        conformal.shipped = usual


async def checked(count: int, start: int, watch: Watch) -> Watch:
    loop = asyncio.get_running_loop()
    async with House(POLICIES["default"]) as plain, House(POLICIES["lossy"]) as lossy:
        houses = {"default": plain, "lossy": lossy}
        with Progress(disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("requests", total=count)

            def check(body: bytes, earlier: bytes | None, facts: Facts) -> None:
                asyncio.run_coroutine_threadsafe(one(watch, houses, body, earlier, facts), loop).result()
                progress.update(task, completed=watch.requests)

            await asyncio.to_thread(generate, check, count, start)
    return watch


def generate(check: Any, count: int, start: int) -> None:
    """In pieces: hypothesis remembers every choice of a run, which is a megabyte for a few requests."""
    for done in range(0, count, PIECE):
        some(check, min(PIECE, count - done), start + done)
        gc.collect()  # its garbage, here rather than in the middle of a request whose time is taken


def some(check: Any, count: int, start: int) -> None:
    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def each(made: tuple[bytes, bytes | None, Facts]) -> None:
        check(*made)

    each()


async def one(watch: Watch, houses: dict[str, House], body: bytes, earlier: bytes | None, facts: Facts) -> None:
    watch.requests += 1
    for policy, house in houses.items():
        before = None if earlier is None else await house.walk(earlier)
        started = time.perf_counter()
        exchange = await house.walk(body)
        took = time.perf_counter() - started
        watch.slowest[policy] = max(watch.slowest.get(policy, 0.0), took)
        after = exchange.working.encode()
        again = await house.walk(after)
        deadlines = 0.03 + (POLICIES[policy].get("context", {}).get("deadline_ms", 0) / 1000)
        if took > deadlines + LATE:
            watch.report(policy, f"took {took:.2f} s", body, earlier)
        for line in exchange.receipt.lines:
            watch.pruned += line.did == "pruned"
            if line.did == "undone":
                watch.report(policy, f"{line.stage} was undone: {line.reason}", body, earlier)
        watch.changed[policy] += after != body
        for complaint in violations(body, after, facts.instructions, facts.fences, lossless=policy == "default"):
            watch.report(policy, complaint, body, earlier)
        if any(cut_short(one) for one in (before, exchange, again) if one is not None):
            watch.late[policy] += 1  # two walks of which one ran out of time may differ
            continue
        if again.working.encode() != after:
            watch.report(policy, "a second time changes it again", body, earlier)
        sent = [] if before is None else json.loads(before.working.encode())["messages"]
        if json.loads(after)["messages"][: len(sent)] != sent:
            watch.report(policy, "the beginning of a conversation came out differently on its next turn", body, earlier)


def cut_short(exchange: Exchange) -> bool:
    """Whether a stage ran out of time, and left the request or a part of it as it was."""
    said = [line.reason or "" for line in exchange.receipt.lines]
    said += [part.why or "" for line in exchange.receipt.lines for part in line.parts]
    return any("longer than" in reason or "too slow" in reason or "busy" in reason for reason in said)


if __name__ == "__main__":
    sys.exit(main())
