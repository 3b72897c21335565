"""What hints do to the length of answers, and to what people say of them: measured against the conversations held out.

Each answer counts by its length over the median that was foreseen for it, in logarithms, so that long and short
questions compare. The two arms' means give the change, with its 95 % interval (Welch). Pure; bounded by tenants, which
come from the configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..protocol.exchange import Receipt

Arm = Literal["hint", "holdout"]
FEWEST = 20  # answers of each arm below which nothing is said
_Z = 1.96


@dataclass(slots=True)
class Tally:
    """One arm. `mean`, `squares`: of log(tokens / median foreseen), Welford's sums; `wrong`, `right`: verdicts."""

    answers: int = 0
    tokens: int = 0
    mean: float = 0.0
    squares: float = 0.0
    wrong: int = 0
    right: int = 0

    def add(self, tokens: int, foreseen: float) -> None:
        value = math.log(max(1, tokens) / max(1.0, foreseen))
        self.answers += 1
        self.tokens += tokens
        off = value - self.mean
        self.mean += off / self.answers
        self.squares += off * (value - self.mean)

    @property
    def error(self) -> float:
        """The mean's own variance."""
        return self.squares / (self.answers - 1) / self.answers if self.answers > 1 else math.inf


class Change(NamedTuple):
    """The hinted answers' length over that of the others, less one: -0.3 is 30 % fewer tokens. 95 % interval."""

    change: float
    low: float
    high: float


@dataclass(slots=True)
class Effect:
    """Both arms of one tenant and style."""

    hint: Tally = field(default_factory=Tally)
    holdout: Tally = field(default_factory=Tally)

    def arm(self, name: str) -> Tally:
        return self.hint if name == "hint" else self.holdout

    @property
    def change(self) -> Change | None:
        """None while either arm has too few answers."""
        if min(self.hint.answers, self.holdout.answers) < FEWEST:
            return None
        middle = self.hint.mean - self.holdout.mean
        wide = _Z * math.sqrt(self.hint.error + self.holdout.error)
        return Change(*(math.expm1(value) for value in (middle, middle - wide, middle + wide)))


class Effects:
    """By tenant and style of hint."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Effect] = {}

    def of(self, tenant: str, style: str) -> Effect:
        return self.known.setdefault((tenant, style), Effect())

    def add(self, tenant: str, style: str, arm: str, tokens: int, foreseen: float) -> None:
        self.of(tenant, style).arm(arm).add(tokens, foreseen)

    def judged(self, tenant: str, style: str, arm: str, wrong: bool) -> None:
        tally = self.of(tenant, style).arm(arm)
        tally.wrong += wrong
        tally.right += not wrong

    def to_json(self) -> list[Any]:
        return [
            [*key, *([getattr(arm, name) for name in Tally.__slots__] for arm in (effect.hint, effect.holdout))]
            for key, effect in self.known.items()
        ]

    def load(self, raw: Any) -> None:
        """Takes over what `to_json` gave, as far as it is ours."""
        for row in raw if isinstance(raw, list) else []:
            try:
                tenant, style, hint, holdout = row
                self.known[str(tenant), str(style)] = Effect(_tally(hint), _tally(holdout))
            except (TypeError, ValueError):
                continue


def _tally(raw: Any) -> Tally:
    answers, tokens, mean, squares, wrong, right = raw
    made = Tally(int(answers), int(tokens), float(mean), float(squares), int(wrong), int(right))
    if not (math.isfinite(made.mean) and 0 <= made.squares < math.inf and made.answers >= 0):
        raise ValueError("no tally")
    return made


def arm_of(receipt: Receipt) -> tuple[str, Arm, int] | None:
    """The style, the arm and the median foreseen of a request that takes part in the measurement; else None."""
    for line in receipt.lines:
        for part in line.parts if line.stage == "plan" and line.length else ():
            if part.what in ("hint", "holdout") and part.why is not None and line.length is not None:
                return part.why, "hint" if part.what == "hint" else "holdout", line.length[0]
    return None
