"""What a step of the engine takes on a GPU: captured or launched anew, over keys in 16 bits or in 8.

    python benchmarks/kernels/engine_steps.py [--shape 8b] [--quick] [--json OUT]
    python benchmarks/kernels/engine_steps.py --rehearse     anywhere, in Triton's interpreter: right or wrong, no times

Weights are noise of a Llama's shape. A case is so many sequences, new rows of each (1: decoding; more: verifying a
guess) and tokens before them; a step is timed from its rows on the host to its likeliest tokens there, ways in random
order. `TB/s` is what the weights and the keys and values that are read come to. A captured step is compared with one
that is not before anything is timed: more than a tenth off, in logits, is an exit status of 1.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

_LLAMA = {"epsilon": 1e-5, "biases": False, "qk_norm": False, "vocabulary": 128_256, "kv_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": _LLAMA | {"layers": 32, "hidden": 4096, "heads": 32, "head": 128, "mlp": 14_336, "tied": False},
    "1b": _LLAMA | {"layers": 16, "hidden": 2048, "heads": 32, "head": 64, "mlp": 8192, "tied": True},
    "tiny": _LLAMA
    | {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head": 16, "mlp": 96, "vocabulary": 90, "tied": True},
}
Case = tuple[int, int, int]
CASES: list[Case] = [(1, 1, 1024), (1, 8, 1024), (16, 1, 1024), (16, 4, 1024), (64, 1, 4096), (256, 1, 1024),
                     (1, 1, 32_768), (8, 8, 32_768)]  # fmt: skip
SMALL: list[Case] = [(1, 1, 20), (3, 2, 17)]
PAGE = 64


def main(words: list[str]) -> int:
    from report import Report, Row, arguments

    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=("8b", "1b"), default="8b")
    parser.add_argument("--rehearse", action="store_true", help="a tiny shape on the CPU, in Triton's interpreter")
    options = parser.parse_args(words)
    if options.rehearse:
        os.environ |= {"TRITON_INTERPRET": "1", "TRIMTAB_KERNELS": "triton"}
    rows: list[Row] = []
    wrong = False
    model = loaded("tiny" if options.rehearse else options.shape)
    for fp8 in (False, True):
        bench = Bench(model, fp8)
        for case in SMALL if options.rehearse else CASES:
            name, error = f"{case[0]}x{case[1]}@{case[2]}{' fp8' if fp8 else ''}", bench.difference(case)
            wrong |= not error < 0.1
            wrong |= bench.graphs.given_up
            rows.append(Row(f"{name}/off", error))
            if options.rehearse or not error < 0.1:
                continue
            times = bench.times(case, 10 if options.quick else 50, random.Random(options.seed))
            for way, found in times.items():
                rows.append(Row.over(f"{name}/{way}", found, unit="ms"))
                rows.append(Row(f"{name}/{way}", bench.moved(case) / min(found) / 1e9, "TB/s"))
    Report("engine_steps", rows, options.seed).publish(options.json)
    return int(wrong)


class Noise:
    """A checkpoint whose tensors are one tile of noise, again and again."""

    def __init__(self, name: str) -> None:
        import numpy as np

        from trimtab.backends.engine.shape import Rope, Shape

        facts = SHAPES[name]
        self.shape = Shape("llama", **facts, context=65_536, rope=Rope.build(facts["head"], 500_000.0, False))
        self._tile = np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)
        self._sizes = self.shape.dimensions()

    def floats(self, name: str) -> Any:
        import numpy as np

        size = self._sizes[name]
        noise = np.resize(self._tile, size)
        return 1 + 0.1 * noise if len(size) == 1 else noise / np.float32(size[-1] ** 0.5)


def loaded(shape: str) -> Any:
    """A model of noise: on a GPU where there is one."""
    import torch

    from trimtab.backends.engine.model import Model
    from trimtab.kernels import interpreter

    cuda = torch.cuda.is_available()
    if not cuda:
        interpreter.mend()
    checkpoint: Any = Noise(shape)
    return Model(checkpoint, None if cuda else "float32", "cuda" if cuda else "cpu")


class Bench:
    """A model over a memory of its own."""

    def __init__(self, model: Any, fp8: bool) -> None:
        import torch

        from trimtab.backends.engine.attention import Sight
        from trimtab.backends.engine.forward import Pass
        from trimtab.backends.engine.graphs import CudaGraphs, Graphs
        from trimtab.backends.engine.memory import Memory

        cuda, cases = model.device.type == "cuda", SMALL if model.shape.layers == 2 else CASES
        pages = max(n * -(-(rows + before) // PAGE) for n, rows, before in cases)
        self.memory = Memory(model.shape, pages, model.dtype, model.device, PAGE, fp8=fp8)
        for held in (self.memory.keys, self.memory.values):
            held.copy_(torch.randn(held.shape[1:], device=held.device).expand(held.shape))
        self.model, self.captured = model, Pass(model, self.memory, Sight())
        longest = max(rows + before for _, rows, before in cases)
        self.graphs = Graphs(model, self.memory, Sight(), longest, CudaGraphs() if cuda else lambda launch: launch)
        self.captured.graphs = self.graphs

    def rows(self, case: Case, token: int) -> list[Any]:
        from trimtab.backends.engine.batch import Rows

        sequences, new, before = case
        each = -(-(new + before) // PAGE)
        return [
            Rows([token + i] * new, before, range(1 + i * each, 1 + (i + 1) * each), range(new))
            for i in range(sequences)
        ]

    def difference(self, case: Case) -> float:
        """How far off the logits of a captured step are, of those of one that is not; captures it."""
        rows = self.rows(case, 5)
        usual = self.captured.logits(rows, captured=False)
        for _ in range(3):
            found = self.captured.logits(rows)
        return float((found - usual).norm() / usual.norm())

    def times(self, case: Case, rounds: int, order: random.Random) -> dict[str, list[float]]:
        """Milliseconds of steps: captured, and launched anew."""
        found: dict[str, list[float]] = {"captured": [], "launched": []}
        for i in range(rounds):
            for way in order.sample([*found], 2):
                rows = self.rows(case, 6 + i)
                found[way].append(timed(lambda rows=rows, way=way: self._step(rows, way == "captured")))  # type: ignore[misc]
        return found

    def _step(self, rows: list[Any], captured: bool) -> None:
        self.captured.logits(rows, captured=captured).argmax(-1).tolist()

    def moved(self, case: Case) -> int:
        """Bytes of weights, and of the keys and values that a step reads."""
        s, kept = self.model.shape, self.memory.keys.dtype.itemsize
        width = s.hidden * (s.heads + 2 * s.kv_heads) * s.head + s.heads * s.head * s.hidden + 3 * s.hidden * s.mlp
        weights = 2 * (s.layers * width + s.hidden * s.vocabulary)
        return weights + 2 * kept * s.layers * s.kv_heads * s.head * case[0] * (case[1] + case[2])


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
