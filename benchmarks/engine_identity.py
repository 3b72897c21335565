"""Whether anything that makes the engine faster changes an answer: every token compared, prompt by prompt.

    python benchmarks/engine_identity.py [WEIGHTS] [--data PROMPTS ...] [--compute FORM] [--count N] [--json OUT]

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
from report import Report, Row, arguments, at_most
from rich.progress import track

from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.loaded import Loaded, load
from trimtab.backends.engine.memory import Memory, pages_for
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.schedule import Limits
from trimtab.backends.engine.sequence import Job, Piece, Task
from trimtab.backends.engine.settings import Settings
from trimtab.backends.engine.weights import DEFAULT, obtain

EXACT = ("int8", "float32")  # the forms of weights that promise the same bits in any company
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
    options = _arguments()
    torch.set_num_threads(options.threads)
    settings = Settings(threads=options.threads, compute=options.compute)
    loaded = load(obtain(options.weights), lambda: datetime.now(UTC), settings)
    texts = list(BUILT_IN) if not options.data else [t for path in options.data for t in _texts(path)]
    random.Random(options.seed).shuffle(texts)
    count, tokens = (6, 24) if options.quick else (options.count, options.tokens)
    tasks = _tasks(loaded, texts[options.skip : options.skip + count], tokens)
    expected, _ = answers(loaded, PLAIN, tasks, 1)
    given = [_with_given(task, expected, i) for i, task in enumerate(tasks)]
    rows: list[Row] = []
    compute = loaded.engine.model.compute
    for name, (variant, together) in track(VARIANTS.items(), f"{len(tasks)} answers, {compute}"):
        got, tokens_a_step = answers(loaded, variant, given, together, 40 if name == "short of memory" else None)
        system = f"{compute}: {name}"
        rows += [*differences(got, expected, system, exact=compute in EXACT)]
        rows.append(Row("tokens_a_step", tokens_a_step, n=len(got), system=system))
    Report("engine_identity", rows, options.seed).publish(options.json)


def differences(
    got: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], system: str, *, exact: bool
) -> Iterator[Row]:
    """Tokens that differ; in a form of weights that promises nothing, how often a choice is another."""
    first = [_first_difference(a, b) for a, b in zip(got, expected, strict=True)]
    parted = sum(at is not None for at in first)
    compared = sum(len(b) if at is None else at + 1 for at, b in zip(first, expected, strict=True))
    tokens = sum(len(b) - at for at, b in zip(first, expected, strict=True) if at is not None)
    every = sum(map(len, expected))
    if exact:
        yield at_most("identity_differences", tokens, 0, unit="tokens", n=every, system=system)
    else:
        yield Row("identity_differences", tokens, "tokens", every, system=system)
        yield Row("tie_rate", parted / compared, "of choices", compared, system=system)


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    if list(a) == list(b):
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def answers(
    loaded: Loaded, options: Options, tasks: Sequence[Task], together: int, pages: int | None = None
) -> tuple[list[list[int]], float]:
    """The tokens of each answer, and how many a step made."""
    model = loaded.engine.model
    kept = model.kept
    memory = Memory(model.shape, pages or pages_for(model.shape, 512, kept), kept, model.device)
    engine = Engine(model, loaded.tokenizer, memory, loaded.context, time.perf_counter, options)
    said: list[list[int]] = [[] for _ in tasks]
    at = 0
    while at < len(tasks) or engine.busy:
        while at < len(tasks) and len(engine.running) + len(engine.waiting) < together:
            engine.add(Job([tasks[at]], _into(said[at])))
            at += 1
        engine.step()
    engine.check()
    return said, sum(map(len, said)) / engine.steps


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
        sampling = Sampling(temperature=0.8, top_p=(1.0, 0.95)[i // 2 % 2]) if hot else Sampling(temperature=0.0)
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
    parser = arguments(__doc__, "prompts, a JSON object a line")
    parser.add_argument("weights", nargs="?", default=DEFAULT)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="so many prompts: a long run in parts")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute", choices=["int8", "float32", "bfloat16"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
