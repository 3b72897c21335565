"""A cascade's decision: the small model has answered, and the router decides anew, now that its answer is seen.

What the heads thought of the small model is replaced by what its answer shows (`cascade.py`), and the same goal is
followed: the same share, the same day's money, a floor that audits of answers seen bear. An answer that fails a check
for certain goes to the large model whatever the goal says; with the day's money spent it goes out all the same. Of a
stream that goes on beyond what is held back, only what can be said of a beginning counts. Pure; calls nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..protocol.exchange import Exchange
from .asking import Decision, Thought
from .cascade import Answered, Kind, checks, failed, refuses, repetition
from .choose import Choice, Known
from .router import Router

FACT = "look"  # where it rides on the exchange

_REPEATS = 0.6


@dataclass(frozen=True, slots=True)
class Said:
    """What the small model has said. `whole`: it has ended; `cut`: for length. `second`: another draw of it."""

    text: str
    whole: bool = True
    cut: bool = False
    second: str | None = None
    mean_logprob: float | None = None


class SecondLook:
    """`hold`: tokens of a stream that are held back; `samples`: how often the small model is asked. `told` hears of the
    decision once it is final: the same object that was handed in."""

    def __init__(self, router: Router, decision: Decision, prompt: str, told: Callable[[Decision], object]) -> None:
        cascade = decision.asking.policy.cascade
        self.hold, self.samples = cascade.hold_tokens, cascade.samples
        self._router = router
        self._decision = decision
        self._prompt = prompt
        self._told = told
        self._kind, self._schema = asked_for(decision.asking.exchange, prompt)

    def good_enough(self, said: Said) -> bool:
        """Whether the small model's answer goes out. The decision on the exchange is the final one from here on."""
        small = self._decision.asking.names[0]
        fault = self._fault(said)
        if fault is not None:
            final = self._escalated(fault)
        else:
            final = self._router.decide(self._decision.asking, self._seen(said), None)
            seen = "its answer was looked at" if said.whole else f"{self.hold} tokens of its answer were looked at"
            final.choice = replace(final.choice, reason=f"{seen}; {final.choice.reason}")
        self._take(final)
        return final.choice.model == small

    def failed(self, why: str) -> None:
        """The small model gave no answer."""
        self._take(self._escalated(why))

    def _take(self, final: Decision) -> None:
        held = self._decision
        held.choice, held.thought, held.chance = final.choice, final.thought, final.chance
        held.explored, held.stayed = final.explored, final.stayed
        self._told(held)

    def _fault(self, said: Said) -> str | None:
        if said.whole:
            return failed(Answered(self._prompt, said.text, self._kind, self._schema, said.cut))
        if refuses(said.text):
            return "the answer refuses"
        return "the answer repeats itself" if repetition(said.text) > _REPEATS else None

    def _seen(self, said: Said) -> Thought:
        """What is thought of the prompt once the answer is known."""
        thought = self._decision.thought
        known = thought.known
        small, large = self._decision.asking.names
        if known is None or thought.deferral is None or not said.whole:
            return thought
        answer = Answered(
            self._prompt, said.text, self._kind, self._schema, second=said.second, mean_logprob=said.mean_logprob
        )
        good = {**known.good, small: thought.deferral.good(checks(answer), known.good[small], known.good[large])}
        return replace(thought, known=replace(known, good=good), good=good)

    def _escalated(self, why: str) -> Decision:
        """Counted by the router as what nobody can judge: the large model, unless the day's money is spent."""
        decision, small = self._decision, self._decision.asking.names[0]
        thought = decision.thought
        known = thought.known or Known({}, 0.0)
        doubted = replace(known, doubt=why, kind="answer")
        final = self._router.decide(decision.asking, replace(thought, known=doubted, session=None), None)
        final.thought = replace(thought, known=replace(known, good={**known.good, small: 0.0}))
        return final


def asked_for(exchange: Exchange, prompt: str) -> tuple[Kind, Mapping[str, Any] | None]:
    """What form the answer is to have, and the JSON schema if there is one."""
    form = exchange.original.get("response_format") if "response_format" in exchange.original.fields else None
    form = form if isinstance(form, dict) else {}
    kind = form.get("type")
    if kind == "json_schema":
        held = form.get("json_schema")
        schema = held.get("schema") if isinstance(held, dict) else None
        return "json", schema if isinstance(schema, dict) else None
    if kind == "json_object":
        return "json", None
    return ("code" if "```" in prompt or "def " in prompt or "function" in prompt.lower() else "free"), None


def first_try(names: tuple[str, str], thought: Thought) -> Choice:
    """Before anything is seen."""
    reason = f"{names[0]} first: its answer is looked at"
    return Choice(names, reason, "cascade", known=thought.known, check=True)
