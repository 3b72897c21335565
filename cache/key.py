"""Where a request belongs: whose it is, under which policy, and which other requests could share its answer.

Three digests, each an HMAC-SHA256 under the cache's own secret, so that whoever sees them learns nothing and can make
none up:

    partition   tenant (or public namespace), policy epoch, what may answer, and the caller's namespace
    key         the partition and every field of the request but how it is delivered: an equal key is the same request
    family      as the key, with the last user text left out: where another wording of the same question is found

The parts are packed with their lengths (MessagePack), so no two different rows of parts make the same bytes. Pure.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from ..protocol.messages import Request

# How the answer is delivered, and ours: not part of the question.
DELIVERY = frozenset({"stream", "stream_options"})

# Names as fields have them, and one of their characters as an escape: no serialiser writes that, so it is hostile.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPELT_OUT = re.compile(rb"\\u00(?:4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa]|2[dD]|3[0-9])")

_encode = msgspec.json.Encoder(order="sorted").encode
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose cache. `epoch` digests what else decides the answer: the tenant's policy, the models behind the name.

    `public`: the namespace is shared by every tenant whose operator declared it, and `tenant` is then "".
    """

    tenant: str
    epoch: bytes
    namespace: str = ""
    public: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where one request belongs. `family` and `question` are None where no other wording may answer it."""

    scope: Scope
    partition: bytes
    key: bytes
    family: bytes | None = None
    question: str | None = None

    @property
    def id(self) -> str:
        """The entry's public name: safe to show to its tenant, says nothing about the request."""
        return self.key[:12].hex()


def place(secret: bytes, scope: Scope, request: Request, beside: bytes = b"") -> Place:
    """Where the request belongs, for an exact repeat. `beside`: what else the caller said that changes the answer."""
    partition = _partition(secret, scope, request.kind, beside)
    fields = request.fields
    parts = [b"key", partition]
    for name in sorted(fields):
        if name not in DELIVERY:
            parts += (name.encode(errors="surrogatepass"), bytes(fields[name]))
    return Place(scope, partition, _mac(secret, parts))


def with_family(secret: bytes, at: Place, request: Request) -> Place:
    """The same place with its family, where the last message is a user's text; as it was where it is not.

    Earlier turns must be equal to the byte, whitespace of the JSON aside: only the last user text may differ.
    """
    messages = request.get("messages")
    question = last_question(messages)
    if question is None:
        return at
    parts = [b"family", at.partition]
    for name in sorted(request.fields):
        if name not in DELIVERY and name != "messages":
            parts += (name.encode(errors="surrogatepass"), bytes(request.fields[name]))
    parts.append(_encode([*messages[:-1], _without_text(messages[-1])]))
    return Place(at.scope, at.partition, at.key, _mac(secret, parts), question)


def twice(request: Request, *names: str) -> bool:
    """Whether the body as it came gives one of its fields (of these, if any are named) twice at its top level: two
    readers of it may see two values, and the key holds only the last."""
    body, fields = request.body, request.fields
    if not request.edited:
        parts = [(name.encode(errors="surrogatepass"), bytes(raw)) for name, raw in fields.items()]
        if len(body) == 1 + sum([len(name) + len(raw) + 4 for name, raw in parts]):
            return False  # these fields without a space between them, and nothing more
        if body == b"{%b}" % b", ".join([b'"%b": %b' % part for part in parts]):
            return False  # the same with the spaces that Python's clients write
    asked = names or tuple(fields)
    if not all(map(_NAME.fullmatch, asked)) or _SPELT_OUT.search(body):
        return repeats(body, names)
    return any(body.count(b'"%b"' % name.encode()) > 1 for name in asked) and repeats(body, names)


def repeats(body: bytes, names: Collection[str] = ()) -> bool:
    """Whether a JSON object gives a name twice; the slow, exact reading."""
    outermost: list[str] = []

    def hook(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = [name for name, _ in pairs]  # the outermost object's pairs are reported last

    try:
        json.loads(body, object_pairs_hook=hook)
    except (ValueError, RecursionError):
        return True  # it cannot be told
    counted = [name for name in outermost if not names or name in names]
    return len(counted) > len(set(counted))


def ambiguous(raw: bytes) -> bool:
    """Whether an object anywhere in this JSON gives a name twice: which of the two values a reader sees is its own
    choice, and ours may not be the model's."""

    def hook(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            raise ValueError

    try:
        json.loads(raw, object_pairs_hook=hook)
    except (ValueError, RecursionError):
        return True
    return False


def last_question(messages: Any) -> str | None:
    """The text of the last message, if a user wrote it and it is nothing but text."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last = messages[-1]
    if last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        content = part.get("text") if part.get("type") == "text" else None
    return content if isinstance(content, str) and content.strip() else None


def _without_text(message: dict[str, Any]) -> dict[str, Any]:
    """A user's message with a placeholder for its text; every other field of it, and of its one part, stays."""
    content = message["content"]
    if isinstance(content, list):
        return {**message, "content": [{**content[0], "text": None}]}
    return {**message, "content": None}


@lru_cache(1_024)
def _partition(secret: bytes, scope: Scope, kind: str, beside: bytes) -> bytes:
    return _mac(secret, (b"partition", *_scope(scope), kind.encode(), beside))


def _scope(scope: Scope) -> tuple[bytes, ...]:
    owner = b"public" if scope.public else b"tenant"
    return owner, scope.tenant.encode(errors="surrogatepass"), scope.namespace.encode(), scope.epoch


def _mac(secret: bytes, parts: Sequence[bytes]) -> bytes:
    return hmac.digest(secret, _pack(parts), "sha256")
