"""What a tenant allows compression to do. Everything has a default: lossless on, lossy off."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


class ContextPolicy(BaseModel):
    """Drop passages and tool results that do not bear on the question.

    `recall` is the share of the passages an answer needs that must be kept, at least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: Flag = False
    recall: Share = 0.99


class CompressionPolicy(BaseModel):
    """`lossless` rewrites a prompt only where its meaning to the model cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Keys that a file may set and that no stage reads yet: `trimtab check` says so. Empty once the room is built.
    not_built: ClassVar[frozenset[str]] = frozenset({"lossless", "context"})

    lossless: Flag = True
    context: ContextPolicy = ContextPolicy()
