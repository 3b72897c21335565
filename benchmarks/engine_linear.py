"""What one layer's matrices cost on this CPU in each form of weights, by rows, and what each costs in perplexity.

    python benchmarks/engine_linear.py [WEIGHTS] [--data FILE] [--json OUT] [--quick]

WEIGHTS is a name of the catalogue, a .gguf file or a folder. `--data` is a .jsonl(.gz) whose lines have a `passage` or
a `text`; without it no perplexity is measured. Costs are milliseconds of CPU for one row, or so many, through all the
layers' matrices on one thread, forms taken in turns; perplexity is the plain forward pass with each form's products.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Report, Row, arguments, at_most

from trimtab.backends.engine.checkpoint import Checkpoint, open_checkpoint
from trimtab.backends.engine.linear import Compute, Linear
from trimtab.backends.engine.perplexity import perplexity
from trimtab.backends.engine.quantize import TOGETHER
from trimtab.backends.engine.quantize_job import texts
from trimtab.backends.engine.reference import Reference
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, obtain

FORMS: tuple[Compute, ...] = ("int8", "int4", "bfloat16", "float32")
ROWS = (1, 4, 8, 16, 32, 64)
CPU = torch.device("cpu")


def main() -> None:
    parser = arguments(__doc__, "perplexity is measured on it")
    parser.add_argument("weights", nargs="?", default=DEFAULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(obtain(options.weights))
    rows = costs(checkpoint, 3 if options.quick else 9, random.Random(options.seed))
    if options.data:
        rows += losses(checkpoint, options.data, 4 if options.quick else 40)
    Report("engine_linear", rows, options.seed).publish(options.json)


def costs(checkpoint: Checkpoint, rounds: int, order: random.Random) -> list[Row]:
    """One row for each form and count of rows; a form keeps all its matrices, so that none stays in a cache."""
    made = {form: [list(layer(checkpoint, i, form)) for i in range(checkpoint.shape.layers)] for form in FORMS}
    seen: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        cases = list(itertools.product(FORMS, ROWS))
        order.shuffle(cases)
        for form, count in cases:
            seen.setdefault((form, count), []).append(once(checkpoint, made[form], count))
    return [
        Row(f"{count} rows", min(times), "ms", len(times), (min(times), max(times)), system=form)
        for (form, count), times in sorted(seen.items(), key=lambda item: (item[0][1], FORMS.index(item[0][0])))
    ]


def layer(checkpoint: Checkpoint, i: int, form: Compute) -> Any:
    return (Linear(checkpoint, tuple(f"layers.{i}.{name}" for name in names), form, CPU) for names in TOGETHER)


def once(checkpoint: Checkpoint, layers: list[list[Linear]], count: int) -> float:
    s = checkpoint.shape
    inputs = [torch.randn(count, width) for width in (s.hidden, s.heads * s.head, s.hidden, s.mlp)]
    if all(matrix.blocks is not None for matrices in layers for matrix in matrices):
        return taped(layers, inputs)
    with torch.inference_mode():
        start = time.process_time()
        for matrices in layers:
            for matrix, x in zip(matrices, inputs, strict=True):
                matrix(x)
        return 1000 * (time.process_time() - start)


def taped(layers: list[list[Linear]], inputs: list[torch.Tensor]) -> float:
    """As a pass computes them: one tape, writing rows for products included."""
    from trimtab.backends.engine.native import Rows, Tape, add_product, base

    tape, count = Tape(), len(inputs[0])
    room, rows = Rows(count, max(x.shape[1] for x in inputs), 1), np.array([count])
    for matrices in layers:
        for matrix, x in zip(matrices, inputs, strict=True):
            tape.add(base(), "plain", rows, x, *room.written, matrix.blocks.width)
            add_product(tape, rows, room, matrix.blocks, torch.empty((count, matrix.blocks.outputs)))
    start = time.process_time()
    tape.run(1)
    return 1000 * (time.process_time() - start)


def losses(checkpoint: Checkpoint, data: list[Path], count: int) -> list[Row]:
    """Perplexity in float32, and each form's as a multiple of it, on the same texts."""
    tokenizer, reference = Tokenizer(checkpoint.vocabulary), Reference(checkpoint)
    pieces = [tokenizer.encode(text)[:256] for text in itertools.islice(texts(data), count)]
    tokens = sum(len(p) - 1 for p in pieces)
    exact = perplexity(reference, pieces)
    rows = [Row("perplexity", exact, n=tokens, system="float32")]
    for form in ("int8", "int4", "bfloat16"):
        ratio = perplexity(reference, pieces, product=Products(checkpoint, form)) / exact
        if form == "int8":
            rows.append(at_most("perplexity ratio", ratio, 1.01, n=tokens, system="int8"))
        else:
            rows.append(Row("perplexity ratio", ratio, n=tokens, system=form))
    return rows


class Products:
    """The reference's products computed in one form. A layer is walked once for all texts, so its few matrices are
    made when they are first met and dropped when the layer's tensors are."""

    def __init__(self, checkpoint: Checkpoint, form: Compute) -> None:
        self._checkpoint, self._form = checkpoint, form
        self._layer = -1
        self._weight: torch.Tensor | None = None
        self._made: dict[str, Linear] = {}

    def __call__(self, name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if name == "q" and weight is not self._weight:
            self._layer, self._weight, self._made = self._layer + 1, weight, {}
        if name not in self._made:
            self._made[name] = Linear(self._checkpoint, (f"layers.{self._layer}.{name}",), self._form, CPU)
        return self._made[name](x)


if __name__ == "__main__":
    main()
