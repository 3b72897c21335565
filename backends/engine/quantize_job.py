"""One run of `trimtab quantize`: from the command line's words to lines that say what came out.

Texts are cut into pieces; every fourth one only measures, the others only calibrate. Without texts of the user's own
they are the articles about Python that come with Python: English prose and code, on every machine.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ...protocol.errors import ModelUnavailable
from .checkpoint import Checkpoint, open_checkpoint
from .download import shown
from .linear import Compute, Linear, best_compute
from .quantize import TOGETHER, Plan, quantize
from .tokenizer import Tokenizer
from .weights import obtain

_PIECE = 256  # tokens of a text that are read in one go
_FIELDS = ("text", "passage", "prompt", "content")


def quantize_job(
    weights: str,
    method: str,
    bits: int,
    group: int,
    data: list[Path],
    out: Path | None,
    tokens: int,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What to tell the user; `tokens` is how many calibrate.

    Raises ModelUnavailable, or OSError and ValueError for files that cannot be read or written.
    """
    plan = Plan("gptq" if method == "gptq" else "rtn", bits, group)
    if out is not None and bits != 4:
        raise ValueError("only 4 bits can be written to a folder; leave --out away to measure other widths")
    if out is not None and (out / "config.json").exists():
        raise ValueError(f"{out} already holds a model; name another folder")
    path = obtain(weights, None, shown())
    checkpoint = open_checkpoint(path)
    calibrate, measure = pieces(Tokenizer(checkpoint.vocabulary), data, tokens)
    start = time.perf_counter()
    cost = quantize(checkpoint, plan, calibrate, measure, out, seen)
    seconds = time.perf_counter() - start
    count = sum(map(len, measure))
    lines = [
        f"{method}, {bits} bits, groups of {group}: {seconds:.0f} s, {sum(map(len, calibrate))} tokens calibrated",
        f"perplexity  {cost.before:.3f} -> {cost.after:.3f}  ({100 * cost.loss:+.2f} %, give or take "
        f"{100 * cost.error:.2f}; {count} tokens of other texts)",
        f"divergence  {cost.divergence:.4f} nats a token",
    ]
    if out is not None:
        lines.append(f"size        {_megabytes(path)} -> {_megabytes(out)}  {out}")
        usual = best_compute(torch.device("cpu"))
        before, after = step_ms(checkpoint, usual), forms_ms(open_checkpoint(out), usual)
        form = min(after, key=after.__getitem__)
        lines.append(f"one row through every matrix  {before:.1f} ms as {usual} -> {after[form]:.1f} ms as {form}")
        lines.append(f"serve it with  weights: {out}{'' if form == usual else f', compute: {form}'}")
    return lines


def pieces(tokenizer: Tokenizer, data: list[Path], tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Texts to calibrate with, about `tokens` of them, and others to measure with, a third of that.

    Raises ValueError when there is too little text.
    """
    calibrate: list[list[int]] = []
    measure: list[list[int]] = []
    have = 0
    for i, text in enumerate(texts(data)):
        if have >= tokens and measure:
            break
        piece = tokenizer.encode(text[: 8 * _PIECE])[:_PIECE]
        if len(piece) < 2:
            continue
        if i % 4 == 3:
            measure.append(piece)
        else:
            calibrate.append(piece)
            have += len(piece)
    if not measure:
        raise ValueError("there is too little text: four pieces at least, some to calibrate and others to measure")
    return calibrate, measure


def texts(data: list[Path]) -> Iterator[str]:
    """Paragraphs of text files, or the field of .jsonl(.gz) files that holds a text; else Python's own articles."""
    if not data:
        from pydoc_data.topics import topics  # plain text, a part of every Python

        yield from (text for text in topics.values() if len(text) > 800)
    for path in data:
        reader = gzip.open if path.suffix == ".gz" else open
        with reader(path, "rt", encoding="utf-8") as f:
            if ".jsonl" not in path.suffixes:
                yield from (p for p in f.read().split("\n\n") if p.strip())
                continue
            yield from dict.fromkeys(_text(json.loads(line), path) for line in f)


def _text(row: object, path: Path) -> str:
    found = next((row[f] for f in _FIELDS if isinstance(row.get(f), str)), None) if isinstance(row, dict) else None
    if found is None:
        raise ValueError(f"a line of {path} has none of the fields {', '.join(_FIELDS)}")
    return str(found)


def forms_ms(checkpoint: Checkpoint, usual: Compute) -> dict[Compute, float]:
    """`step_ms` as the engine computes without being told, and as it does when told that all weights are in 4 bits."""
    forms: tuple[Compute, ...] = (usual, "int4")
    return {form: step_ms(checkpoint, form) for form in forms}


def step_ms(checkpoint: Checkpoint, compute: Compute) -> float:
    """Milliseconds of CPU for one row through every layer's matrices, the best of five."""
    cpu = torch.device("cpu")
    matrices = [
        Linear(checkpoint, tuple(f"layers.{i}.{name}" for name in names), compute, cpu)
        for i in range(checkpoint.shape.layers)
        for names in TOGETHER
    ]
    widths = {"q": checkpoint.shape.hidden, "o": checkpoint.shape.heads * checkpoint.shape.head}
    widths |= {"gate": checkpoint.shape.hidden, "down": checkpoint.shape.mlp}
    rows = [torch.randn(1, widths[names[0]]) for names in TOGETHER] * checkpoint.shape.layers

    def once() -> float:
        start = time.perf_counter()
        for matrix, row in zip(matrices, rows, strict=True):
            matrix(row)
        return 1000 * (time.perf_counter() - start)

    with torch.inference_mode():
        return min(once() for _ in range(5))


def _megabytes(path: Path) -> str:
    if not path.exists():
        raise ModelUnavailable("the weights are gone", detail=str(path))
    files = [f for f in path.iterdir() if f.is_file()] if path.is_dir() else [path]
    return f"{sum(f.stat().st_size for f in files) / 1e6:.0f} MB"
