"""The bundled engine at the benchmark's work, in a process of its own: one JSON command a line, one answer a line.

    python benchmarks/engine_house.py MODEL [--compute int8]

The commands are those of `engine_llamacpp.py`; `{"do": "read", "prompt": [ids]}` answers with the CPU seconds of
reading a prompt, `{"do": "score", "texts": [[ids]]}` with the log-probability of all tokens but the first of each text,
`{"do": "load"}` with the seconds from a path to a model that has decoded a token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.loaded import Loaded, load
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.sequence import Job, Reading, Surprises, Task
from trimtab.backends.engine.settings import Settings


class Worker:
    """One model on one thread."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path, self._settings = path, settings
        self._loaded = self._load()

    def _load(self) -> Loaded:
        loaded = load(self._path, lambda: datetime.now(UTC), self._settings)
        loaded.tokenizer.ends = frozenset()  # no token ends an answer: every run computes as much
        return loaded

    def load(self) -> dict[str, Any]:
        start = time.perf_counter()
        self._load()
        return {"seconds": time.perf_counter() - start}

    def plain(self) -> Engine:
        """An engine that neither guesses nor reuses anything."""
        model = self._loaded.engine.model
        memory = Memory(model.shape, 512, model.kept, model.device)
        options = Options(draft=0, prefixes=False)
        return Engine(model, self._loaded.tokenizer, memory, self._loaded.context, time.perf_counter, options)

    def decode(self, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """CPU seconds of `tokens` steps of all answers at once."""
        engine = self.plain()
        ask = Ask(Sampling(temperature=0.0), seed=0, n=1, most=tokens + 1, stops=())
        for prompt in prompts:
            engine.add(Job([Task(prompt, ask)], lambda said: None))
        while any(s.pending > 1 for s in (*engine.running, *engine.waiting)):
            engine.step()
        before, start = engine.steps, time.process_time()
        while engine.busy:
            engine.step()
        assert engine.steps - before == tokens, (engine.steps - before, tokens)
        return {"seconds": time.process_time() - start}

    def read(self, prompt: Sequence[int]) -> dict[str, Any]:
        engine = self.plain()
        engine.add(Job([Task(prompt, Ask(Sampling(), seed=0, n=1, most=1, stops=()))], lambda said: None))
        start = time.process_time()
        while engine.busy:
            engine.step()
        return {"seconds": time.process_time() - start}

    def score(self, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The log-probability of all tokens but the first of each text, in nats."""
        logs: list[Any] = []

        def emit(said: Any) -> None:
            for event in said or ():
                if isinstance(event, Surprises):
                    logs.extend(event.logs)

        engine = self.plain()
        for text in texts:
            engine.add(Job([Reading(text[:-1], text[1:])], emit))
        while engine.busy:
            engine.step()
        return {"logprob": float(sum(part.sum(dtype="float64") for part in logs))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--compute", choices=["int8", "bfloat16", "float32", "int4"])
    given = parser.parse_args()
    worker = Worker(given.model, Settings(threads=1, compute=given.compute))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
