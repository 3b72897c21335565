"""Vectors kept by the hash of their text: a bounded LRU of bytes. Knows nothing of numpy, so a lookup needs no import.

Thread-safety is its owner's: the embedder's worker holds its lock around every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

# Beside its bytes, what an entry costs in CPython 3.11: two bytes objects' headers and a place in the ordered dict.
_OVERHEAD = 250


def text_keys(model: str, tenant: str, texts: Sequence[str]) -> list[bytes]:
    """16 bytes that stand for each text of a tenant's under a model. Lone surrogates are as good as any character."""
    base = blake2b(digest_size=16)
    for part in (model, tenant):
        encoded = part.encode("utf-8", "surrogatepass")
        base.update(len(encoded).to_bytes(4, "little") + encoded)
    keys = []
    for text in texts:
        digest = base.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


class VectorCache:
    """At most `most_bytes` of records, the least recently used go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> bytes | None:
        record = self._kept.get(key)
        if record is not None:
            self._kept.move_to_end(key)
        return record

    def put(self, key: bytes, record: bytes) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= _cost(old)
        self._kept[key] = record
        self.bytes += _cost(record)
        while self.bytes > self._most:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= _cost(dropped)


def _cost(record: bytes) -> int:
    return len(record) + _OVERHEAD
