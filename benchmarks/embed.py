"""The embedder: how fast, how large, how steady, and how close its int8 model is to the original.

    python benchmarks/embed.py [--data FILE] [--torch MODEL] [--json OUT] [--quick]

Texts are the sentences of FILE's `passage` fields (JSON lines, plain or gzipped), or made up where there is no file.
`--torch` names the original of the bundled model for sentence-transformers (a folder, or a name to fetch); without it
the rows that compare the two are left out. Each runtime is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, Row, arguments, at_least

from trimtab.backends.embed import Embedder, EmbedOptions, open_embedder

SENTENCES, TOKENS = 69, 32
COMPARED = 200


def made_up(count: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    words = Path(__file__).read_text().split()
    return [" ".join(pick.choices(words, k=pick.randint(4, 30))) for _ in range(count)]


def from_file(path: Path, count: int, seed: int) -> list[str]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    passages = dict.fromkeys(json.loads(line)["passage"] for line in raw.splitlines() if line.strip())
    found = [one.strip() for text in passages for one in text.replace("。", "。\n").replace(". ", ".\n").splitlines()]
    sentences = [one for one in dict.fromkeys(found) if len(one) > 10]
    return random.Random(seed).sample(sentences, min(count, len(sentences)))


async def timed(embedder: Embedder, texts: list[str], tenant: str) -> float:
    """Seconds to embed texts that this tenant has not embedded before."""
    begun = time.perf_counter()
    await embedder.embed(texts, tenant=tenant)
    return time.perf_counter() - begun


async def measure(options: EmbedOptions, texts: list[str], runs: int) -> dict[str, Any]:
    """Everything about one runtime, in this process."""
    before = resident()
    embedder = open_embedder(options)
    begun = time.perf_counter()
    vectors = await embedder.embed(texts[:COMPARED])
    first = time.perf_counter() - begun
    result: dict[str, Any] = {"vectors": vectors.tolist(), "first_s": first}
    result["batch_s"] = [await timed(embedder, batch(i), "batch") for i in range(runs)]
    result["one_s"] = [await timed(embedder, [text], "one") for text in texts[COMPARED : COMPARED + 30]]
    result["warm_s"] = [await timed(embedder, texts[:COMPARED], "") for _ in range(20)]
    result["behind_s"] = await behind(embedder, texts)
    result["steady"] = await steady(embedder, texts[:COMPARED])
    result["memory_mb"] = resident() - before
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    await embedder.close()
    return result


def batch(run: int) -> list[str]:
    """SENTENCES different ones of TOKENS tokens, two of which the model adds."""
    return [f"{'river ' * (TOKENS - 4)}{run} {i}" for i in range(SENTENCES)]


async def behind(embedder: Embedder, texts: list[str]) -> list[float]:
    """Seconds that single texts wait while a large request is worked on."""
    large = asyncio.create_task(embedder.embed(texts, tenant="large"))
    waits = []
    for i in range(1000):
        await asyncio.sleep(0.01)
        if large.done():
            break
        waits.append(await timed(embedder, [f"a short question {i}"], "small"))
    await large
    return waits


async def steady(embedder: Embedder, texts: list[str]) -> float:
    """The share of texts whose vector is the same to the bit alone and among the others."""
    together = await embedder.embed(texts, tenant="together")
    alone = [await embedder.embed([text], tenant="alone") for text in texts]
    return float(np.mean([np.array_equal(a[0], b) for a, b in zip(alone, together, strict=True)]))


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def rows(result: dict[str, Any], system: str) -> list[Row]:
    def ms(seconds: list[float]) -> list[float]:
        return [1e3 * one for one in seconds]

    waits = sorted(result["behind_s"])
    more: list[Row] = [
        Row("first 200 sentences, loading included", 1e3 * result["first_s"], unit="ms", system=system),
        Row.over(f"{SENTENCES} sentences of {TOKENS} tokens", ms(result["batch_s"]), unit="ms", system=system),
        Row.over("one sentence", ms(result["one_s"]), unit="ms", system=system),
        Row.over("200 sentences that are known", ms(result["warm_s"]), unit="ms", system=system),
    ]
    if waits:
        p50, p99 = statistics.median(waits), waits[int(0.99 * (len(waits) - 1))]
        more.append(Row("one sentence behind a large request, p50", 1e3 * p50, "ms", len(waits), system=system))
        more.append(Row("one sentence behind a large request, p99", 1e3 * p99, "ms", len(waits), system=system))
    more.append(Row("same to the bit alone and batched", result["steady"], "share", COMPARED, system=system))
    more.append(Row("resident memory that it adds", result["memory_mb"], "MB", system=system))
    return more


def in_a_process(options: argparse.Namespace, runtime: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", runtime, "--seed", str(options.seed)]
    for name, given in (("data", options.data[:1]), ("torch", [options.torch]), ("threads", [options.threads])):
        command += [word for one in given if one is not None for word in (f"--{name}", str(one))]
    done = subprocess.run([*command, *(["--quick"] if options.quick else [])], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = arguments(__doc__, "texts are the sentences of the first one")
    parser.add_argument("--torch", metavar="MODEL", help="the original of the bundled model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--measure", choices=("onnx", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    count = 600 if options.quick else 2000
    data = options.data[0] if options.data else None
    texts = from_file(data, count, options.seed) if data else made_up(count, options.seed)
    if options.measure:
        model = options.torch if options.measure == "torch" else None
        made = EmbedOptions(options.measure, model, threads=options.threads)
        print(json.dumps(asyncio.run(measure(made, texts, 3 if options.quick else 9))))
        return
    small = in_a_process(options, "onnx")
    report = Report("embed", rows(small, "onnx int8"), seed=options.seed)
    report.notes.append(f"Texts: {data.name if data else 'made up'}. Memory is counted beside Python's.")
    if options.torch:
        original = in_a_process(options, "torch")
        cosines = np.sum(np.array(small["vectors"]) * np.array(original["vectors"]), axis=1)
        agree = at_least(
            "cosine to the original, lowest", float(cosines.min()), 0.98, n=len(cosines), system="onnx int8"
        )
        report.rows += [
            agree,
            Row("cosine to the original, mean", float(cosines.mean()), n=len(cosines), system="onnx int8"),
        ]
        report.rows += rows(original, "sentence-transformers")
    report.publish(options.json)


if __name__ == "__main__":
    main()
