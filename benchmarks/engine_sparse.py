"""Attention that leaves something out: what it costs in accuracy, and what it saves, against the length of the context.

    python benchmarks/engine_sparse.py [--weights WEIGHTS] [--data FILE ...] [--lengths N ...] [--json OUT]
        [--plot PICTURE] [--quick]

Three ways for an answer to see its context, with the same budget of tokens: all of it; a window with sinks (and the
same with the line ends as global tokens); the best pages (Quest). `--data` are .txt, or .jsonl(.gz) with a `passage` or
a `text`; without it, articles that come with Python. For each length of context:

- perplexity of the 128 tokens that follow a context, texts of `--data` one after another;
- retrieval: codes are hidden at even depths of a context and asked for one after another; a token counts when it is
  the likeliest after the right ones before it, and `found` is the share of codes whose every token was;
- milliseconds of CPU that one more token takes, keys and values as they come; the best of several.

Under a window prompts are read through it as well; for the best pages they are read whole. One thread.
"""

from __future__ import annotations

import random
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from report import Report, Row, arguments

from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.attention_quest import Bounds
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.memory import PAGE, Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.quantize_job import texts
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, obtain

FOLLOWING = 128
SINKS = 4
CITIES = (
    "Lisbon",
    "Oslo",
    "Cairo",
    "Lima",
    "Quito",
    "Hanoi",
    "Dublin",
    "Geneva",
    "Havana",
    "Athens",
    "Nairobi",
    "Seoul",
)


@dataclass
class Mode:
    """A way to see, and the budget of tokens it has."""

    name: str
    budget: int
    sight: Sight


@dataclass
class Reader:
    """One text in a memory of its own; whatever is asked behind the context is forgotten before the next question."""

    model: Model
    sight: Sight
    length: int

    def __post_init__(self) -> None:
        shape = self.model.shape
        self.memory = Memory(shape, -(-(self.length + 512) // PAGE), self.model.kept, self.model.device)
        if self.sight.best is not None:
            self.memory.bounds = Bounds(self.memory)
        self.pages = list(range(1, self.memory.pages + 1))
        self.tokens: list[int] = []

    def read(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), 256):
            piece = tokens[start : start + 256]
            self._rows(piece, [], len(self.tokens) + len(piece))
            self.tokens += piece

    def follow(self, tokens: list[int], wanted: Sequence[int]) -> torch.Tensor:
        """Logits of some of the rows behind the context, each of which reads as an answer's rows do."""
        found = []
        kept = len(self.tokens)
        for start in range(0, len(tokens), 32):
            piece = tokens[start : start + 32]
            found.append(self._rows(piece, [i - start for i in wanted if start <= i < start + 32], kept))
            self.tokens += piece
        del self.tokens[kept:]
        return torch.cat(found)

    def _rows(self, new: list[int], wanted: list[int], exact: int) -> torch.Tensor:
        before = len(self.tokens)
        pages = self.pages[: -(-(before + len(new)) // PAGE)]
        marked = [i for i, token in enumerate([*self.tokens, *new]) if token in self.sight.marks]
        rows = Rows(new, before, pages, wanted, (), marked, exact)
        batch = Batch([rows], self.memory, self.model.shape.heads, self.sight, self.model.tiles)
        return self.model.forward(batch, self.memory)


def main() -> None:
    parser = arguments(__doc__, "texts that contexts are made of")
    parser.add_argument("--weights", default=DEFAULT)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 7680])
    parser.add_argument("--only-speed", type=int, nargs="*", default=[], help="further lengths, of which speed alone")
    parser.add_argument("--budgets", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--texts", type=int, default=2, help="contexts of each length")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw it, as .png or .svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.lengths, options.only_speed, options.budgets, options.texts = [1024], [], [256], 1
    checkpoint = open_checkpoint(obtain(options.weights))
    tokenizer, model = Tokenizer(checkpoint.vocabulary), Model(checkpoint)
    modes = modes_of(options.budgets, tokenizer)
    found: dict[tuple[str, str, int], tuple[float, int]] = {}
    for length in options.lengths:
        accuracy(model, tokenizer, modes, length, options, found)
    for length in (*options.lengths, *options.only_speed):
        speed(model, modes, length, 5 if options.quick else 15, random.Random(options.seed), found)
    name = Path(options.weights).name.removesuffix(".gguf")
    rows = [
        Row(f"{metric}_{length}", value, UNITS[metric], n, system=f"{name}: {mode}")
        for (metric, mode, length), (value, n) in sorted(found.items(), key=lambda item: (item[0][2], item[0][0]))
    ]
    notes = [f"computed in {model.compute}; contexts are followed by {FOLLOWING} tokens"]
    Report("engine_sparse", rows, seed=options.seed, notes=notes).publish(options.json)
    if options.plot:
        draw(options.plot, name, [mode.name for mode in modes], found)


UNITS = {"perplexity": "", "token_right": "share", "found": "share", "step": "ms"}


def modes_of(budgets: Sequence[int], tokenizer: Tokenizer) -> list[Mode]:
    ends = frozenset(ids[0] for text in ("\n", "\n\n") if len(ids := tokenizer.encode(text)) == 1)
    out = [Mode("all", 0, Sight())]
    for budget in budgets:
        out.append(Mode(f"window of {budget}", budget, Sight(budget - SINKS, SINKS)))
        out.append(Mode(f"window of {budget}, line ends", budget, Sight(budget - SINKS, SINKS, ends)))
        out.append(Mode(f"best {budget // PAGE} pages", budget, Sight(best=budget // PAGE)))
    return out


def accuracy(
    model: Model,
    tokenizer: Tokenizer,
    modes: Sequence[Mode],
    length: int,
    options: Namespace,
    found: dict[tuple[str, str, int], tuple[float, int]],
) -> None:
    stream = endless(tokenizer, options.data)
    plain = [[next(stream) for _ in range(length + FOLLOWING)] for _ in range(options.texts)]
    noise = random.Random(options.seed)
    hidden = [with_codes(tokenizer, text[:length], noise) for text in plain]
    for mode in modes:
        if mode.budget >= length:
            continue
        losses, right, whole = [], [], []
        for text in plain:
            reader = Reader(model, mode.sight, length)
            reader.read(text[: length - 1])
            logs = torch.log_softmax(reader.follow(text[length - 1 : -1], range(FOLLOWING)), -1)
            losses += (-logs[range(FOLLOWING), text[length:]]).tolist()
        for context, questions in hidden:
            reader = Reader(model, mode.sight, length)
            reader.read(context)
            for question, code in questions:
                asked = [*question, *code]
                said = reader.follow(asked[:-1], range(len(question) - 1, len(asked) - 1)).argmax(-1).tolist()
                hits = [a == b for a, b in zip(said, code, strict=True)]
                right += hits
                whole.append(all(hits))
        found["perplexity", mode.name, length] = float(torch.tensor(losses).mean().exp()), len(losses)
        found["token_right", mode.name, length] = sum(right) / len(right), len(right)
        found["found", mode.name, length] = sum(whole) / len(whole), len(whole)


def endless(tokenizer: Tokenizer, data: list[Path]):  # type: ignore[no-untyped-def]
    while True:
        for text in texts(data):
            yield from tokenizer.encode(text + "\n\n")


def with_codes(
    tokenizer: Tokenizer, text: list[int], noise: random.Random
) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """A text of as many tokens in which codes are hidden at even depths, and for each a question and its answer."""
    codes = [str(noise.randrange(10_000, 100_000)) for _ in CITIES]
    facts = [tokenizer.encode(f"\nThe access code of {c} is {code}.\n") for c, code in zip(CITIES, codes, strict=True)]
    room = len(text) - sum(map(len, facts))
    out: list[int] = []
    for i, fact in enumerate(facts):
        out += [*text[room * i // len(facts) : room * (i + 1) // len(facts)], *fact]
    ends = [
        (tokenizer.encode(f"\nThe access code of {c} is"), tokenizer.encode(f" {code}"))
        for c, code in zip(CITIES, codes, strict=True)
    ]
    return out[-len(text) :], ends


def speed(
    model: Model,
    modes: Sequence[Mode],
    length: int,
    rounds: int,
    noise: random.Random,
    found: dict[tuple[str, str, int], tuple[float, int]],
) -> None:
    """Keys and values are noise: what a step takes depends on how many it reads, and not on what they say."""
    readers = {}
    for mode in modes:
        if mode.budget >= length:
            continue
        reader = readers[mode.name] = Reader(model, mode.sight, length)
        reader.tokens = [noise.randrange(1000, 2000) for _ in range(length)]
        for tensor in (reader.memory.keys, reader.memory.values):
            tensor.normal_()
        if reader.memory.bounds is not None:
            for layer in range(model.shape.layers):
                reader.memory.bounds.note(reader.memory, layer, torch.tensor(reader.pages))
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name in noise.sample(sorted(readers), len(readers)):
            start = time.process_time()
            readers[name].follow([7], [0])
            times[name].append(1000 * (time.process_time() - start))
    for name, each in times.items():
        found["step", name, length] = min(each), len(each)


def draw(path: Path, model: str, modes: Sequence[str], found: dict[tuple[str, str, int], tuple[float, int]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "step": "CPU ms a token",
        "perplexity": "perplexity of what follows",
        "token_right": "retrieval, tokens right",
    }
    for axes, (metric, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for i, mode in enumerate(modes):
            points = sorted(
                (length, value) for (m, name, length), (value, _) in found.items() if (m, name) == (metric, mode)
            )
            style = {"color": "black", "linewidth": 2} if mode == "all" else {"color": f"C{i}"}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=mode, **style)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens of context")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(model)
    figure.savefig(path)


if __name__ == "__main__":
    main()
