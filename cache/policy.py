"""What a tenant allows the caches to do. Everything has a default: lossless on, lossy off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Rate = Annotated[float, Field(strict=True, ge=0, le=1)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=30 * 86_400)]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9._-]{1,64}$")]

# What a question may hold and still be answered from another wording, where a tenant says so.
Allowance = Literal["personal", "time", "sampling"]


class SemanticPolicy(BaseModel):
    """Serve an answer that was given to another wording of the question.

    `max_wrong` bounds the questions that are answered wrongly, as a share of all that were looked up: a candidate is
    served only while the upper confidence bound of that share stays below it. `audit` is the share of served answers
    that is answered anew, off the path, to find out; each costs a call. `judge` names a model that compares the two
    answers where their texts and vectors do not settle it. `allow` admits questions that are ruled out by default:
    with words of person or of time, or sampled at a temperature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: Flag = False
    max_wrong: Share = 0.005
    audit: Rate = 0.02
    judge: str | None = None
    drafts: Flag = True
    allow: frozenset[Allowance] = frozenset()
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=2_000)] = 150


class CachePolicy(BaseModel):
    """`exact` serves a repeat of the same request of the same tenant, `when` it is deterministic (temperature 0; an
    embedding) or always. `ttl_s` is how long an answer may be served, counted from when it was given; `time_ttl_s` the
    same for questions about the present. `max_mb` bounds what the tenant keeps. `public` names the namespaces that this
    tenant shares with every other tenant whose policy names them too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: Flag = True
    when: Literal["deterministic", "always"] = "deterministic"
    semantic: SemanticPolicy = SemanticPolicy()
    ttl_s: Seconds = 3_600
    time_ttl_s: Seconds = 300
    max_mb: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 64
    public: frozenset[Name] = frozenset()

    @property
    def on(self) -> bool:
        return self.exact or self.semantic.enabled
