"""How long an answer may be served, and whether a kept one still may: by the policy of now, not of when it was kept.

Pure: the time is handed in.
"""

from __future__ import annotations

from ..protocol.messages import Request
from .eligible import about_now
from .entry import Entry
from .key import last_question
from .policy import CachePolicy

_READ = 2_000  # characters at either end of a question that are looked at: between them stand documents


def present(request: Request) -> bool:
    """Whether the question is about the present, so that its answer lives a shorter life."""
    question = last_question(request.get("messages")) if request.kind == "chat" else None
    if question is None:
        return False
    return about_now(question if len(question) <= 2 * _READ else f"{question[:_READ]}\n{question[-_READ:]}")


def life(policy: CachePolicy, present: bool) -> int:
    """Seconds that an answer may be served, from when it was given."""
    return min(policy.ttl_s, policy.time_ttl_s) if present else policy.ttl_s


def fresh(entry: Entry, policy: CachePolicy, max_age: float | None, now: float) -> bool:
    """Whether it may be served. `max_age`: what the caller asks for, seconds; `now`: seconds since the epoch."""
    age = now - entry.made
    if now >= entry.expires or age >= life(policy, entry.present):
        return False
    return max_age is None or age <= max_age
