"""What a caller may say about one request in headers: tags, its end user, less patience, fewer retries.

The names are LiteLLM's, which clients send already, and the same under `x-trimtab-`. A caller may tighten what the
operator configured and never loosen it; nothing here can choose a tenant, a model or a destination. Values that make no
sense are ignored: they are hints, and a typo must not fail a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = (b"x-litellm-", b"x-trimtab-")
_MOST_TAGS = 16
_LONGEST = 200  # characters of a tag or a user's name


@dataclass(frozen=True, slots=True)
class Controls:
    """`timeout` in seconds bounds the whole call, `first_token` the wait for a stream's first; None: as configured."""

    tags: tuple[str, ...] = ()
    end_user: str | None = None
    timeout: float | None = None
    first_token: float | None = None
    retries: int | None = None


NONE = Controls()


def read_controls(headers: Iterable[tuple[bytes, bytes]]) -> Controls:
    """The controls in a request's headers (lower-case names, as ASGI gives them)."""
    given = {name[10:]: value.decode("latin-1") for name, value in headers if name.startswith(_PREFIXES)}
    if not given:
        return NONE
    user = given.get(b"end-user-id") or given.get(b"customer-id")
    tags = [tag.strip()[:_LONGEST] for tag in given.get(b"tags", "").split(",") if tag.strip()]
    retries = _number(given.get(b"num-retries"))
    return Controls(
        tags=tuple(tags[:_MOST_TAGS]),
        end_user=user[:_LONGEST] if user else None,
        timeout=_number(given.get(b"timeout")),
        first_token=_number(given.get(b"stream-timeout")),
        retries=None if retries is None else int(retries),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 86_400 else None
