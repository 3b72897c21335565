"""The bundled engine on this CPU: loading, prompts, decoding, and what the fast routes cost in perplexity.

    python benchmarks/engine.py [--data FILE] [--json OUT] [--quick]

`--data` is a .jsonl.gz whose lines have a `passage`; without it no perplexity is measured. Speeds are tokens per CPU
second on one thread, the best of several rounds: other work on the machine disturbs them least.
"""

from __future__ import annotations

import gzip
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from report import arguments

import trimtab
from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.loaded import Loaded, load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.sequence import Job, Reading, Surprises, Task
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.weights import DEFAULT, fetch

QUESTION = [
    {"role": "user", "content": "Explain in a few paragraphs how a gateway in front of a language model works."}
]
TOKENS = 100


def main() -> None:
    options = arguments(__doc__, "perplexity is measured on the first one").parse_args()
    path = fetch(DEFAULT)
    rows = [row("load_s", *loading(path), unit="s", bar=2.0, below=True)]
    engine = load(path, lambda: datetime.now(UTC), Settings(threads=1))
    rounds = 3 if options.quick else 7
    one, many = decoding(engine, 1, rounds), decoding(engine, 16, max(1, rounds // 3))
    rows.append(row("decode_tok_per_cpu_s", one, rounds * TOKENS))
    rows.append(row("decode_16_streams_tok_per_cpu_s", many, rounds // 3 * 16 * TOKENS))
    rows.append(row("decode_16_streams_over_1", many / one, rounds, bar=8.0))
    rows += [row(f"prefill_{n}_tok_per_cpu_s", reading(engine, n, rounds), rounds * n) for n in (64, 512)]
    if options.data:
        rows += perplexities(engine, path, passages(options.data[0], 6 if options.quick else 40))
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(report(rows), indent=1) + "\n")


def loading(path: Path) -> tuple[float, int]:
    """Seconds from a path to a model that can answer, without the import of torch; the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        load(path, lambda: datetime.now(UTC))
        times.append(time.perf_counter() - start)
    return min(times), len(times)


def plain(model: Model, loaded: Loaded) -> Engine:
    """An engine that neither guesses nor reuses anything."""
    memory = Memory(model.shape, 256, model.dtype, model.device)
    return Engine(model, loaded.tokenizer, memory, 8192, time.perf_counter, Options(draft=0, prefixes=False))


def decoding(loaded: Loaded, streams: int, rounds: int) -> float:
    prompt = loaded.template.encode(QUESTION, loaded.context)
    never = dict.fromkeys(loaded.tokenizer.ends, -100.0)
    ask = Ask(Sampling(temperature=0.0, logit_bias=never), seed=0, n=1, most=TOKENS + 1, stops=())

    def round_() -> float:
        engine = plain(loaded.engine.model, loaded)
        for _ in range(streams):
            engine.add(Job([Task(prompt, ask)], lambda said: None))
        while any(s.pending > 1 for s in (*engine.running, *engine.waiting)):
            engine.step()
        start = time.process_time()
        while engine.busy:
            engine.step()
        return streams * TOKENS / (time.process_time() - start)

    return best(round_, rounds)


def reading(loaded: Loaded, count: int, rounds: int) -> float:
    prompt = (loaded.template.encode(QUESTION, loaded.context) * 20)[:count]

    def round_() -> float:
        engine = plain(loaded.engine.model, loaded)
        engine.add(Job([Task(prompt, Ask(Sampling(), seed=0, n=1, most=1, stops=()))], lambda said: None))
        start = time.process_time()
        while engine.busy:
            engine.step()
        return count / (time.process_time() - start)

    return best(round_, rounds)


def best(measure: Callable[[], float], rounds: int) -> float:
    return max(measure() for _ in range(rounds))


def passages(path: Path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as f:
        texts = dict.fromkeys(json.loads(line)["passage"] for line in f)
    return list(texts)[:count]


def perplexities(loaded: Loaded, path: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Of the same file: computed in float32, and as this machine computes. Prompts and answers are one route."""
    prompts = [loaded.tokenizer.encode(text)[:256] for text in texts]
    count = sum(len(p) - 1 for p in prompts)
    exact = Model(open_checkpoint(path), "float32")
    base, ours = (
        math.exp(-sum(loss(plain(m, loaded), p) for p in prompts) / count) for m in (exact, loaded.engine.model)
    )
    return [
        row("perplexity", base, count, system="trimtab float32"),
        row(
            "perplexity_ratio",
            ours / base,
            count,
            bar=1.01,
            below=True,
            system=f"trimtab {loaded.engine.model.compute}",
        ),
    ]


def loss(engine: Engine, tokens: list[int]) -> float:
    """The log-probability of all but the first token, in nats."""
    logs: list[Any] = []

    def emit(said: Any) -> None:
        for event in said or ():
            if isinstance(event, Surprises):
                logs.extend(event.logs)

    engine.add(Job([Reading(tokens[:-1], tokens[1:])], emit))
    while engine.busy:
        engine.step()
    return float(sum(part.sum() for part in logs))


def row(
    metric: str,
    value: float,
    n: int,
    *,
    unit: str = "",
    bar: float | None = None,
    below: bool = False,
    system: str = "trimtab",
) -> dict[str, Any]:
    out: dict[str, Any] = {"metric": metric, "value": round(value, 4), "unit": unit, "n": n, "system": system}
    if bar is not None:
        out |= {"bar": bar, "holds": value <= bar if below else value >= bar}
    return out


def show(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        bar = f"bar {r['bar']:g} {'holds' if r['holds'] else 'MISSED'}" if "bar" in r else ""
        print(f"{r['metric']:28} {r['value']:>12.4f} {r['unit']:4} n={r['n']:<7} {r['system']:22} {bar}")


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    head = {"benchmark": "engine", "version": trimtab.__version__, "commit": commit, "machine": machine}
    return {**head, "date": datetime.now(UTC).isoformat(timespec="seconds"), "seed": 0, "rows": rows}


if __name__ == "__main__":
    main()
