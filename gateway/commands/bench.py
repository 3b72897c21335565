"""`trimtab bench engine MODEL`: a model's waiting times and throughput on the bundled engine, by the rate of requests.

Arrivals and what is measured of each answer are backends/engine/poisson.py's; here are prompts, table and files.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gzip
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ...backends.base import Call, Timeouts
from ...backends.registry import Unusable, require
from ...protocol.errors import ModelUnavailable, TrimtabError
from ...protocol.messages import Request
from ..engine_config import called
from ..model_config import EngineModel
from .engine import refused, section
from .report import Report, Row

if TYPE_CHECKING:
    from ...backends.engine.backend import EngineBackend
    from ...backends.engine.poisson import Load

_SHARES = (0.2, 0.4, 0.6, 0.8, 0.95, 1.1)  # of the capacity
_RUNNING = 16  # as many as the engine answers at a time where nobody says otherwise
_PATIENCE = Timeouts(first_token=600.0, idle=120.0, total=1800.0)
_TIMES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")
_ASKED = ("Explain {} to {}.", "Write a short story about {} for {}.", "List five facts about {} for {}.")
_ABOUT = (
    "bread",
    "rivers",
    "the moon",
    "bicycles",
    "money",
    "bees",
    "glass",
    "chess",
    "salt",
    "maps",
    "trains",
    "rain",
)
_WHOM = ("a child", "an engineer", "a farmer", "a poet", "my grandmother", "a judge", "a sailor", "new colleagues")


def run(args: argparse.Namespace) -> int:
    """0 when it worked, 1 when the weights, the prompts or a file to write are to blame."""
    try:
        if args.plot is not None:
            require("drawing", "plot", ("matplotlib",))
        from ...backends.engine.weights import obtain

        obtain(args.weights)  # what is wrong with them is said at once, and fully
        for path in filter(None, (args.json, args.plot)):
            if not path.parent.is_dir():
                raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
        found, capacity = asyncio.run(_measured(args))
        Console().print(table(found, f"{called(args.weights)}: capacity {capacity:.2f} requests a second"))
        if args.json is not None:
            report(found, capacity, args).write(args.json)
        return 0 if args.plot is None else _drawn(args.plot, found, capacity)
    except ValidationError as e:
        return refused(e)
    except (TrimtabError, Unusable, OSError, ValueError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1


def _drawn(path: Path, found: Sequence[Load], capacity: float) -> int:
    from .plots import times_over_rate
    from .prompts import Unusable as NotDrawn

    try:
        times_over_rate(path, found, capacity)
    except NotDrawn as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    return 0


async def _measured(args: argparse.Namespace) -> tuple[list[Load], float]:
    from ...backends.engine import poisson
    from ...backends.engine.backend import EngineBackend

    chance = random.Random(args.seed)  # noqa: S311
    texts = _prompts(args.data)
    backend = EngineBackend(**EngineModel.model_validate(section(args)).backend_options())
    together, count = _full(args)
    await backend.start()
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            await _ready(backend)

            def bar(name: str, total: int) -> Callable[[], None]:
                task = progress.add_task(name, total=total)
                return lambda: progress.advance(task)

            def calls(total: int) -> list[Call]:
                return [_call(chance, texts, args.tokens) for _ in range(total)]

            done = bar("capacity", count)
            capacity = await poisson.capacity(backend, calls(count), together, time.perf_counter, done)
            rates = args.rates or [share * capacity for share in _SHARES]
            found = []
            for rate in rates:
                asked, done = calls(args.requests), bar(f"{rate:.2f} requests a second", args.requests)
                found.append(await poisson.offered(backend, asked, rate, chance, time.perf_counter, done=done))
            return found, capacity
    finally:
        await backend.close()


def _full(args: argparse.Namespace) -> tuple[int, int]:
    """How many requests are in work at a time while the capacity is measured, and how many that are in all."""
    together = args.most_running or _RUNNING
    return together, max(args.requests, 2 * together)


async def _ready(backend: EngineBackend) -> None:
    """Raises why the model cannot be loaded."""
    call = Call("completions", Request.build("completions", {"model": "m", "prompt": "a", "max_tokens": 1}), "warm")
    answer = await backend.complete(dataclasses.replace(call, timeouts=_PATIENCE))
    if not answer.body:
        raise ModelUnavailable("the model gave no answer")


def _call(chance: random.Random, texts: Sequence[str], tokens: int) -> Call:
    """Prompts that hardly ever come twice: neither known beginnings nor known answers help much."""
    form = chance.choice(_ASKED) if not texts else chance.choice(texts).replace("{", "{{").replace("}", "}}")
    text = form.format(f"{chance.choice(_ABOUT)} and {chance.choice(_ABOUT)}", chance.choice(_WHOM))
    most = chance.randint(max(1, tokens // 2), max(1, 3 * tokens // 2))
    number = chance.getrandbits(63)
    fields = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": most, "seed": number}
    asked = Request.build("chat", {**fields, "stream": True, "stream_options": {"include_usage": True}})
    return Call("chat", asked, f"bench-{number:x}", timeouts=_PATIENCE)


def _prompts(path: Path | None) -> list[str]:
    """Raises ValueError for a file that has none."""
    if path is None:
        return []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        texts = [_text(_row(path, i, line)) for i, line in enumerate(lines, 1) if line.strip()]
    found = [text for text in texts if text]
    if not found:
        raise ValueError(f"{path} has no prompt: a line is a JSON object with `prompt`, `question` or `turns`")
    return found


def _row(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as e:
        raise ValueError(f"{path}, line {number}: {e}; a line is a JSON object") from None


def _text(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    text = row.get("prompt") or row.get("question") or next(iter(row.get("turns") or []), None)
    return text if isinstance(text, str) else None


def report(found: Sequence[Load], capacity: float, args: argparse.Namespace) -> Report:
    """The same in the shape that every benchmark writes; what no answer told (all were refused) is left out."""
    together, count = _full(args)
    model = " ".join(filter(None, (called(args.weights), args.compute)))
    rows = [Row("capacity", capacity, "requests/s", count, system=model)]
    for one in found:
        figures = [("throughput", one.tokens_s, "tok/s"), *((name, getattr(one, name[:-3]), "ms") for name in _TIMES)]
        figures.append(("refused", one.refused, "requests"))
        at = f"{one.rate:.2f} requests/s"
        rows += [Row(name, value, unit, one.requests, system=at) for name, value, unit in figures if value == value]
    note = (
        f"{args.requests} requests at each rate, answers of {args.tokens // 2} to {3 * args.tokens // 2} tokens; "
        f"the capacity is what {together} at a time come to; times are over all requests of a rate"
    )
    return Report("engine_load", rows, args.seed, [note])


def table(found: Sequence[Load], title: str) -> Table:
    made = Table(title=title)
    for name in ("requests/s", "tok/s", "TTFT P50", "TTFT P99", "ITL P50", "ITL P99", "refused"):
        made.add_column(name, justify="right")
    for one in found:
        times = (one.ttft_p50, one.ttft_p99, one.itl_p50, one.itl_p99)
        shown = ["-" if math.isnan(ms) else f"{ms:,.0f} ms" for ms in times]
        made.add_row(f"{one.rate:.2f}", f"{one.tokens_s:.1f}", *shown, f"{one.refused} of {one.requests}")
    return made
