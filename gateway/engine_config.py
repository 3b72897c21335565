"""The sections of a model on the bundled engine: how far it guesses ahead, and what each token sees.

Knows the shape only; what the options do is backends/engine's.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from .section import Flag, Section


class SpeculationConfig(Section):
    """Guessing ahead, at most `most` tokens, which changes how fast an answer comes and never what it says."""

    enabled: Flag = True
    most: Annotated[int, Field(strict=True, ge=1, le=63)] = 31


class AttentionConfig(Section):
    """Which earlier tokens each one sees: all, or with a `window` only the last so many and the first `sinks`.

    A window makes long contexts cheap and answers approximate.
    """

    window: Annotated[int, Field(strict=True, ge=64)] | None = None
    sinks: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="after")
    def _sinks_need_a_window(self) -> Self:
        if self.window is None and self.sinks:
            raise ValueError("sinks have no effect without a window: every token is seen then")
        return self
