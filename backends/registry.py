"""Backends by name, each imported when it is first asked for: a gateway that relays never pays for torch or litellm."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from .base import Backend

# name -> module (relative to this package), class, the extra that brings what it imports
_KNOWN: dict[str, tuple[str, str, str | None]] = {
    "engine": (".engine.backend", "EngineBackend", "engine"),
    "fake": (".fake", "FakeBackend", None),
    "litellm": (".litellm", "LiteLLMBackend", "litellm"),
    "openai": (".openai", "OpenAIBackend", None),
}


class UnknownBackend(ValueError):
    """No backend of that name."""


class MissingExtra(RuntimeError):
    """A backend needs packages that are not installed; the message says how to install them."""


def names() -> tuple[str, ...]:
    """Every backend that can be named, installed or not."""
    return tuple(_KNOWN)


def create(name: str, options: Mapping[str, Any]) -> Backend:
    """A backend made with its own options. Raises UnknownBackend, MissingExtra, or its factory's ValueError."""
    if name not in _KNOWN:
        raise UnknownBackend(f"there is no backend '{name}'; there are {', '.join(_KNOWN)}")
    module, attribute, extra = _KNOWN[name]
    try:
        factory = getattr(importlib.import_module(module, __package__), attribute)
    except ModuleNotFoundError as e:
        if extra is None or (e.name or "").startswith(__package__ or ""):
            raise
        raise missing_extra(name, extra, e.name or "") from e
    made: Backend = factory(**options)
    return made


def missing_extra(backend: str, extra: str, module: str) -> MissingExtra:
    """What to say when `module` is not there."""
    return MissingExtra(
        f"the backend '{backend}' needs the package '{module}', which is not installed: pip install 'trimtab[{extra}]'"
    )
