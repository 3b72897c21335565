"""Keys: making them, hashing them, finding the caller that one belongs to, and the headers they travel in.

Only hashes are kept. A key of ours is 256 random bits, so one SHA-256 is enough: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ..protocol.exchange import Caller
from .secret import is_reference, resolve

if TYPE_CHECKING:
    from .config import Config

PREFIX = "tt-"
_HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")

# In the order in which they are believed, should a request carry several.
_CARRIERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-litellm-api-key")
CREDENTIAL_HEADERS = frozenset((*_CARRIERS, b"proxy-authorization", b"cookie"))  # none of these may travel on


def new_key(tenant: str, random: Callable[[int], str] = secrets.token_urlsafe) -> tuple[str, str]:
    """A fresh key, shown once, and the hash to put in the file. Raises ValueError if no tenant can have that name."""
    tenant_name(tenant)
    plain = PREFIX + random(32)
    return plain, hash_key(plain)


def hash_key(plain: str) -> str:
    return "sha256:" + _digest(plain).hex()


def read_key(text: str, environ: Mapping[str, str]) -> str:
    """The hash of a key as a configuration gives it: itself, or where the plain key is (env:NAME, file:/path).

    Raises ValueError for a plain key, because a file is copied to where its keys should not be.
    """
    plain = resolve(text, environ) if is_reference(text) else None
    given = text if plain is None else plain
    if given.lower().startswith("sha256:"):
        if not _HASH.match(given.lower()):
            raise ValueError("is not a SHA-256: `sha256:` is followed by 64 hexadecimal digits")
        return given.lower()
    if plain is None:
        raise ValueError("a key stands here in plain text; put its hash (`trimtab keys hash`), env:NAME or file:/path")
    return hash_key(plain)


def tenant_name(name: str) -> str:
    """The name itself. Raises ValueError for one that could not stand in a metric, a path or a store's key."""
    if not _TENANT.match(name):
        raise ValueError(
            "a tenant's name is 1 to 64 letters, digits, '_', '.' and '-', starting with a letter or digit"
        )
    return name


def presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in raw ASGI headers (lower-case names), or None. Anything but a Bearer Authorization is no key."""
    for name, value in headers:  # what nearly everybody sends, and what is believed first anyway
        if name == b"authorization" and value[:7].lower() == b"bearer " and (key := value[7:].strip()):
            return key.decode("utf-8", "surrogateescape")
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in CREDENTIAL_HEADERS and name not in found:
            if name == b"authorization":
                scheme, _, value = value.strip().partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            value = value.strip()
            if value:
                found[name] = value
    for name in _CARRIERS:
        if name in found:
            return found[name].decode("utf-8", "surrogateescape")
    return None


class KeyRing:
    """Every key of a configuration and whose it is. Built once per configuration, never changed."""

    def __init__(self, config: Config) -> None:
        self._entries: dict[bytes, tuple[bytes, Caller | None]] = {}
        self.anonymous: Caller | None = None  # who a request without a key is from, if anybody
        for name, entry in config.tenants.items():
            tenant = entry.resolved(name)
            everywhere = config.allowed(entry.models)
            if not entry.keys:
                self.anonymous = Caller(tenant, "none", everywhere)
            for key in entry.keys:
                digest = bytes.fromhex(key.hash.removeprefix("sha256:"))
                models = _both(everywhere, config.allowed(key.models))
                self._entries[digest] = digest, Caller(tenant, key.key_id, models)
        self._decoy = secrets.token_bytes(32), None

    def find(self, key: str | None) -> Caller | None:
        """Whose key it is; None if nobody's.

        How long it takes tells nothing about the keys there are: what is looked up is a digest that nobody can
        steer, and a miss does the work of a hit. Where there are no keys at all, any key is the keyless tenant's:
        OpenAI's clients insist on sending one.
        """
        if key is None or not self._entries:
            return self.anonymous
        digest = _digest(key)
        known, caller = self._entries.get(digest, self._decoy)
        return caller if hmac.compare_digest(known, digest) else None


def _digest(plain: str) -> bytes:
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).digest()


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return one & other if one is not None and other is not None else one if other is None else other
