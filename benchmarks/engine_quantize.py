"""What 4 bits cost a model in perplexity: GPTQ against rounding to nearest, on other texts than GPTQ saw.

    python benchmarks/engine_quantize.py [WEIGHTS ...] [--train FILE --data FILE] [--grid G] [--group N ...]

`--train` calibrates and `--data` measures; both are .txt, or .jsonl(.gz) with a `passage` or a `text`, and must be
different texts. Without `--train` most of `--data` calibrates; without either, articles that come with Python do.
A loss over a few thousand tokens is mostly chance: its standard error stands beside it, and so does how far the model's
own distributions moved, which is surer. Each group is measured with a grid from the least to the greatest weight, and
with one that has zero in its middle; groups that do not divide a model's widths are left out. What is rounded are the
file's own weights: where those are in 4 bits already, rounding to nearest loses little or nothing on a grid like the
file's, and such a row has no bar.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
from report import Report, Row, arguments, at_most

from trimtab.backends.engine.checkpoint import Checkpoint, open_checkpoint
from trimtab.backends.engine.linear import swift
from trimtab.backends.engine.perplexity import last_states
from trimtab.backends.engine.quantize import Plan, quantize
from trimtab.backends.engine.quantize_job import pieces, texts
from trimtab.backends.engine.reference import Reference
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, obtain
from trimtab.protocol.errors import ModelUnavailable

_LOST = 0.02  # a loss of rounding below it says that the grid is the file's own
_GRIDS = {"full": (False,), "symmetric": (True,), "both": (False, True)}


def main() -> None:
    parser = arguments(__doc__, "perplexity is measured on it")
    parser.add_argument("weights", nargs="*", default=[DEFAULT])
    parser.add_argument("--group", type=int, nargs="+", default=[32])
    parser.add_argument("--grid", choices=("full", "symmetric", "both"), default="both", help="default: both")
    parser.add_argument("--texts", type=int, default=160, help="texts that calibrate, and as many that measure")
    options = parser.parse_args()
    count = 8 if options.quick else options.texts
    groups = options.group[:1] if options.quick else options.group
    rows = [row for name in options.weights for row in of_model(name, options, groups, count)]
    Report("engine_quantize", rows, options.seed).publish(options.json)


def of_model(name: str, options: Namespace, groups: list[int], count: int) -> list[Row]:
    checkpoint = open_checkpoint(obtain(name))
    tokenizer = Tokenizer(checkpoint.vocabulary)
    if options.train:
        calibrate, measure = read(tokenizer, options.train, count), read(tokenizer, options.data, count)
    else:
        calibrate, measure = pieces(tokenizer, options.data, 200 * count)
    if {tuple(t) for t in calibrate} & {tuple(t) for t in measure}:
        raise SystemExit("--train and --data have texts in common")
    before = last_states(Reference(checkpoint), measure, product=swift)
    short = Path(name).name.removesuffix(".gguf")
    rows: list[Row] = []
    for group, symmetric in itertools.product(groups, _GRIDS[options.grid]):
        if fits(checkpoint, group):
            label = f"{short}, groups of {group}{', symmetric' if symmetric else ''}"
            rows += of_grid(checkpoint, label, Plan("rtn", 4, group, symmetric), calibrate, measure, before)
    return rows


def fits(checkpoint: Checkpoint, group: int) -> bool:
    try:
        Plan("rtn", 4, group).check(checkpoint)
    except ModelUnavailable:
        return False
    return True


def of_grid(
    checkpoint: Checkpoint,
    label: str,
    plan: Plan,
    calibrate: list[list[int]],
    measure: list[list[int]],
    before: list[torch.Tensor],
) -> list[Row]:
    n = sum(len(text) - 1 for text in measure)
    rtn = quantize(checkpoint, plan, calibrate, measure, before=before)
    gptq = quantize(checkpoint, replace(plan, method="gptq"), calibrate, measure, before=before)
    rows = [Row("perplexity", rtn.before, n=n, system=f"{label}: as it is")]
    for name, cost in (("rtn", rtn), ("gptq", gptq)):
        rows += [
            Row("perplexity", cost.after, n=n, system=f"{label}: {name}"),
            Row("standard_error_of_loss", cost.error, n=n, system=f"{label}: {name}"),
            Row("divergence", cost.divergence, unit="nats a token", n=n, system=f"{label}: {name}"),
        ]
    rows.append(Row("divergence_of_gptq_over_rtn", gptq.divergence / rtn.divergence, n=n, system=label))
    if rtn.loss > _LOST:
        rows.append(at_most("loss_of_gptq_over_rtn", gptq.loss / rtn.loss, 0.5, n=n, system=label))
    return rows


def read(tokenizer: Tokenizer, files: list[Path], count: int) -> list[list[int]]:
    return [tokenizer.encode(text)[:256] for text in itertools.islice(texts(files), count)]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
