"""Real answers to real questions by a small and a large model on the bundled engine, judged: labels for a router.

python benchmarks/route_answers.py --data GSM8K.jsonl.gz --small WEIGHTS --large WEIGHTS --out answers.jsonl [--count N]

Each line of the output is one for `trimtab route fit`: the prompt, both answers, whether their last number is the right
one, their tokens and mean log-probabilities. It goes on where it was stopped. Temperature 0, so whoever repeats it gets
the same answers.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import time
from pathlib import Path
from typing import Any

from report import screen
from rich.progress import Progress

from trimtab.backends.base import Call, Timeouts
from trimtab.backends.engine.backend import EngineBackend
from trimtab.protocol.messages import Request
from trimtab.routing.arithmetic import numbers

SYSTEM = "Work the answer out in a few short lines, one sum on each. The last line is: The answer is <number>."
AT_ONCE = 16
LONGEST = 300  # tokens of an answer
SMALL, LARGE = "small", "large"


def questions(path: Path, count: int) -> list[tuple[str, float]]:
    """Prompts and right answers: GSM8K's lines."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [json.loads(line) for line in file]
    found = []
    for row in rows[:count]:
        right = float(row["answer"].split("####")[1].replace(",", "").strip())
        found.append((row["question"].strip(), right))
    return found


def asking(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def right(text: str, gold: float) -> bool:
    """Whether the last number said is the right one."""
    said = numbers(text.replace("$", ""))[-1:]
    return bool(said) and abs(said[0] - gold) < 1e-4


async def answer(backend: EngineBackend, prompt: str) -> dict[str, Any]:
    fields = {"model": "m", "messages": asking(prompt), "temperature": 0, "max_tokens": LONGEST}
    call = Call(
        "chat",
        Request.build("chat", fields | {"logprobs": True}),
        "r",
        timeouts=Timeouts(first_token=900, idle=900, total=3600),
    )
    whole = await backend.complete(call)
    choice = json.loads(whole.body)["choices"][0]
    said = [token["logprob"] for token in choice["logprobs"]["content"]]
    assert whole.usage is not None
    return {
        "text": choice["message"]["content"],
        "prompt": whole.usage.prompt,
        "tokens": whole.usage.completion,
        "logprob": round(sum(said) / max(1, len(said)), 4),
    }


async def record(args: argparse.Namespace, name: str, weights: str) -> dict[str, dict[str, Any]]:
    """The model's answers by prompt; those in its file are not asked for again."""
    kept = args.out.with_suffix(f".{name}.jsonl")
    known = {row["asked"]: row for row in map(json.loads, kept.open())} if kept.exists() else {}
    asked = [prompt for prompt, _ in questions(args.data, args.count) if prompt not in known]
    if not asked:
        return known
    backend = EngineBackend(weights, most_running=AT_ONCE, threads=args.threads)
    await backend.start()
    began, tokens = time.monotonic(), 0
    with Progress(console=screen()) as bar, kept.open("a") as file:
        task = bar.add_task(name, total=len(asked))
        for at in range(0, len(asked), AT_ONCE):
            batch = asked[at : at + AT_ONCE]
            for prompt, said in zip(batch, await asyncio.gather(*(answer(backend, p) for p in batch)), strict=True):
                known[prompt] = {"asked": prompt, **said}
                tokens += said["tokens"]
                file.write(json.dumps(known[prompt]) + "\n")
            file.flush()
            bar.advance(task, len(batch))
    await backend.close()
    screen().print(f"{name}: {tokens} tokens in {time.monotonic() - began:.0f} s")
    return known


async def main(args: argparse.Namespace) -> None:
    small = await record(args, SMALL, args.small)
    large = await record(args, LARGE, args.large)
    lines = []
    for prompt, gold in questions(args.data, args.count):
        one, other = small[prompt], large[prompt]
        said = {SMALL: one, LARGE: other}
        lines.append(
            {
                "prompt": prompt,
                "good": {name: int(right(each["text"], gold)) for name, each in said.items()},
                "answers": {name: each["text"] for name, each in said.items()},
                "tokens": {"prompt": one["prompt"], **{name: each["tokens"] for name, each in said.items()}},
                "logprobs": {name: each["logprob"] for name, each in said.items()},
            }
        )
    args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in (SMALL, LARGE):
        screen().print(f"{name}: {sum(line['good'][name] for line in lines) / len(lines):.1%} right of {len(lines)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="questions as GSM8K has them: question, answer")
    parser.add_argument("--small", required=True, help="weights of the small model: a GGUF file or a catalogue's name")
    parser.add_argument("--large", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--threads", type=int, help="of the engine; one, where others work on the machine too")
    asyncio.run(main(parser.parse_args()))
