"""How long an answer may be served, and whether a kept one still may: by the policy of now, not of when it was kept.

Pure: the time is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

from ..protocol.messages import Request
from .eligible import about_now
from .entry import Entry
from .key import last_question
from .policy import CachePolicy

_READ = 2_000  # characters at either end of a question that are looked at: between them stand documents


def present(request: Request) -> bool:
    """Whether the question is about the present, so that its answer lives a shorter life."""
    question = last_question(request.get("messages")) if request.kind == "chat" else None
    return question is not None and asks_about_now(question)


def asks_about_now(question: str) -> bool:
    """The same of a text."""
    return about_now(question if len(question) <= 2 * _READ else f"{question[:_READ]}\n{question[-_READ:]}")


def fresh(entry: Entry, policy: CachePolicy, max_age: float | None, now: float, about_now: Callable[[], bool]) -> bool:
    """Whether it may be served. `max_age`: what the caller asks for, seconds; `now`: seconds since the epoch.

    `about_now`, whether the question is about the present, is only asked where it matters: most answers are never asked
    for again, or soon.
    """
    age = now - entry.made
    if now >= entry.expires or age >= policy.ttl_s or (max_age is not None and age > max_age):
        return False
    return age < policy.time_ttl_s or not about_now()
