"""What a tenant allows the caches to do. Everything has a default: lossless on, lossy off."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


class SemanticPolicy(BaseModel):
    """Serve an answer that was given to another wording of the question.

    `max_wrong` is the highest share of served answers that may be wrong, measured by audits on live traffic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: Flag = False
    max_wrong: Share = 0.005


class CachePolicy(BaseModel):
    """`exact` serves a repeat of the same request of the same tenant; `ttl_s` is how long an answer may be served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Keys that a file may set and that no stage reads yet: `trimtab check` says so. Empty once the room is built.
    not_built: ClassVar[frozenset[str]] = frozenset({"exact", "semantic", "ttl_s"})

    exact: Flag = True
    semantic: SemanticPolicy = SemanticPolicy()
    ttl_s: Annotated[int, Field(strict=True, ge=1, le=30 * 86_400)] = 3_600
