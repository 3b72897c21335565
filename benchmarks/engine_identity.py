"""Whether anything that makes the engine faster changes an answer: every token compared, prompt by prompt.

    python benchmarks/engine_identity.py [WEIGHTS] [--data PROMPTS.jsonl[.gz] ...] [--count N] [--tokens N] [--json OUT]

WEIGHTS is a name of the catalogue or a path. Each line of a data file has a text under `prompt`, `question` or
`turns` (the first one); without data, a few built-in prompts are asked. The answers of the plain engine (one at a time,
no guesses, nothing reused) are compared with those of each variant, at temperature 0 and at 0.8 with seeds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.loaded import Loaded, load
from trimtab.backends.engine.memory import Memory, pages_for
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Job, Piece, Task
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.weights import DEFAULT, obtain

PLAIN = Options(Limits(1, 256, 64), draft=0, prefixes=False)
VARIANTS = {
    "batch of 8": (Options(Limits(8, 256, 64), draft=0, prefixes=False), 8),
    "prefix cache": (Options(Limits(1, 256, 64), draft=0), 1),
    "prompts in pieces of 24": (Options(Limits(8, 64, 24), draft=0), 8),
    "guesses": (Options(Limits(1, 256, 64)), 1),
    "guesses, batch of 8": (Options(Limits(8, 256, 64)), 8),
    "guesses in trees, batch of 8": (Options(Limits(8, 256, 64), tree=True), 8),
    "short of memory": (Options(Limits(8, 256, 64)), 8),
}
BUILT_IN = (
    "Write a short poem about the sea.",
    "Repeat this sentence three times, changing one word each time: the quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n\nRewrite this function with type hints and repeat it with multiplication.",
    "List the months of the year, then list them again backwards.",
    "What is photosynthesis? Explain it to a child, then to a student.",
    "Summarise: The cat sat on the mat. The dog sat on the cat. The mat sat on the floor, and the floor was flat.",
)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    settings = Settings(threads=arguments.threads, compute=arguments.compute)
    loaded = load(obtain(arguments.weights), lambda: datetime.now(UTC), settings)
    texts = list(BUILT_IN) if not arguments.data else [t for path in arguments.data for t in _texts(path)]
    random.Random(0).shuffle(texts)
    tasks = _tasks(loaded, texts[: arguments.count], arguments.tokens)
    expected, _ = answers(loaded, PLAIN, tasks, 1)
    given = [_with_given(task, expected, i) for i, task in enumerate(tasks)]
    rows = []
    for name, (options, together) in VARIANTS.items():
        pages = 40 if name == "short of memory" else None
        got, figures = answers(loaded, options, given, together, pages)
        differ = sum(a != b for a, b in zip(got, expected, strict=True))
        tokens = sum(map(len, expected))
        rows.append({"variant": name, "answers": len(got), "tokens": tokens, "differ": differ, **figures})
        print(f"{name:32} answers {len(got)}  tokens {tokens}  differ {differ}  {figures}", flush=True)
    if arguments.json:
        report = {"benchmark": "engine_identity", "weights": arguments.weights, "compute": loaded.engine.model.compute}
        arguments.json.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n")


def answers(
    loaded: Loaded, options: Options, tasks: Sequence[Task], together: int, pages: int | None = None
) -> tuple[list[list[int]], dict[str, Any]]:
    """The tokens of each answer, and what making them took."""
    model = loaded.engine.model
    memory = Memory(model.shape, pages or pages_for(model.shape, 512, model.dtype), model.dtype, model.device)
    engine = Engine(model, loaded.tokenizer, memory, loaded.context, time.perf_counter, options)
    said: list[list[int]] = [[] for _ in tasks]
    start, at = time.process_time(), 0
    while at < len(tasks) or engine.busy:
        while at < len(tasks) and len(engine.running) + len(engine.waiting) < together:
            engine.add(Job([tasks[at]], _into(said[at])))
            at += 1
        engine.step()
    engine.check()
    figures = {
        "tokens_a_step": round(sum(map(len, said)) / engine.steps, 2),
        "tok_per_cpu_s": round(sum(map(len, said)) / (time.process_time() - start), 1),
        "preempted": engine.preempted,
    }
    return said, figures


def _into(tokens: list[int]) -> Any:
    def emit(events: Any) -> None:
        if isinstance(events, Exception):
            raise events
        tokens.extend(t.token for e in events or () if isinstance(e, Piece) for t in e.tokens)

    return emit


def _tasks(loaded: Loaded, texts: Sequence[str], most: int) -> list[Task]:
    out = []
    for i, text in enumerate(texts):
        prompt = loaded.template.encode([{"role": "user", "content": text}], 1 << 20)[-1500:]
        hot = i % 2 == 1
        sampling = Sampling(temperature=0.8, top_p=0.95) if hot else Sampling(temperature=0.0)
        out.append(Task(prompt, Ask(sampling, seed=i, n=1, most=most, stops=())))
    return out


def _with_given(task: Task, expected: Sequence[Sequence[int]], i: int) -> Task:
    """Every third answer is guessed from itself with words missing, every third from another one's."""
    if i % 3 == 2:
        return task
    text = expected[i] if i % 3 == 0 else expected[i - 1]
    return Task(task.prompt, task.ask, given=([t for j, t in enumerate(text) if j % 17 != 9],))


def _texts(path: Path) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = row.get("prompt") or row.get("question") or next(iter(row.get("turns") or []), None)
            if isinstance(text, str) and text:
                yield text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", default=DEFAULT)
    parser.add_argument("--data", type=Path, nargs="*")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute", choices=["int8", "float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
