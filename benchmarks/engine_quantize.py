"""What 4 bits cost a model in perplexity: GPTQ against rounding to nearest, on other texts than GPTQ saw.

    python benchmarks/engine_quantize.py [WEIGHTS ...] [--train FILE --data FILE] [--group N] [--json OUT] [--quick]

`--train` calibrates and `--data` measures; both are .txt, or .jsonl(.gz) with a `passage` or a `text`, and must be
different texts. Without `--train` most of `--data` calibrates; without either, articles that come with Python do. A
model whose file already holds groups of 32 in 4 bits loses nothing by rounding to the same grid: its figures are of
groups of 64, or of a symmetric grid.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from report import Report, Row, arguments, at_most

from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.quantize import Plan, quantize
from trimtab.backends.engine.quantize_job import pieces, texts
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, obtain


def main() -> None:
    parser = arguments(__doc__, "perplexity is measured on it")
    parser.add_argument("weights", nargs="*", default=[DEFAULT])
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--symmetric", action="store_true", help="a grid with zero in its middle")
    parser.add_argument("--texts", type=int, default=64, help="texts that calibrate; half as many measure")
    options = parser.parse_args()
    count = 8 if options.quick else options.texts
    rows = [row for name in options.weights for row in of_model(name, options, count)]
    Report("engine_quantize", rows, options.seed).publish(options.json)


def of_model(name: str, options: object, count: int) -> list[Row]:
    train, data, group, symmetric = (getattr(options, n) for n in ("train", "data", "group", "symmetric"))
    checkpoint = open_checkpoint(obtain(name))
    tokenizer = Tokenizer(checkpoint.vocabulary)
    if train:
        calibrate, measure = read(tokenizer, train, count), read(tokenizer, data, count // 2)
    else:
        calibrate, measure = pieces(tokenizer, data, 200 * count)
    if {tuple(t) for t in calibrate} & {tuple(t) for t in measure}:
        raise SystemExit("--train and --data have texts in common")
    n, label = sum(map(len, measure)), f"{Path(name).name} g{group}{' symmetric' if symmetric else ''}"
    cost = {m: quantize(checkpoint, Plan(m, 4, group, symmetric), calibrate, measure) for m in ("rtn", "gptq")}
    share = cost["gptq"].loss / cost["rtn"].loss if cost["rtn"].loss > 0 else 1.0
    return [
        Row(f"{label}: perplexity", cost["rtn"].before, n=n, system="as it is"),
        Row(f"{label}: perplexity", cost["rtn"].after, n=n, system="rtn"),
        Row(f"{label}: perplexity", cost["gptq"].after, n=n, system="gptq"),
        at_most(f"{label}: loss of gptq / of rtn", share, 0.5, n=n),
    ]


def read(tokenizer: Tokenizer, files: list[Path], count: int) -> list[list[int]]:
    return [tokenizer.encode(text)[:256] for text in itertools.islice(texts(files), count)]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
