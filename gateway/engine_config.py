"""The sections of a model on the bundled engine: how far it guesses ahead, and what each token sees.

Knows the shape only; what the options do is backends/engine's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from .section import Flag, Section

Weights = Annotated[str, Field(strict=True, min_length=1, max_length=4096)]  # a path may have spaces


class SpeculationConfig(Section):
    """Guessing ahead, at most `most` tokens, which changes how fast an answer comes and never what it says.

    With a `window` the model guesses too, seeing only its last so many tokens, where the context is much longer; with
    a `model`, named as `weights` are, that smaller one of the same vocabulary does, where it pays.
    """

    enabled: Flag = True
    most: Annotated[int, Field(strict=True, ge=1, le=63)] = 31
    window: Annotated[int, Field(strict=True, ge=64)] | None = None
    model: Weights | None = None


class AttentionConfig(Section):
    """Which earlier tokens each one sees: all, or a part of them, which makes long contexts cheap and answers
    approximate.

    With a `window` only the last so many, the first `sinks`, and every one of `global_tokens`, texts that are one token
    of the model each. With `best_pages` prompts are read whole, and an answer's tokens read so many pages of 64 tokens.
    """

    window: Annotated[int, Field(strict=True, ge=64)] | None = None
    sinks: Annotated[int, Field(strict=True, ge=0)] = 0
    global_tokens: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=16)] = ()
    best_pages: Annotated[int, Field(strict=True, ge=2)] | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.window is None and self.sinks:
            raise ValueError("sinks have no effect without a window: every token is seen then")
        if self.window is None and self.global_tokens:
            raise ValueError("global_tokens have no effect without a window: every token is seen then")
        if self.window is not None and self.best_pages is not None:
            raise ValueError("window and best_pages exclude each other")
        return self


def called(weights: str) -> str:
    """What a model is called by its weights: the catalogue's name, or the file's without its ending. Where a file lies
    is nobody's business who asks the model."""
    stem = weights if weights.isidentifier() else Path(weights).name
    return re.sub(r"\.(gguf|safetensors)$", "", re.sub(r"\s+", "-", stem)) or "engine"
