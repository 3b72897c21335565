"""Why a stage did nothing, as one of a few words: what metrics may have for a label. Knows no metric."""

from __future__ import annotations

from functools import lru_cache

# What stands in a reason, and the class that it is counted under: reasons hold figures, labels must not.
_CLASSES = (
    ("nothing to gain", "nothing to gain"),
    ("too short for the provider", "provider cache"),
    ("the provider", "provider cache"),
    ("floor", "floor"),
    ("longer than", "out of time"),
    ("no time", "out of time"),
    ("too slow", "out of time"),
    ("every compression thread", "busy"),
    ("shutting down", "busy"),
    ("cannot be", "unreadable"),
    ("wait", "not worth the wait"),
    ("no embedder", "no embedder"),
    ("not want", "switched off"),
    ("asked for it", "switched off"),
    ("no documents", "no documents"),
    ("failed with", "failed"),
)


@lru_cache(256)
def reason_class(reason: str | None) -> str:
    """One of a few words for why a stage did nothing."""
    return next((name for sign, name in _CLASSES if sign in (reason or "")), "other")
