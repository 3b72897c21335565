"""One request as the router sees it: the two models that may answer, what it needs, what each would cost. And what
became of it: the decision, with everything that is needed later to learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..protocol.exchange import Exchange, Target
from ..protocol.messages import Usage
from .choose import Candidate, Choice, Known, Needs
from .needs import answer_size, needs, prompt_size
from .policy import RoutePolicy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cascade import Deferral
    from .standing import Standing

LATER = frozenset(("audit", "judge"))  # kinds of requests that nobody asked for: nothing is learnt from them
_ALL = frozenset({"tools", "vision", "audio", "json", "schema"})


@dataclass(frozen=True, slots=True)
class State:
    """How a model does now: whether calls get through to it, and seconds until its first byte (0: unknown)."""

    healthy: bool = True
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Asking:
    """`prompt`: tokens of the prompt."""

    exchange: Exchange
    policy: RoutePolicy
    targets: tuple[Target, Target]
    candidates: tuple[Candidate, Candidate]
    needs: Needs
    prompt: int

    @property
    def names(self) -> tuple[str, str]:
        return self.targets[0].name, self.targets[1].name

    def other(self, name: str) -> Target:
        small, large = self.targets
        return large if name == small.name else small


@dataclass(frozen=True, slots=True)
class Thought:
    """What is thought of the prompt. `context`: what the heads read of it, `good`: what they alone said, without what
    was learnt since; each None where nothing was thought. `session`: of which conversation it is. `deferral`: how to
    think again once an answer is seen."""

    known: Known | None = None
    standing: Standing | None = None
    context: NDArray[Any] | None = None
    good: Mapping[str, float] | None = None
    session: bytes | None = None
    deferral: Deferral | None = None


NOTHING = Thought()


@dataclass(slots=True)
class Decision:
    """`choice` is what was decided, of `asking`. `held`: micro-dollars set aside of the day's money; `audit`: both
    models are to answer, and `whole` is the answer that went out, once it is complete."""

    asking: Asking
    choice: Choice
    thought: Thought = NOTHING
    explored: bool = False
    stayed: bool = False
    chance: float = 1.0
    held: int = 0
    audit: bool = False
    whole: Any = None

    @property
    def gain(self) -> float | None:
        """What the large model is expected to add."""
        small, large = self.asking.names
        good = {} if self.thought.known is None else self.thought.known.good
        return good[large] - good[small] if {small, large} <= good.keys() else None


def asking(
    exchange: Exchange, policy: RoutePolicy, targets: tuple[Target, Target], states: tuple[State, State]
) -> Asking:
    prompt = prompt_size(exchange.working)
    answers = [answer_size(exchange, target.name) for target in targets]
    small, large = (
        _candidate(target, state, prompt, answer)
        for target, state, answer in zip(targets, states, answers, strict=True)
    )
    return Asking(exchange, policy, targets, (small, large), needs(exchange, prompt, max(answers)), prompt)


def _candidate(target: Target, state: State, prompt: int, answer: int) -> Candidate:
    has = _ALL if target.supports is None else target.supports
    return Candidate(
        target.name,
        target.context,
        target.max_output,
        **{name: name in has for name in _ALL},
        cost=target.price.of(Usage(prompt=prompt, completion=answer)),
        healthy=state.healthy,
        latency_s=state.latency_s,
    )
