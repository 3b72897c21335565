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
from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.runner import Loaded, load
from trimtab.backends.engine.weights import DEFAULT, fetch

QUESTION = [
    {"role": "user", "content": "Explain in a few paragraphs how a gateway in front of a language model works."}
]


def main() -> None:
    options = arguments(__doc__, "perplexity is measured on the first one").parse_args()
    path = fetch(DEFAULT)
    rows = [row("load_s", *loading(path), unit="s", bar=2.0, below=True)]
    engine = load(path, lambda: datetime.now(UTC), None, None, 1)
    rounds = 3 if options.quick else 7
    rows.append(row("decode_tok_per_cpu_s", decoding(engine, rounds), rounds * 100))
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
        load(path, lambda: datetime.now(UTC), None, None, None)
        times.append(time.perf_counter() - start)
    return min(times), len(times)


def decoding(engine: Loaded, rounds: int) -> float:
    prompt = engine.template.encode(QUESTION, engine.context)

    def round_() -> float:
        kv = engine.model.cache()
        logits = engine.model.forward(prompt, kv)
        start = time.process_time()
        for _ in range(100):
            logits = engine.model.forward([int(logits.argmax())], kv)
        return 100 / (time.process_time() - start)

    return best(round_, rounds)


def reading(engine: Loaded, count: int, rounds: int) -> float:
    prompt = (engine.template.encode(QUESTION, engine.context) * 20)[:count]

    def round_() -> float:
        start = time.process_time()
        engine.model.forward(prompt, engine.model.cache())
        return count / (time.process_time() - start)

    return best(round_, rounds)


def best(measure: Callable[[], float], rounds: int) -> float:
    return max(measure() for _ in range(rounds))


def passages(path: Path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as f:
        texts = dict.fromkeys(json.loads(line)["passage"] for line in f)
    return list(texts)[:count]


def perplexities(engine: Loaded, path: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Of the same file: computed in float32, as prompts are read here, and as answers are decoded here."""
    exact = Model(GGUF(path), "float32")
    prompts = [engine.tokenizer.encode(text)[:256] for text in texts]
    count = sum(len(p) - 1 for p in prompts)
    loss = {
        "float32": sum(loss_of_prompt(exact, p) for p in prompts),
        "prompt route": sum(loss_of_prompt(engine.model, p) for p in prompts),
        "decode route": sum(loss_by_token(engine.model, p) for p in prompts),
    }
    base = math.exp(loss["float32"] / count)
    rows = [row("perplexity", base, count, system="trimtab float32")]
    for name in ("prompt route", "decode route"):
        ratio = math.exp(loss[name] / count) / base
        rows.append(row("perplexity_ratio", ratio, count, bar=1.01, below=True, system=f"trimtab {name}"))
    return rows


def loss_of_prompt(model: Model, tokens: list[int]) -> float:
    logits = model.forward(tokens, model.cache(), every=True)
    return float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="sum"))


def loss_by_token(model: Model, tokens: list[int]) -> float:
    kv = model.cache()
    rows = [model.forward([token], kv) for token in tokens[:-1]]
    return float(torch.nn.functional.cross_entropy(torch.cat(rows), torch.tensor(tokens[1:]), reduction="sum"))


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
