"""What a caller may say about one request: tags, its end user, less patience, fewer retries; how to compress it.

In headers, whose names are LiteLLM's, which clients send already, and the same under `x-trimtab-`; or in the body's
field `trimtab`, which is ours and goes no further. A caller may tighten what the operator configured and never loosen
it; nothing here can choose a tenant, a model or a destination. Headers that make no sense are ignored: they are hints,
and a typo must not fail a request. The field is meant for us alone, so what is wrong with it is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from ..protocol.errors import InvalidRequest
from ..protocol.messages import Request
from .nearest import suggestion

FIELD = "trimtab"
_PREFIXES = (b"x-litellm-", b"x-trimtab-")
_MOST_TAGS = 16
_LONGEST = 200  # characters of a tag or a user's name
_LONGEST_QUERY = 20_000
_MOST_KEPT = 64
_LONGEST_KEPT = 1_000
_OFF = ("off", "false", "no", "0")


@dataclass(frozen=True, slots=True)
class Controls:
    """`timeout` in seconds bounds the whole call, `first_token` the wait for a stream's first; None: as configured.

    `query` is what passages are to bear on, in place of the last user turn; `compress` False: leave the request alone.
    """

    tags: tuple[str, ...] = ()
    end_user: str | None = None
    timeout: float | None = None
    first_token: float | None = None
    retries: int | None = None
    query: str | None = None
    compress: bool = True


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
        query=_text(given.get(b"query", "")),
        compress=given.get(b"compress", "").strip().lower() not in _OFF,
    )


def read_field(request: Request) -> tuple[Request, dict[str, Any]]:
    """The request without its field `trimtab`, and what that said, each if it was given: `query`, `compress`, `keep`,
    `sources` (names of what the request rests on, by which its answer can be deleted from the cache).

    Raises InvalidRequest, naming the place.
    """
    said = request.get(FIELD)
    clean = Request(
        request.kind, request.body, {n: raw for n, raw in request.fields.items() if n != FIELD}, edited=True
    )
    if said is None:
        return clean, {}
    if not isinstance(said, dict):
        raise InvalidRequest(f'\'{FIELD}\' must be an object, such as {{"query": "..."}}', param=FIELD)
    for name in said:
        if name not in _READERS:
            raise _wrong(name[:_LONGEST], "is an unknown key" + suggestion(name[:_LONGEST], _READERS))
    return clean, {name: _READERS[name](value) for name, value in said.items() if value is not None}


def _query(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_QUERY:
        raise _wrong("query", f"must be a text of at most {_LONGEST_QUERY} characters, and not empty")
    return value


def _compress(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("compress", "must be true or false; false leaves the request as it is")
    return value


def _keep(value: Any) -> list[str]:
    good = isinstance(value, list) and len(value) <= _MOST_KEPT
    if not good or not all(isinstance(text, str) and 0 < len(text) <= _LONGEST_KEPT for text in value):
        raise _wrong("keep", f"must be a list of at most {_MOST_KEPT} texts, each of 1 to {_LONGEST_KEPT} characters")
    return list(value)


def _sources(value: Any) -> list[str]:
    good = isinstance(value, list) and len(value) <= _MOST_KEPT
    if not good or not all(isinstance(text, str) and 0 < len(text) <= _LONGEST for text in value):
        raise _wrong("sources", f"must be a list of at most {_MOST_KEPT} names, each of 1 to {_LONGEST} characters")
    return list(value)


_READERS = {"query": _query, "compress": _compress, "keep": _keep, "sources": _sources}


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"'{FIELD}.{name}' {what}", param=f"{FIELD}.{name}")


def _text(header: str) -> str | None:
    """A header's text: percent-encoded UTF-8, UTF-8 as it is, or else latin-1."""
    try:
        text = unquote_to_bytes(header.encode("latin-1")).decode()
    except UnicodeDecodeError:
        text = header
    return text.strip()[:_LONGEST_QUERY] or None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 86_400 else None
