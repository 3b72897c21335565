"""How one engine is to run: the options of a model of `backend: engine`, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .linear import Compute


@dataclass(frozen=True, slots=True)
class Settings:
    """Tokens unless the name says otherwise.

    `context` may shorten the model's own; `threads` None: up to four; `compute` None: what this machine does best.
    `kv_mb` is what keys and values of all answers may take, in MiB, and so how much can be answered at a time.
    `speculation` guesses at most `draft` tokens ahead; it changes no answer. `draft_weights`, a name of the catalogue
    or a path, is a smaller model of the same vocabulary that guesses too; with `draft_window` the model itself does,
    over long contexts, seeing the last so many tokens. `graphs`: on a GPU, decoding and verification are captured,
    which changes how fast they are. What follows does change answers: with `kv` "fp8" keys and values are kept in 8
    bits, where the device can; with `window` each token sees only the last so many, the first `sinks`, and all of
    `marks`, texts of one token each; with `best_pages` an answer's tokens see so many pages of 64 tokens.
    """

    context: int | None = None
    threads: int | None = None
    compute: Compute | None = None
    kv_mb: int = 512
    most_running: int = 16
    most_waiting: int = 64
    step_tokens: int = 256
    prefixes: bool = True
    speculation: bool = True
    draft: int = 31
    draft_weights: str | None = None
    draft_window: int | None = None
    graphs: bool = True
    kv: Literal["fp8"] | None = None
    window: int | None = None
    sinks: int = 0
    marks: tuple[str, ...] = ()
    best_pages: int | None = None
