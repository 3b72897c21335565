"""What a caller asks of the cache for one request: in the body's `cache`, as LiteLLM's users write it, in the header
`Cache-Control` (RFC 9111), or in `x-trimtab-cache: off`.

A caller may tighten and never loosen: a shorter life, no look-up, no storing, a namespace of its own. Where both speak,
the stricter word counts. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..protocol.errors import InvalidRequest
from ..protocol.messages import Request
from .key import repeats, twice

FIELD = "cache"
_KNOWN = frozenset({"ttl", "s-maxage", "no-cache", "no-store", "namespace", "use-cache"})
# No other use of a field of this name knows these: where one stands, the field is ours, and a slip beside it is told.
_OURS = _KNOWN - {"ttl"}
_NAMESPACE = re.compile(r"[A-Za-z0-9._:/-]{1,64}\Z")
_LONGEST = 200  # characters of a name that is repeated in an error
_FOR_EVER = 1e12  # seconds
_OFF = ("off", "false", "no", "0", "bypass")


@dataclass(frozen=True, slots=True)
class Wishes:
    """`read` False: answer anew; `write` False: keep nothing of it. `ttl` and `max_age` in seconds: how long the answer
    may be kept, and how old one may be to be served."""

    read: bool = True
    write: bool = True
    ttl: float | None = None
    max_age: float | None = None
    namespace: str = ""

    @property
    def neither(self) -> bool:
        return not (self.read or self.write)


NONE = Wishes()


def take(request: Request) -> tuple[Request, dict[str, Any]]:
    """The request without its field `cache`, and what that held. A `cache` that says nothing we know is not ours and
    stays where it is. Raises InvalidRequest for a value that makes no sense, as an ignored `no-store` would do harm."""
    if twice(request, FIELD):
        raise InvalidRequest(f"the field '{FIELD}' is given twice", param=FIELD)
    said = request.get(FIELD)
    if not isinstance(said, dict) or not said:
        return request, {}
    unknown = [name for name in said if name not in _KNOWN]
    if unknown:
        if _OURS.isdisjoint(name.lower().replace("_", "-") for name in said):
            return request, {}
        raise _wrong(unknown[0][:_LONGEST], "is an unknown key")
    if repeats(bytes(request.fields[FIELD])):
        raise InvalidRequest(f"'{FIELD}' says something twice", param=FIELD)
    checked = {name: _READERS[name](name, value) for name, value in said.items() if value is not None}
    clean = Request(
        request.kind, request.body, {n: raw for n, raw in request.fields.items() if n != FIELD}, edited=True
    )
    return clean, checked


def wishes(said: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> Wishes:
    """Both together. Headers that make no sense are ignored: they are hints."""
    read = not said.get("no-cache", False)
    write = not said.get("no-store", False)
    if said.get("use-cache") is False:
        read = write = False
    ttl, max_age = said.get("ttl"), said.get("s-maxage")
    for name, value in headers:
        if name == b"cache-control":
            for directive, figure in _directives(value):
                read = read and directive != "no-cache"
                write = write and directive != "no-store"
                if directive in ("max-age", "s-maxage") and figure is not None:
                    max_age = figure if max_age is None else min(max_age, figure)
        elif name == b"x-trimtab-cache" and value.decode("latin-1").strip().lower() in _OFF:
            read = write = False
    if not said and read and write and max_age is None:
        return NONE
    return Wishes(read, write, ttl, max_age, said.get("namespace", ""))


def _directives(value: bytes) -> list[tuple[str, float | None]]:
    found: list[tuple[str, float | None]] = []
    for part in value.decode("latin-1").lower().split(","):
        name, _, figure = part.strip().partition("=")
        figure = figure.strip('"')  # RFC 9111, section 5.2: both forms are to be understood
        found.append((name, float(figure) if figure.isascii() and figure.isdigit() and len(figure) < 12 else None))
    return found


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _wrong(name, "must be a number of seconds, and not negative")
    return float(min(value, _FOR_EVER))


def _namespace(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAMESPACE.match(value):
        raise _wrong(name, "must be 1 to 64 letters, digits, '.', '_', ':', '/' or '-'")
    return value


_READERS = {
    "ttl": _seconds,
    "s-maxage": _seconds,
    "no-cache": _flag,
    "no-store": _flag,
    "use-cache": _flag,
    "namespace": _namespace,
}


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"'{FIELD}.{name}' {what}", param=f"{FIELD}.{name}")
