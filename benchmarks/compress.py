"""What compression saves, in tokens and in money, and what a reader still knows afterwards.

    python benchmarks/compress.py --bfcl DIR [--data FILE] [--weights FILE] [--json OUT] [--quick]

Three parts, each run where its data is given:

`--bfcl DIR` (the folder with bfcl_eval: pip install --no-deps --target DIR bfcl-eval): the lossless tier on 1,053 real
tool sets written as a tool's result, with an indent of two and as Python writes JSON by default; then agents'
sessions through the gateway's own stages, each billed by a simulator of providers that cache prefixes: the cost of a
session as a share of what it costs when nobody touches it. `--data FILE` (context/*.jsonl.gz) with `--weights`: how
much less probable a small reader finds the gold answer after each method took its share, in nats. Always: the time that
the model-free tiers add to a request of 8,000 tokens.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress_house import House
from compress_prices import PROVIDERS, Provider, Session, counter
from compress_traces import SETS, Sessions, Trace
from report import Report, Row, arguments, at_least, at_most
from rich.progress import track

from trimtab.compression.deadline import Deadline
from trimtab.compression.lossless import lossless
from trimtab.compression.spans import Conversation
from trimtab.protocol.messages import Request

LOSSLESS: dict[str, Any] = {}
SHARED: dict[str, Any] = {"tools": {"share": True}}
POLICIES = {"lossless": LOSSLESS, "shared tools": SHARED}


def main() -> int:
    parser = arguments(__doc__, "the reader is asked about the first one")
    parser.add_argument("--bfcl", type=Path, metavar="DIR", help="the folder that holds bfcl_eval")
    parser.add_argument("--weights", default="smollm2-135m-instruct", help="the reader: a model of the engine's")
    parser.add_argument("--readings", type=int, default=40, help="questions that the reader is asked")
    parser.add_argument("--sessions", type=int, default=50, help="of each of the four sets (there are 200 in each)")
    options = parser.parse_args()
    rows = asyncio.run(latency(60 if options.quick else 400))
    notes = []
    if options.bfcl is None:
        notes.append("no --bfcl: tool sets and sessions were left out")
    else:
        rows += tool_sets(options.bfcl, 100 if options.quick else None)
        rows += asyncio.run(sessions(Sessions(options.bfcl), 5 if options.quick else options.sessions))
    if not options.data:
        notes.append("no --data: the reader was left out")
    else:
        from compress_reader import readings

        count = 2 if options.quick else options.readings
        rows += asyncio.run(readings(options.data[0], options.weights, count, options.seed))
    Report("compress", rows, options.seed, notes).publish(options.json)
    return 0


# Tool sets, as text.


def tool_sets(package: Path, most: int | None) -> list[Row]:
    """The lossless tier by itself: whether a request is worth it is the gate's question, and the sessions' below."""
    path = package / "bfcl_eval" / "data" / "BFCL_v4_live_multiple.json"
    sets = [json.loads(line)["function"] for line in path.read_text().splitlines()][:most]
    count = counter("cl100k_base")
    rows, differences = [], 0
    for name, style, bar in (("saved_vs_indent2", {"indent": 2}, 0.33), ("saved_vs_default", {}, 0.176)):
        before = after = 0
        for tools in track(sets, name, disable=not sys.stderr.isatty()):
            text = json.dumps(tools, **style)
            shown = _as_result(text)
            differences += json.loads(shown) != tools
            before += len(count(text))
            after += len(count(shown))
        # To three digits, as the bar is given: compact JSON with letters for escapes is as short as JSON gets.
        rows.append(at_least(name, round(1 - after / before, 3), bar, unit="share", n=len(sets)))
    return [*rows, at_most("value_differences", differences, 0, n=2 * len(sets))]


def _as_result(text: str) -> str:
    """What the tier makes of a text that a tool answered with."""
    call = {"id": "call_1", "type": "function", "function": {"name": "list_tools", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Which tools are there?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
    assert conversation is not None
    said = json.loads(conversation.rewrite(lossless(conversation, Deadline(10)).texts))
    return str(said[2]["content"])


# Sessions of an agent, and their bills.


async def sessions(source: Sessions, most: int) -> list[Row]:
    count = counter()
    rows: list[Row] = []
    traces = [trace for name in SETS for trace in list(source.traces(name))[:most]]
    for provider in PROVIDERS:
        for policy, compress in POLICIES.items():
            shares = [
                await _share(trace, compress, provider, count)
                for trace in track(traces, f"{provider.name}, {policy}", disable=not sys.stderr.isatty())
            ]
            rows += _bills(shares, provider, policy)
        truncated = [_bill(provider, count, _halves(trace)) / _bill(provider, count, _plain(trace)) for trace in traces]
        rows += _bills(truncated, provider, "oldest half cut")
    return rows


def _bills(shares: list[float], provider: Provider, system: str) -> list[Row]:
    more: dict[str, Any] = {"unit": "of direct", "n": len(shares), "system": system}
    worst, mean = f"trace_net_max_{provider.name}", f"trace_net_mean_{provider.name}"
    if system == "oldest half cut":
        return [Row(worst, max(shares), **more), Row(mean, statistics.mean(shares), **more)]
    aim = 0.80 if system == "shared tools" else 1.0
    return [at_most(worst, max(shares), 1.0, **more), at_most(mean, statistics.mean(shares), aim, **more)]


Requests = Iterator[tuple[dict[str, Any], dict[str, Any]]]


async def _share(trace: Trace, compress: dict[str, Any], provider: Provider, count: Any) -> float:
    """The session's cost through the gateway, as a share of its cost when it is sent on untouched."""
    price = {"input": provider.input, "cached_input": provider.cached, "output": provider.output}
    gc.freeze()  # as the gateway does at its start: what the benchmark holds must not be walked through in a request
    async with House(compress, price, upstream=provider.name) as house:  # a fresh one: no session knows another
        sent = [(json.loads(await house.forward(json.dumps(body).encode())), said) for body, said in _plain(trace)]
    return _bill(provider, count, iter(sent)) / _bill(provider, count, _plain(trace))


def _plain(trace: Trace) -> Requests:
    for step in trace.steps:
        yield {"model": "m", "tools": trace.tools, "messages": step.messages}, step.answer


def _halves(trace: Trace) -> Requests:
    """What a naive trimmer does: the older half of the messages goes, on every request anew."""
    for body, said in _plain(trace):
        messages = body["messages"]
        keep = messages[len(messages) // 2 :]
        while keep and keep[0]["role"] == "tool":
            keep = keep[1:]
        yield {**body, "messages": keep or messages[-1:]}, said


def _bill(provider: Provider, count: Any, requests: Requests) -> float:
    session = Session(provider, count)
    for body, answer in requests:
        session.send(body, answer)
    return session.dollars


# Time.


async def latency(rounds: int) -> list[Row]:
    """What the stages add to a request of about 8,000 tokens of tool results and history, each time another one."""
    times = []
    async with House(LOSSLESS, {"input": 2.0, "cached_input": 0.5, "output": 8.0}) as house:
        for i in range(rounds):
            body = _large(i)
            started = time.perf_counter()
            await house.forward(body)
            times.append((time.perf_counter() - started) * 1000)
    times.sort()
    n = len(times)
    p99 = times[min(n - 1, n * 99 // 100)]
    return [
        Row("added_p50_ms", statistics.median(times), unit="ms", n=n),
        at_most("added_p99_ms", p99, 50, unit="ms", n=n),
    ]


def _large(i: int) -> bytes:
    """A conversation with records, a log and prose, about 8,000 tokens; `i` makes it one that nobody sent before."""
    records = [
        {
            "id": i * 1000 + k,
            "name": f"order {k}",
            "total": k * 1.25,
            "tags": ["open", "paid"],
            "note": "leave at the door",
        }
        for k in range(110)
    ]
    log = "\n".join(
        f"2026-11-21T06:{k // 60:02}:{k % 60:02}Z INFO worker {i} finished job {k // 3}" for k in range(120)
    )
    prose = " ".join(f"Paragraph {k} of report {i} says that the water level rose by {k} cm." for k in range(90))
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You answer from what the tools say."}]
    for k, result in enumerate((json.dumps(records, indent=2), log, prose)):
        call = {"id": f"call_{k}", "type": "function", "function": {"name": "read", "arguments": json.dumps({"k": k})}}
        messages += [
            {"role": "user", "content": f"Look at source {k}."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{k}", "content": result},
        ]
    messages.append({"role": "user", "content": "Which order has the highest total?"})
    return json.dumps({"model": "m", "messages": messages}).encode()


if __name__ == "__main__":
    sys.exit(main())
