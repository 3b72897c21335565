"""Speculation of the bundled engine: the same prompts with it on and off, by kind of text; what a near miss is worth.

    python benchmarks/engine_speculation.py --data CHAT.jsonl.gz [MORE] [--pairs PAIRS.jsonl.gz] [--small WEIGHTS]
        [--weights WEIGHTS] [--kinds KIND ...] [--json OUT] [--quick]

`--data` are files whose lines have a `category` and `turns`, as Spec-Bench's and MT-bench's; `--pairs` is one whose
lines have `a`, `b` and `same`, questions that mean the same. `--small` is a model that drafts for `--weights`; that
alone is measured then. One model on one thread, one answer at a time, greedy unless the row says otherwise; each prompt
is answered with speculation on and off in random order, with nothing of the one left to the other. A speed-up is the
time off over the time on, prompts included: CPU time, which other work on the machine disturbs least, and the wall's
beside it. Steps are those that say something; what is accepted is what they say beyond one token.
"""

from __future__ import annotations

import gzip
import inspect
import itertools
import json
import random
import re
import shlex
import statistics
import string
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from report import Report, Row, arguments, at_least

from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.draft_best import BestDrafter
from trimtab.backends.engine.draft_given import GivenDrafter
from trimtab.backends.engine.draft_model import check_vocabulary
from trimtab.backends.engine.draft_model_run import OwnPages
from trimtab.backends.engine.draft_suffix import SuffixDrafter
from trimtab.backends.engine.engine import Engine, Options
from trimtab.backends.engine.memory import PAGE, Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Ask, Sampling
from trimtab.backends.engine.sequence import Job, Task
from trimtab.backends.engine.template import ChatTemplate
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.backends.engine.weights import DEFAULT, resolve

BARS = {"rewrite": 3.0, "summarise": 1.7}
LEAST, MIX, NEAR = 0.98, 1.2, 1.2
FIXED = (3, 7, 15)
CONTEXT = 4096
LISTS = ("countries in Africa", "kinds of fruit", "programming languages", "things to pack for a trip", "composers",
         "verbs for walking", "rivers", "colours", "board games", "chemical elements")  # fmt: skip
FUNCTIONS = (textwrap.shorten, textwrap.dedent, textwrap.indent, statistics.mode, string.capwords, shlex.join,
             statistics.median, shlex.quote, textwrap.fill, statistics.mean)  # fmt: skip
CATEGORIES = {"summarization": "summarise", "rag": "retrieval", "qa": "question", "translation": "translate",
              "math_reasoning": "arithmetic"}  # fmt: skip


@dataclass
class Run:
    """One answer: seconds of it all and of what came after the prompt, on the processor and on the wall."""

    tokens: list[int]
    steps: int
    drafted: int
    cpu: float
    wall: float
    decode_cpu: float


@dataclass
class Pair:
    """The same prompt with and without."""

    on: Run
    off: Run


@dataclass
class Machine:
    """One model and, over it, engines with and without speculation."""

    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate
    engines: dict[str, Engine] = field(default_factory=dict)
    tenants: int = 0

    def add(self, name: str, draft: int, tree: bool = False) -> None:
        memory = Memory(self.model.shape, CONTEXT // PAGE, self.model.kept, self.model.device)
        options = Options(draft=draft, tree=tree, prefixes=False)
        self.engines[name] = Engine(self.model, self.tokenizer, memory, CONTEXT, time.perf_counter, options)

    def prompt(self, text: str) -> list[int]:
        return self.template.encode([{"role": "user", "content": text}], CONTEXT - 256)

    def answer(
        self, name: str, prompt: list[int], most: int, sampling: Sampling, given: Sequence[list[int]] = ()
    ) -> Run:
        engine, drafted = self.engines[name], 0
        choose = engine.guesses.choose

        def counted(*asked):  # type: ignore[no-untyped-def]
            nonlocal drafted
            chosen = choose(*asked)
            drafted += sum(len(draft.tokens) for draft in chosen)
            return chosen

        self.tenants += 1  # nothing that was answered before is known to it
        ask = Ask(sampling, seed=self.tenants, n=1, most=most, stops=())
        job = Job([Task(prompt, ask, given=tuple(given))], lambda events: None, str(self.tenants))
        engine.add(job)
        sequence = engine.waiting[-1]
        engine.guesses.choose = counted
        steps, first = 0, 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        while engine.busy:
            before = len(sequence.tokens)
            engine.step()
            steps += len(sequence.tokens) > before
            if steps == 1 and not first:
                first = time.process_time()
        cpu_end, wall_end = time.process_time(), time.perf_counter()
        engine.guesses.choose = choose
        said = list(sequence.tokens[len(prompt) :])
        return Run(said, steps, drafted, cpu_end - cpu, wall_end - wall, cpu_end - first)


def main() -> None:
    parser = arguments(__doc__, "conversations to answer")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="questions that mean the same")
    parser.add_argument("--weights", default=DEFAULT)
    parser.add_argument("--small", metavar="WEIGHTS", help="a smaller model of the same vocabulary")
    parser.add_argument("--each", type=int, default=12, help="prompts of each kind")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer, at most")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of text, instead of all")
    options = parser.parse_args()
    noise = random.Random(options.seed)
    torch.set_num_threads(1)
    machine = open_machine(options.weights)
    each, most = (3, 80) if options.quick else (options.each, options.tokens)
    kinds = {kind: texts[:each] for kind, texts in prompts(options.data).items() if wanted(kind, options.kinds)}
    asked = [(kind, text) for kind, texts in kinds.items() for text in texts]
    noise.shuffle(asked)
    if options.small:
        return with_model(machine, options, asked, most, noise)
    rows, found = [], {kind: [] for kind in kinds}
    warm(machine)
    for kind, text in asked:
        found[kind].append(both(machine, machine.prompt(text), most, Sampling(temperature=0), noise))
    model = name_of(options.weights)
    rows += figures(found, model)
    if options.kinds is None:
        rows += of_all(found, model)
    seeded = [text for kind, text in asked if kind == "chat"][: each // 2 or 1]
    warmly = Sampling(temperature=0.8, top_p=0.95, seed=7)
    hot = [both(machine, machine.prompt(text), most, warmly, noise) for text in seeded]
    if hot:
        rows += of_kind("chat at 0.8", hot, None, model)
    differing = sum(pair.on.tokens != pair.off.tokens for pairs in (*found.values(), hot) for pair in pairs)
    n = len(asked) + len(hot)
    rows.append(Row("answers_that_differ", differing, n=n, bar=0, holds=differing == 0, system=model))
    if options.pairs:
        rows += near_misses(machine, questions(options.pairs, 4 if options.quick else 3 * each, noise), most, model)
    Report("engine_speculation", rows, seed=options.seed).publish(options.json)


def with_model(machine: Machine, options, asked: list[tuple[str, str]], most: int, noise: random.Random) -> None:  # type: ignore[no-untyped-def]
    """The mix with a small model that drafts beside the suffix drafter, and with that drafter alone."""
    path = resolve(options.small)
    checkpoint = open_checkpoint(path)
    check_vocabulary(Tokenizer(checkpoint.vocabulary).bytes, path.name, machine.tokenizer.bytes, options.weights)
    small = Model(checkpoint)
    machine.add("model", 31)
    machine.engines["model"].guesses.small = OwnPages(
        small, Memory(small.shape, CONTEXT // PAGE, small.kept, small.device), machine.tokenizer.size
    )
    warm(machine)
    rows, differing = [], 0
    for name, system in (("model", f"{name_of(options.small)} and suffix"), ("on", "suffix")):
        pairs = [both(machine, machine.prompt(t), most, Sampling(temperature=0), noise, name) for _, t in asked]
        rows += of_kind("mix", pairs, LEAST, f"{name_of(options.weights)}, drafts by {system}")
        differing += sum(pair.on.tokens != pair.off.tokens for pair in pairs)
    rows.append(Row("answers_that_differ", differing, n=2 * len(asked), bar=0, holds=differing == 0))
    notes = [f"{name_of(options.small)} drafts for {name_of(options.weights)}"]
    Report("engine_speculation_model", rows, seed=options.seed, notes=notes).publish(options.json)


def wanted(kind: str, kinds: list[str] | None) -> bool:
    return kinds is None or kind.replace(" ", "_") in kinds


def open_machine(weights: str) -> Machine:
    checkpoint = open_checkpoint(resolve(weights))
    tokenizer = Tokenizer(checkpoint.vocabulary)
    machine = Machine(
        Model(checkpoint), tokenizer, ChatTemplate(checkpoint.template, tokenizer, lambda: datetime.now(UTC))
    )
    machine.add("off", 0)
    machine.add("on", 31)
    return machine


def warm(machine: Machine) -> None:
    """First steps are slow for reasons that are none of speculation's, and the controller has yet to see any."""
    for name in machine.engines:
        machine.answer(name, machine.prompt("Count from one to fifty in words."), 60, Sampling(temperature=0))


def both(
    machine: Machine, prompt: list[int], most: int, sampling: Sampling, noise: random.Random, on: str = "on"
) -> Pair:
    names = [on, "off"]
    noise.shuffle(names)
    tenants = machine.tenants
    runs = {}
    for name in names:
        machine.tenants = tenants  # the same seed
        runs[name] = machine.answer(name, prompt, most, sampling)
    machine.tenants = tenants + 1
    return Pair(runs[on], runs["off"])


def figures(found: dict[str, list[Pair]], model: str) -> list[Row]:
    return [row for kind, pairs in found.items() for row in of_kind(kind, pairs, BARS.get(kind, LEAST), model)]


def of_all(found: dict[str, list[Pair]], model: str) -> list[Row]:
    every = [pair for pairs in found.values() for pair in pairs]
    worst = min(faster(pairs) for pairs in found.values())
    return [
        *of_kind("mix", every, MIX, model),
        at_least("spec_speedup_worst", worst, LEAST, n=len(found), system=model),
    ]


def faster(pairs: list[Pair]) -> float:
    return sum(p.off.cpu for p in pairs) / sum(p.on.cpu for p in pairs)


def of_kind(kind: str, pairs: list[Pair], bar: float | None, model: str) -> list[Row]:
    kind, n = kind.replace(" ", "_"), len(pairs)
    tokens = sum(len(p.on.tokens) for p in pairs)
    steps, drafted = sum(p.on.steps for p in pairs), sum(p.on.drafted for p in pairs)
    walls = sum(p.off.wall for p in pairs) / sum(p.on.wall for p in pairs)
    decode = sum(p.off.decode_cpu for p in pairs) / sum(p.on.decode_cpu for p in pairs)
    each = sorted(p.off.cpu / p.on.cpu for p in pairs)
    first = Row(f"spec_speedup_{kind}", faster(pairs), n=n, interval=(each[0], each[-1]), system=model)
    if bar is not None:
        first = at_least(first.metric, first.value, bar, n=n, interval=first.interval, system=model)
    return [
        first,
        Row(f"wall_{kind}", walls, n=n, system=model),
        Row(f"after_prompt_{kind}", decode, n=n, system=model),
        Row(f"accepted_per_step_{kind}", tokens / steps - 1, "tokens", tokens, system=model),
        Row(f"hit_rate_{kind}", (tokens - steps) / max(1, drafted), "share", drafted, system=model),
    ]


def near_misses(machine: Machine, pairs: list[tuple[str, str]], most: int, model: str) -> list[Row]:
    """Each question of a pair answered beside the answer to the other, and without. What guesses are worth whatever a
    row costs is counted over the same answers, as many verified at every step."""
    machine.add("near", 31)
    machine.add("near, tree", 31, tree=True)
    greedy = Sampling(temperature=0)
    totals: dict[str, list[float]] = {}
    counts: dict[tuple[int, bool], list[int]] = {}
    for pair in pairs:
        asked = [machine.prompt(text) for text in pair]
        plain = [machine.answer("on", prompt, most, greedy) for prompt in asked]
        other = [[run.tokens[:-1]] for run in reversed(plain)]
        for i, run in enumerate(plain):
            for most_guessed, near in itertools.product(FIXED, (False, True)):
                counted = counts.setdefault((most_guessed, near), [0, 0])
                counted[0] += len(run.tokens) - 1
                counted[1] += steps_of(asked[i], run.tokens, most_guessed, other[i] if near else [])
        for name, engine in (("suffix", ""), ("near miss", "near"), ("near miss in a tree", "near, tree")):
            runs = plain if not engine else [machine.answer(engine, asked[i], most, greedy, other[i]) for i in (0, 1)]
            total = totals.setdefault(name, [0.0, 0.0, 0.0])
            for run in runs:
                total[0] += len(run.tokens)
                total[1] += run.steps
                total[2] += run.cpu
    rows = []
    for name, (tokens, steps, cpu) in totals.items():
        system = f"{model}, {name}"
        rows.append(Row("paraphrase_tokens_per_step", tokens / steps, "tokens", int(tokens), system=system))
        rows.append(Row("paraphrase_tokens_per_cpu_s", tokens / cpu, "tokens", int(tokens), system=system))
        if name != "suffix":
            base = totals["suffix"]
            gain = tokens / steps / (base[0] / base[1])
            rows.append(at_least("near_miss_vs_suffix", gain, NEAR, n=2 * len(pairs), system=system))
    for most_guessed in FIXED:
        suffix, near = ((t / steps) for t, steps in (counts[most_guessed, False], counts[most_guessed, True]))
        system = f"{model}, {most_guessed} guesses at every step"
        rows.append(Row("paraphrase_tokens_per_step", suffix, "tokens", 2 * len(pairs), system=f"{system}, suffix"))
        rows.append(Row("paraphrase_tokens_per_step", near, "tokens", 2 * len(pairs), system=f"{system}, near miss"))
        rows.append(at_least("near_miss_vs_suffix", near / suffix, NEAR, n=2 * len(pairs), system=system))
    return rows


def steps_of(prompt: list[int], answer: list[int], most: int, given: Sequence[list[int]]) -> int:
    """Steps that an answer takes when `most` guesses are verified at each; no model is asked, its words are known."""
    drafters = [*[GivenDrafter(text, len(prompt)) for text in given], SuffixDrafter()]
    drafter, tokens, steps = BestDrafter(drafters), [*prompt, answer[0]], 0
    while len(tokens) < len(prompt) + len(answer):
        draft = drafter.propose(tokens, most)
        left = answer[len(tokens) - len(prompt) :]
        same = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], zip(draft.tokens, left, strict=False)))
        tokens += left[: same + 1]
        steps += 1
    return steps


def prompts(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Texts to send, by kind; those that ask for a copy are made of the documents in the files."""
    kinds: dict[str, list[str]] = {"rewrite": [], "summarise": [], "code edit": list(edits())}
    for line in lines(paths):
        kind, text = CATEGORIES.get(line["category"], "chat"), line["turns"][0]
        kinds.setdefault(kind, []).append(text)
        if kind == "retrieval":
            kinds["rewrite"].append(
                "Correct the spelling in this text and give back the whole text, otherwise unchanged:\n\n" + text[:700]
            )
    kinds["list"] = [f"List twenty {what}, one a line." for what in LISTS]
    return {kind: texts for kind, texts in kinds.items() if texts}


def edits() -> Iterator[str]:
    for function in FUNCTIONS:
        code = textwrap.dedent(inspect.getsource(function))[:1400]
        yield (
            f"Add a type hint to each parameter of this function and give the whole function:\n\n```python\n{code}\n```"
        )


def name_of(weights: str) -> str:
    return Path(weights).name.removesuffix(".gguf").removesuffix(".Q4_K_M")


def questions(path: Path, count: int, noise: random.Random) -> list[tuple[str, str]]:
    """Pairs that a cache would take for near misses: the same meaning, and four words in ten the same."""
    found = [
        (line["a"], line["b"])
        for line in lines([path])
        if line["same"] and 30 < len(line["a"]) < 120 and _alike(line["a"], line["b"]) >= 0.4
    ]
    noise.shuffle(found)
    return found[:count]


def _alike(a: str, b: str) -> float:
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(words & others) / max(1, len(words | others))


def lines(paths: Sequence[Path]) -> Iterator[dict]:  # type: ignore[type-arg]
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


if __name__ == "__main__":
    main()
