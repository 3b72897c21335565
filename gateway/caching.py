"""Where the gateway keeps answers: in this process, or in the Redis that the configuration names."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..cache.store import Store
from ..cache.store_memory import MemoryStore

if TYPE_CHECKING:
    from .config import Config


@dataclass(frozen=True, slots=True)
class Cache:
    """A store, and the secret that keys every digest in it."""

    store: Store = field(default_factory=MemoryStore)
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)


def open_cache(config: Config) -> Cache:
    """Connects to nothing yet. Raises ValueError for an address that is none, without repeating it."""
    url = config.store.redis
    if url is None:
        return Cache()
    from ..cache.store_redis import RedisStore

    own = config.store.secret
    # Replicas of one deployment name the store alike, so that they share what it holds; its password is in there too.
    origin = own.get_secret_value() if own is not None else url.get_secret_value()
    secret = hashlib.sha256(b"trimtab cache\0" + origin.encode()).digest()
    return Cache(RedisStore(url.get_secret_value(), secret), secret)
