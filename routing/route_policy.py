"""Who may answer a tenant's requests, in an operator's words: one goal, rules that go before it, and how it learns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..protocol.money import dollars, microdollars
from .rules import Rule

Goal = Literal["floor", "large_share", "usd_per_day", "small_only", "large_only", "value"]
Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=1_000)]

EXPLORED = 0.01
AUDITED = 0.02  # of the requests of a tenant with a floor, where nothing else is said


def _kept(amount: Decimal) -> Decimal:
    microdollars(amount)
    return amount


Dollars = Annotated[Decimal, BeforeValidator(dollars), AfterValidator(_kept)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class RouteRule(BaseModel):
    """All that is set must hold: a tag of the request, a header and the value it must have, phrases of which one stands
    in what is asked (`*` for any characters). `goes`: to `small`, `large`, or a model of the route by its name; with
    `only`, the other one does not stand in for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    goes: Text
    name: Text | None = None
    tag: Text | None = None
    header: Mapping[Text, Annotated[str, Field(strict=True, max_length=1_000)]] | None = None
    prompt: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = ()
    only: Flag = False

    @model_validator(mode="after")
    def _goes_by_something(self) -> Self:
        if self.header is not None and len(self.header) != 1:
            raise ValueError("has to name one header, such as {x-team: legal}; several are several rules")
        self.rule()
        return self

    def rule(self) -> Rule:
        header = None if self.header is None else next((name.lower(), value) for name, value in self.header.items())
        return Rule(self.goes, self.name or "", self.tag, header, self.prompt, self.only)


class CascadePolicy(BaseModel):
    """The small model answers first, and the goal is followed by what its answer shows; an answer that fails a check
    goes to the large model. Of a stream, `hold_tokens` are held back to judge by. `samples` 2 asks the small model
    twice, to see whether it agrees with itself; not for streams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: Flag = False
    hold_tokens: Annotated[int, Field(strict=True, ge=8, le=4_096)] = 128
    samples: Annotated[int, Field(strict=True, ge=1, le=2)] = 1


class RoutePolicy(BaseModel):
    """One goal for a route that has a small and a large model; with none of them set, the large model answers.

    `floor`        the lowest share of the large model's quality that is acceptable, 0 to 1, at 95 % confidence
    `large_share`  the share of requests the large model may answer, 0 to 1
    `usd_per_day`  what the large model may cost a day, in US dollars
    `value`        what one good answer is worth, in US dollars; with `usd_per_s`, what a second's wait costs
    `small_only`, `large_only`  that model and never the other

    `rules` go before the goal. `audit` is the share of requests that both models answer, off the path, so that it is
    known how good they are; `judge` a model that says which answers are good where their texts do not. `explore` is the
    share of requests that the model which would not be asked answers, to learn from; `frozen` stops that and all
    learning. `deadline_ms`: how long a request waits for its vector.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Keys that a file may set and that no stage reads yet: `trimtab check` says so.
    not_built: ClassVar[frozenset[str]] = frozenset()

    floor: Share | None = None
    large_share: Share | None = None
    usd_per_day: Dollars | None = None
    value: Dollars | None = None
    usd_per_s: Dollars = Decimal(0)
    small_only: Flag = False
    large_only: Flag = False
    rules: tuple[RouteRule, ...] = ()
    audit: Share | None = None
    judge: Text | None = None
    explore: Annotated[float, Field(strict=True, ge=0, le=0.1)] = EXPLORED
    frozen: Flag = False
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=5_000)] = 150
    cascade: CascadePolicy = CascadePolicy()

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if len(self._goals()) > 1:
            raise ValueError(f"has several goals ({', '.join(self._goals())}); a route can follow one")
        if self.usd_per_s and self.value is None:
            raise ValueError(
                "has `usd_per_s` without `value`: waiting can only be weighed against what answers are worth"
            )
        if not self.scores and (self.audit or self.judge is not None):
            raise ValueError(
                "has `audit` or `judge` without a goal that learns: floor, large_share, usd_per_day or value"
            )
        return self

    @property
    def goal(self) -> Goal:
        goals = self._goals()
        return goals[0] if goals else "large_only"

    @property
    def only(self) -> bool:
        """Whether the other model may not even stand in."""
        return self.small_only or self.large_only

    @property
    def scores(self) -> bool:
        """Whether the goal is followed by what is thought of each prompt, which costs its vector."""
        return self.goal not in ("small_only", "large_only")

    @property
    def audited(self) -> float:
        """The share of requests that both models answer."""
        if self.audit is not None:
            return self.audit
        return AUDITED if self.floor is not None else 0.0

    @property
    def explored(self) -> float:
        """Audits tell what a floor has to know; there is nothing to explore, and a promise to keep."""
        return 0.0 if self.frozen or self.floor is not None or not self.scores else self.explore

    @property
    def microusd_per_day(self) -> int | None:
        return None if self.usd_per_day is None else microdollars(self.usd_per_day)

    @functools.cached_property
    def microusd_per_good(self) -> int:
        return 0 if self.value is None else microdollars(self.value)

    @functools.cached_property
    def microusd_per_s(self) -> int:
        return microdollars(self.usd_per_s)

    @functools.cached_property
    def compiled(self) -> tuple[Rule, ...]:
        return tuple(rule.rule() for rule in self.rules)

    def _goals(self) -> list[Goal]:
        asked: dict[Goal, bool] = {
            "floor": self.floor is not None,
            "large_share": self.large_share is not None,
            "usd_per_day": self.usd_per_day is not None,
            "small_only": self.small_only,
            "large_only": self.large_only,
            "value": self.value is not None,
        }
        return [goal for goal, wanted in asked.items() if wanted]
