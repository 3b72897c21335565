"""What a tenant allows routing to do: who may answer, and whether the answer's length is planned."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..protocol.money import dollars, microdollars

Goal = Literal["floor", "large_share", "usd_per_day", "small_only", "large_only"]
Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


def _kept(amount: Decimal) -> Decimal:
    microdollars(amount)
    return amount


class RoutePolicy(BaseModel):
    """One goal for a route that has a small and a large model; with none of them set, the large model answers.

    `floor`        the lowest share of the large model's quality that is acceptable, 0 to 1
    `large_share`  the share of requests the large model may answer, 0 to 1
    `usd_per_day`  what the large model may cost a day, in US dollars
    `small_only`, `large_only`  no routing at all
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Keys that a file may set and that no stage reads yet: `trimtab check` says so. Empty once the room is built.
    not_built: ClassVar[frozenset[str]] = frozenset({"floor", "large_share", "usd_per_day"})

    floor: Share | None = None
    large_share: Share | None = None
    usd_per_day: Annotated[Decimal, BeforeValidator(dollars), AfterValidator(_kept)] | None = None
    small_only: Flag = False
    large_only: Flag = False

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if len(self._goals()) > 1:
            raise ValueError(f"has several goals ({', '.join(self._goals())}); a route can follow one")
        return self

    @property
    def goal(self) -> Goal:
        goals = self._goals()
        return goals[0] if goals else "large_only"

    @property
    def microusd_per_day(self) -> int | None:
        return None if self.usd_per_day is None else microdollars(self.usd_per_day)

    def _goals(self) -> list[Goal]:
        asked: dict[Goal, bool] = {
            "floor": self.floor is not None,
            "large_share": self.large_share is not None,
            "usd_per_day": self.usd_per_day is not None,
            "small_only": self.small_only,
            "large_only": self.large_only,
        }
        return [goal for goal, wanted in asked.items() if wanted]


class OutputPolicy(BaseModel):
    """`plan` predicts how long an answer will be, to reserve and to order the work; it never cuts or shapes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    not_built: ClassVar[frozenset[str]] = frozenset({"plan"})

    plan: Flag = True
