"""What a tenant allows routing to do: who may answer, and whether the answer's length is planned."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .route_policy import RoutePolicy
from .shape import ShapePolicy

__all__ = ["OutputPolicy", "RoutePolicy"]

Flag = Annotated[bool, Field(strict=True)]


class OutputPolicy(BaseModel):
    """What may be done about the length of answers.

    `plan`       predict it, to reserve by and to order work by; no request or answer changes
    `cap`        a `max_tokens` where the client set none, far in the tail; an answer that reaches it is continued
    `reasoning`  an effort or thinking budget where the client set none
    `shape`      hints that ask for shorter answers, with a holdout
    `skeleton`   on the bundled engine, an outline first where that suits, and then its points side by side
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    not_built: ClassVar[frozenset[str]] = frozenset()

    plan: Flag = True
    cap: Flag = False
    reasoning: Flag = False
    shape: ShapePolicy = ShapePolicy()
    skeleton: Flag = False

    @model_validator(mode="after")
    def _planned(self) -> Self:
        if not self.plan and self.changes:
            raise ValueError("has `plan` off, and `cap`, `reasoning`, `shape` or `skeleton` on, which rest on it")
        return self

    @property
    def changes(self) -> bool:
        """Whether a request may be changed at all."""
        return self.cap or self.reasoning or self.skeleton or self.shape.style is not None
