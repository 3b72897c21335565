"""What a small model still knows of the answer after a prompt was shortened, method by method.

Five passages, one of which holds the answer, stand before a question. Each method leaves a share of the passages; the
reader, a model on the bundled engine, then says how probable it finds the gold answer. The figure is the change of that
log-probability in nats against the whole prompt: 0 where nothing was lost, more where the reader finds it more easily.

The token-level methods are written down here as their papers describe them, with the same small model as their scorer:
`selective-context` (arXiv 2310.06201) leaves out the words with the least self-information, `llmlingua` (2310.05736)
does so in windows that see what was kept before them, `longllmlingua` (2310.06839) counts only what the question makes
more probable. `prose` is trimtab's own tier, which leaves numbers, names and negations alone; `evidence` is its
pruner's scoring, whole sentences at a time.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from report import Row
from rich.progress import track

from trimtab.backends.embed import open_embedder
from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.score import EngineScorer
from trimtab.compression.deadline import Deadline
from trimtab.compression.evidence import embedded_text, scores
from trimtab.compression.policy import ProsePolicy
from trimtab.compression.spans import Conversation
from trimtab.compression.surprise import Prose
from trimtab.compression.unit import Unit
from trimtab.compression.units import units
from trimtab.protocol.messages import Request

RATIOS = (0.5, 0.3)
_CALL = {"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}
_WORD = re.compile(r"\S+\s*")
_WINDOW = 200  # tokens, as in LLMLingua's iterative_size


@dataclass(frozen=True)
class Question:
    """One item: `passages` are shuffled, `answer` is the first gold answer."""

    text: str
    answer: str
    passages: list[tuple[str, str]]


Method = Callable[[Question, float], Awaitable[str]]


async def readings(data: Path, weights: str, count: int, seed: int) -> list[Row]:
    """Rows `reader_logprob_delta_{method}_{ratio}`, one system a method."""
    backend = EngineBackend(weights)
    await backend.start()
    embedder = open_embedder()
    await embedder.start()
    try:
        reader = EngineScorer(backend)
        methods = _methods(reader, embedder, random.Random(seed))
        deltas: dict[tuple[str, float], list[float]] = {}
        for question in track(questions(data, count, seed), "reader", disable=not sys.stderr.isatty()):
            whole = await known(reader, question, context(question.passages))
            for name, method in methods.items():
                for ratio in RATIOS:
                    text = await method(question, ratio)
                    deltas.setdefault((name, ratio), []).append(await known(reader, question, text) - whole)
    finally:
        await embedder.close()
        await backend.close()
    return [
        Row(f"reader_logprob_delta_{name}_{ratio:g}", statistics.mean(found), unit="nats", n=len(found), system=name)
        for (name, ratio), found in deltas.items()
    ]


def questions(data: Path, count: int, seed: int, beside: int = 4) -> list[Question]:
    """`count` questions of a context file, each with its gold passage and `beside` others, in a random order."""
    with gzip.open(data, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rng = random.Random(seed)
    made = []
    for row in rng.sample(rows, min(count, len(rows))):
        others = [r for r in rng.sample(rows, beside * 4) if not _says(r["passage"], row["answers"])][:beside]
        passages = [(str(r.get("title", "")), str(r["passage"])) for r in (row, *others)]
        rng.shuffle(passages)
        made.append(Question(row["question"], row["answers"][0], passages))
    return made


def _says(passage: str, answers: list[str]) -> bool:
    return any(answer.lower() in passage.lower() for answer in answers)


def context(passages: list[tuple[str, str]]) -> str:
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in passages)


async def known(reader: EngineScorer, question: Question, text: str) -> float:
    """The log-probability of the gold answer behind the shortened passages and the question, in nats."""
    prompt = f"{text}\n\nQuestion: {question.text.strip().rstrip('?')}?\nAnswer:"
    found = await reader.logprobs(f" {question.answer}", prompt)
    return float(found.logprobs.sum())


# The methods. Each leaves about `ratio` of the characters.


def _methods(reader: EngineScorer, embedder: Any, rng: random.Random) -> dict[str, Method]:
    read: dict[tuple[str, str], Any] = {}

    async def surprise(text: str, given: str = "") -> Any:
        """Read once for all ratios of a question."""
        if (text, given) not in read:
            if len(read) > 4:
                read.clear()
            read[text, given] = await _surprise(reader, text, given)
        return read[text, given]

    async def truncated(question: Question, ratio: float) -> str:
        text = context(question.passages)
        return text[: int(len(text) * ratio)]

    async def some(question: Question, ratio: float) -> str:
        found, text = _units(question)
        return _kept(found, text, np.array([rng.random() for _ in found]), ratio)

    async def evidence(question: Question, ratio: float) -> str:
        found, text = _units(question)
        vectors = await embedder.embed([question.text, *map(embedded_text, found)])
        return _kept(found, text, scores(question.text, found, vectors[0], vectors[1:]), ratio)

    async def selective(question: Question, ratio: float) -> str:
        text = context(question.passages)
        return _least_out(text, await surprise(text), ratio)

    async def lingua(question: Question, ratio: float) -> str:
        return await _windows(reader, context(question.passages), ratio)

    async def long_lingua(question: Question, ratio: float) -> str:
        text = context(question.passages)
        plain = await surprise(text)
        asked = await surprise(text, f"{question.text}\n\n")
        return _least_out(text, plain - asked, ratio)

    async def prose(question: Question, ratio: float) -> str:
        messages = [
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c", "content": context(question.passages)},
        ]
        conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
        assert conversation is not None
        policy = ProsePolicy(enabled=True, keep=ratio, deadline_ms=60_000)
        made = await Prose(reader)(conversation, policy, Deadline(60))
        return next(iter(made.texts.values()), context(question.passages))

    return {
        "evidence": evidence,
        "prose": prose,
        "selective-context": selective,
        "llmlingua": lingua,
        "longllmlingua": long_lingua,
        "random sentences": some,
        "truncated": truncated,
    }


def _units(question: Question) -> tuple[list[Unit], str]:
    text = context(question.passages)
    found: list[Unit] = []
    at = 0
    for document, (title, passage) in enumerate(question.passages):
        at = text.index(passage, at)
        found += units(text, at, at + len(passage), document, title)
        at += len(passage)
    return found, text


def _kept(found: list[Unit], text: str, values: Any, ratio: float) -> str:
    """The best units until the share is reached, in their order."""
    left = int(len(text) * ratio)
    kept: list[int] = []
    for i in np.argsort(-values, kind="stable"):
        size = found[i].end - found[i].start
        if size <= left:
            kept.append(int(i))
            left -= size
    return " ".join(text[found[i].start : found[i].end].strip() for i in sorted(kept))


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _WORD.finditer(text)]


async def _surprise(reader: EngineScorer, text: str, given: str = "") -> Any:
    """Each word's self-information, the mean over its tokens, in nats."""
    found = await reader.logprobs(text, given)
    words = _words(text)
    starts = np.array([start for start, _ in words])
    # A token that begins with the space before a word belongs to that word.
    middles = np.minimum(found.ends - 1, len(text) - 1)
    owner = np.clip(np.searchsorted(starts, middles, side="right") - 1, 0, len(words) - 1)
    counts = np.bincount(owner, minlength=len(words))
    return np.bincount(owner, weights=-found.logprobs, minlength=len(words)) / np.maximum(counts, 1)


def _least_out(text: str, values: Any, ratio: float) -> str:
    words = _words(text)
    kept = values >= np.quantile(values, 1 - ratio)
    return "".join(text[start:end] for (start, end), stays in zip(words, kept, strict=True) if stays)


async def _windows(reader: EngineScorer, text: str, ratio: float) -> str:
    """Window by window, each scored behind what was kept of those before it."""
    words, out = _words(text), ""
    for i in range(0, len(words), _WINDOW):
        piece = text[words[i][0] : words[min(i + _WINDOW, len(words)) - 1][1]]
        out += _least_out(piece, await _surprise(reader, piece, out), ratio)
    return out
