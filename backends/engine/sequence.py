"""One answer on its way through the engine, and the request it belongs to. State only: nothing is decided here.

A sequence has `tokens`, of which the first `computed` have their keys and values in `pages`. Reading a prompt, decoding
and coming back after a preemption are all "compute the rest": the last row gives the next token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...protocol.errors import TrimtabError
from .request import Ask, Choice, Sampling

if TYPE_CHECKING:
    from .finish import Finish
    from .grammar import Grammar
    from .grammar_compile import Compiled
    from .guess import Guess


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


@dataclass(frozen=True, slots=True)
class Surprises:
    """What a `Reading` was for: log-probabilities in nats, float32 [tokens read]."""

    choice: int
    logs: Any


Event = Piece | Ended | Scored | Surprises


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and how it is to be answered. `first` is the number of its first choice; `entropy` seeds what has no
    seed; `expected` is how many tokens the answer is thought to have; `given` are texts that it may resemble; `form` is
    what it must be, if anything."""

    prompt: List[int]
    ask: Ask
    first: int = 0
    entropy: int = 0
    expected: int | None = None
    given: tuple[List[int], ...] = ()
    form: Compiled | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Tokens to be read only: `following` has the successors of the last so many of them, whose log-probabilities are
    asked for. Pages are kept for later readings of the first `shared` tokens."""

    prompt: List[int]
    following: List[int]
    shared: int = 0
    first: int = 0
    expected: int | None = 0


@dataclass(slots=True, eq=False)
class Job:
    """One request. `cancelled` may be set by anyone at any time; the counts are of all its answers.

    `emit` is called on the engine's thread with events, an error that ends it, or None when all is said. `told` counts
    events, and `taken` those that the client's side has taken: while they are far apart, the request waits.
    `logprob` is the sum of its tokens' log-probabilities, in nats, if it is `judged` by them; `generated` counts them.
    """

    tasks: List[Task | Reading]
    emit: Callable[[List[Any] | TrimtabError | None], None]
    tenant: str = ""
    cancelled: bool = False
    generated: int = 0
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    judged: bool = False
    logprob: float = 0.0
    told: int = 0
    taken: int = 0
    open: int = 0
    over: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer (or, before its prompt is read, all answers of a task; or a reading)."""

    job: Job
    task: Task | Reading
    tokens: list[int]
    arrived: float
    choice: int = 0
    most: int = 0  # tokens of the answer
    sampling: Sampling = field(default_factory=Sampling)
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    known: int = 0  # pages, from the first, that are in the prefix tree
    forks: int = 0  # further answers that begin where this one's prompt ends
    finish: Finish | None = None
    grammar: Grammar | None = None
    guess: Guess | None = None
    said: Counter[int] = field(default_factory=Counter)  # of the answer; kept where penalties ask for it
    scores: list[Any] = field(default_factory=list)  # of the prompt, or of a reading
    admitted: float = 0.0
    waited: bool = False  # it was running before and had to make room
    _marked: list[int] = field(default_factory=list)  # positions of global tokens among the first _looked ones
    _looked: int = 0

    def marked(self, marks: frozenset[int]) -> List[int]:
        """Where the tokens `marks` stand."""
        if marks:
            self._marked += [i for i in range(self._looked, len(self.tokens)) if self.tokens[i] in marks]
            self._looked = len(self.tokens)
        return self._marked

    @property
    def pending(self) -> int:
        """Rows to compute before the next token is known."""
        return len(self.tokens) - self.computed

    @property
    def prompt(self) -> int:
        return len(self.task.prompt)

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt

    @property
    def scored(self) -> bool:
        """Whether the prompt's own log-probabilities are asked for."""
        return isinstance(self.task, Task) and self.task.ask.echo and self.task.ask.sampling.logprobs is not None

    @property
    def reusable(self) -> int:
        """How many tokens need not be computed if they are known: all but those whose logits are needed."""
        if isinstance(self.task, Reading):
            return len(self.task.prompt) - len(self.task.following)
        return 0 if self.scored else len(self.tokens) - 1

    @property
    def expected(self) -> int | None:
        return self.task.expected

    @property
    def tenant(self) -> str:
        return self.job.tenant
