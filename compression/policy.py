"""What a tenant allows compression to do. Everything has a default: lossless on, lossy off."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Floor = Annotated[float, Field(strict=True, ge=0, le=1)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=60_000)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
Dollars = Annotated[float, Field(strict=True, ge=0, le=1000)]


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContextPolicy(_Policy):
    """Drop passages and parts of tool results that do not bear on the question.

    `recall`       the share of questions whose evidence must be kept whole
    `deadline_ms`  for embedding and scoring together; afterwards the request goes on unpruned
    """

    enabled: Flag = False
    recall: Share = 0.99
    deadline_ms: Milliseconds = 400.0


class DemonstrationPolicy(_Policy):
    """Leave out whole examples of a few-shot prompt, never a part of one, down to `keep` of their tokens."""

    enabled: Flag = False
    keep: Share = 0.5


class TurnsPolicy(_Policy):
    """Leave out the oldest turns of a history that has grown beyond `above` tokens, down to `keep` of that.

    `summarise`: put a labelled summary by the small model in their place.
    """

    enabled: Flag = False
    above: Tokens = 16_000
    keep: Share = 0.5
    summarise: Flag = False


class ProsePolicy(_Policy):
    """Leave out the words of prose that a small model finds least surprising, down to `keep` of its tokens.

    `scorer` names the model that reads (one of this file's that runs on the bundled engine; default: the first).
    """

    enabled: Flag = False
    keep: Share = 0.7
    scorer: str | None = None
    deadline_ms: Milliseconds = 2000.0


class ToolsPolicy(_Policy):
    """`share` says once what the descriptions of several tools begin with. `enabled` leaves out tools that do not bear
    on the question; `recall` is how often the right one must be kept."""

    share: Flag = False
    enabled: Flag = False
    recall: Share = 0.995


class CompressionPolicy(_Policy):
    """`lossless` rewrites a prompt only where its meaning to the model cannot change.

    `floor`        the share of a request's tokens that the lossy tiers together must leave
    `deadline_ms`  for the tiers that need no model
    `usd_per_s`    what a second of waiting is worth to this tenant, in US dollars
    """

    # Keys that a file may set and that no stage reads yet: `trimtab check` says so. Empty once the room is built.
    not_built: ClassVar[frozenset[str]] = frozenset()

    lossless: Flag = True
    context: ContextPolicy = ContextPolicy()
    demonstrations: DemonstrationPolicy = DemonstrationPolicy()
    turns: TurnsPolicy = TurnsPolicy()
    prose: ProsePolicy = ProsePolicy()
    tools: ToolsPolicy = ToolsPolicy()
    floor: Floor = 0.5
    deadline_ms: Milliseconds = 30.0
    usd_per_s: Dollars = 0.0
