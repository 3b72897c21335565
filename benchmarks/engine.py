"""The bundled engine on this CPU beside transformers and llama.cpp: decoding, batches, prompts, loading, perplexity.

    python benchmarks/engine.py [--data FILE] [--llamacpp PYTHON] [--json OUT] [--quick]

`--data` is a .jsonl.gz whose lines have a `passage`; without it no perplexity is measured; `--llamacpp` a Python with
cyllama. Every system is a process of its own with one thread; they take turns in a random order, each round
the same tokens, and the least CPU time of the rounds counts: other work on the machine disturbs that least.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import Report, Row, arguments, at_least, at_most
from rich.progress import track

from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.template import ChatTemplate
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, obtain

HERE = Path(__file__).resolve().parent
OURS, EXACT, LLAMACPP = "trimtab int8", "trimtab float32", "llama.cpp"
TRANSFORMERS = ("transformers float32", "transformers bfloat16")
TOPICS = (
    "how a gateway in front of a language model works", "why the sky is blue", "how bread is baked",
    "what inflation is",
    "how a bicycle stays upright", "the history of the telephone", "how vaccines work", "why leaves change colour",
    "how a compiler works", "what makes a good teacher", "how rivers shape valleys", "why people dream",
    "how glass is made", "the rules of chess", "how batteries store energy", "why the sea is salty",
)  # fmt: skip
STREAMS = len(TOPICS)


class System:
    """A process that does what it is told, a JSON line at a time."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.name} has died; its own message is above")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = arguments(__doc__, "perplexity is measured on its passages")
    parser.add_argument("--llamacpp", type=Path, metavar="PYTHON", help="a Python that has cyllama")
    options = parser.parse_args()
    path = obtain(DEFAULT)
    systems = started(path, options.llamacpp)
    chance = random.Random(options.seed)
    rounds, tokens = (2, 16) if options.quick else (6, 48)
    try:
        texts = prompts(path)
        alone = raced(systems, chance, rounds, "one stream", prompts=texts[:1], tokens=tokens)
        batch = raced(systems, chance, max(2, rounds // 2), f"{STREAMS} streams", prompts=texts, tokens=tokens // 2)
        rows = speeds(alone, batch)
        rows += [at_most("load_s", min(systems[OURS].ask(do="load")["seconds"] for _ in range(3)), 2.0, unit="s", n=3)]
        rows += [reading(systems[OURS], texts[0], n, rounds) for n in (64, 512)]
        if options.data:
            rows += perplexities(systems, path, passages(options.data[0], 4 if options.quick else 12))
    finally:
        for system in systems.values():
            system.close()
    Report("engine", rows, options.seed, NOTES).publish(options.json)


NOTES = [
    "Tokens per CPU second of one thread. A batch of transformers is padded; llama.cpp's sequences share each call."
]


def started(path: Path, llamacpp: Path | None) -> dict[str, System]:
    ours = [sys.executable, str(HERE / "engine_house.py"), str(path)]
    theirs = [sys.executable, str(HERE / "engine_transformers.py"), str(path)]
    commands = {OURS: [*ours, "--compute", "int8"], EXACT: [*ours, "--compute", "float32"]}
    commands |= {name: [*theirs, "--compute", name.split()[1]] for name in TRANSFORMERS}
    if llamacpp is not None:
        commands[LLAMACPP] = [str(llamacpp), str(HERE / "engine_llamacpp.py"), str(path)]
    return {name: System(name, command) for name, command in track(commands.items(), "loading")}


def prompts(path: Path) -> list[list[int]]:
    """A question of each stream, as the model was trained to read it; all in the same number of tokens."""
    checkpoint = open_checkpoint(path)
    template = ChatTemplate(checkpoint.template, Tokenizer(checkpoint.vocabulary), lambda: datetime.now(UTC))
    asked = [f"Explain in a few paragraphs {topic}." for topic in TOPICS]
    encoded = [list(template.encode([{"role": "user", "content": text}], 1 << 20)) for text in asked]
    longest = max(map(len, encoded))
    return [[*[ids[0]] * (longest - len(ids)), *ids] for ids in encoded]


def raced(
    systems: dict[str, System], chance: random.Random, rounds: int, name: str, **work: Any
) -> dict[str, list[float]]:
    """Tokens a CPU second of every round."""
    made = len(work["prompts"]) * work["tokens"]
    speed: dict[str, list[float]] = {system: [] for system in systems if system != EXACT}
    for _ in track(range(rounds), name):
        for system in chance.sample(sorted(speed), len(speed)):
            speed[system].append(made / systems[system].ask(do="decode", **work)["seconds"])
    return speed


def speeds(alone: dict[str, list[float]], batch: dict[str, list[float]]) -> list[Row]:
    one, many = ({name: max(found) for name, found in speed.items()} for speed in (alone, batch))
    rows = [shown("decode_tok_per_cpu_s", name, found) for name, found in alone.items()]
    rows += [shown(f"decode_{STREAMS}_streams_tok_per_cpu_s", name, found) for name, found in batch.items()]
    peer = max(one[name] for name in TRANSFORMERS)
    rows.append(at_least("vs_transformers", one[OURS] / peer, 2.0, n=len(alone[OURS])))
    if LLAMACPP in one:
        rows.append(at_least("vs_llamacpp", one[OURS] / one[LLAMACPP], 1.3, n=len(alone[OURS])))
    rows.append(at_least("scale_16_streams", many[OURS] / one[OURS], 8.0, n=len(batch[OURS])))
    best = max(found for name, found in many.items() if name != OURS)
    rows.append(at_least("16_streams_vs_best_peer", many[OURS] / best, 5.0, n=len(batch[OURS])))
    return rows


def shown(metric: str, system: str, found: Sequence[float]) -> Row:
    return Row(metric, max(found), "tok/s", len(found), (min(found), max(found)), system=system)


def reading(system: System, prompt: Sequence[int], count: int, rounds: int) -> Row:
    ids = (list(prompt) * (count // len(prompt) + 1))[:count]
    found = [count / system.ask(do="read", prompt=ids)["seconds"] for _ in range(rounds)]
    return shown(f"prefill_{count}_tok_per_cpu_s", OURS, found)


def passages(path: Path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as f:
        texts = dict.fromkeys(json.loads(line)["passage"] for line in f)
    return list(texts)[:count]


def perplexities(systems: dict[str, System], path: Path, texts: Sequence[str]) -> list[Row]:
    """The first is what the file's own weights say, in float32. (cyllama gives no logits.)"""
    tokenizer = Tokenizer(open_checkpoint(path).vocabulary)
    ids = [list(tokenizer.encode(text))[:256] for text in texts]
    count = sum(len(text) - 1 for text in ids)
    names = (EXACT, OURS, TRANSFORMERS[0])
    found = {
        name: math.exp(-systems[name].ask(do="score", texts=ids)["logprob"] / count)
        for name in track(names, "perplexity")
    }
    rows = [Row("perplexity", value, n=count, system=name) for name, value in found.items()]
    return [*rows, at_most("perplexity_ratio", found[OURS] / found[EXACT], 1.01, n=count, system=OURS)]


if __name__ == "__main__":
    main()
