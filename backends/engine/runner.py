"""Running answers on the model, one step at a time: a piece of a prompt, or one token of an answer.

Knows the model, sampling and where an answer ends; nothing of threads, queues or wire formats.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from .finish import Finish
from .gguf import GGUF
from .grammar import JsonGrammar
from .linear import Compute
from .model import KV, Model
from .request import Ask, Choice
from .sample import choose, logprobs
from .template import ChatTemplate
from .tokenizer import Detokenizer, Tokenizer

_PROMPT_PIECE = 256  # tokens of a prompt a step: other answers wait no longer than this


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that comes out of one file of weights."""

    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate
    fingerprint: str
    context: int


def load(
    path: Path, now: Callable[[], datetime], context: int | None, compute: Compute | None, threads: int | None
) -> Loaded:
    """Load a GGUF file; `context` may only shorten the model's own. Raises ModelUnavailable."""
    torch.set_num_threads(threads or min(4, len(os.sched_getaffinity(0))))
    file = GGUF(path)
    tokenizer = Tokenizer(file.metadata)
    template = ChatTemplate(file.metadata, tokenizer, now)
    model = Model(file, compute, "cuda" if torch.cuda.is_available() else "cpu")
    digest = hashlib.sha256(file.header() + model.compute.encode()).hexdigest()
    most = min(context or model.shape.context, model.shape.context)
    return Loaded(model, tokenizer, template, f"fp_{digest[:12]}", most)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one choice that may be shown, with the tokens it came from."""

    choice: int
    text: str
    tokens: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice is finished: "stop" or "length"."""

    choice: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scored:
    """The prompt's own log-probabilities, each token after the first given what is before it."""

    choice: int
    tokens: tuple[Choice, ...]


Event = Piece | Ended | Scored


@dataclass(slots=True)
class _Answer:
    choice: int
    ask: Ask
    most: int
    kv: KV
    logits: torch.Tensor | None  # of the token to be chosen next; None: `last` has yet to be fed to the model
    finish: Finish
    grammar: JsonGrammar | None
    said: Counter[int] = field(default_factory=Counter)
    last: int = 0
    count: int = 0


class Run:
    """One prompt and its `n` answers. `step` does a little and gives what came of it; `done` when all have ended."""

    def __init__(self, loaded: Loaded, prompt: list[int], ask: Ask, first_choice: int, entropy: int) -> None:
        """`prompt` has at least one token and fewer than the context holds; `entropy` seeds what has no seed."""
        self._loaded, self._prompt, self._ask = loaded, prompt, ask
        self._first, self._entropy = first_choice, entropy
        self._kv = loaded.model.cache()
        self._answers: list[_Answer] = []
        self._scores: list[Choice] = [Choice(prompt[0])]
        self.generated = 0  # tokens, of all answers
        self.done = False

    def step(self) -> list[Event]:
        """A piece of the prompt, or one token of each answer."""
        if self._kv.length < len(self._prompt):
            return self._read()
        events = [event for answer in self._answers for event in self._go_on(answer)]
        ended = {event.choice for event in events if isinstance(event, Ended)}
        self._answers = [answer for answer in self._answers if answer.choice not in ended]
        self.done = not self._answers
        return events

    def _read(self) -> list[Event]:
        start = self._kv.length
        piece = self._prompt[start : start + _PROMPT_PIECE]
        scored = self._ask.echo and self._ask.sampling.logprobs is not None
        logits = self._loaded.model.forward(piece, self._kv, every=scored)
        if scored:
            self._score(logits, start)
        if self._kv.length < len(self._prompt):
            return []
        self._answers = [self._begun(i, logits[-1:]) for i in range(self._ask.n)]
        return [Scored(a.choice, tuple(self._scores)) for a in self._answers] if scored else []

    def _score(self, logits: torch.Tensor, start: int) -> None:
        alternatives = self._ask.sampling.logprobs
        following = self._prompt[start + 1 : start + 1 + len(logits)]
        self._scores += [logprobs(row, token, alternatives) for row, token in zip(logits, following, strict=False)]

    def _begun(self, i: int, logits: torch.Tensor) -> _Answer:
        choice = self._first + i
        most = self._loaded.context - len(self._prompt)
        most = most if self._ask.most is None else min(most, self._ask.most)
        sampling = replace(self._ask.sampling, seed=self._ask.seed_of(choice, self._entropy))
        tokenizer = self._loaded.tokenizer
        return _Answer(
            choice=choice,
            ask=replace(self._ask, sampling=sampling),
            most=most,
            kv=self._kv if i == self._ask.n - 1 else self._kv.fork(),
            logits=logits,
            finish=Finish(Detokenizer(tokenizer), self._ask.stops),
            grammar=JsonGrammar(tokenizer.bytes, most) if self._ask.json else None,
        )

    def _go_on(self, answer: _Answer) -> list[Event]:
        if answer.count >= answer.most:
            return self._ended(answer, "length")
        # The model runs first, so that a token is on its way to the client before the next one is computed.
        logits = self._loaded.model.forward([answer.last], answer.kv) if answer.logits is None else answer.logits
        choice = choose(logits, answer.ask.sampling, answer.said, answer.count, answer.grammar)
        answer.count += 1
        self.generated += 1
        if choice.token in self._loaded.tokenizer.ends:
            return self._ended(answer, "stop")
        answer.said[choice.token] += 1
        events = self._shown(answer, answer.finish.feed(choice))
        if answer.finish.stopped:
            return [*events, Ended(answer.choice, "stop")]
        if answer.grammar is not None:
            answer.grammar.take(choice.token)
            if answer.grammar.complete:
                return events + self._ended(answer, "stop")
        if answer.count >= answer.most:
            return events + self._ended(answer, "length")
        answer.logits, answer.last = None, choice.token
        return events

    def _ended(self, answer: _Answer, reason: str) -> list[Event]:
        return [*self._shown(answer, answer.finish.flush()), Ended(answer.choice, reason)]

    def _shown(self, answer: _Answer, shown: tuple[str, tuple[Choice, ...]]) -> list[Any]:
        text, tokens = shown
        return [Piece(answer.choice, text, tokens)] if text or tokens else []
