"""A stored answer, and the envelope that it travels in to a shared store.

The envelope is a magic, a version, a MAC over the rest, and MessagePack: nothing in it can run, and bytes that another
program, another version or another secret wrote are refused before they are read.
"""

from __future__ import annotations

import hmac
from typing import Literal

import msgspec

from ..protocol.messages import Kind, Usage
from .key import Place

MAGIC = b"trimtab\x02"  # the last byte is the version of what follows
_MAC = 16

Form = Literal["whole", "stream"]


class Foreign(ValueError):
    """Bytes that are no envelope of ours, or not this one's."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer as it was given. Times are seconds since the epoch, `tags` the caller's, `sources` digests of documents
    that the answer rests on.

    `body`: for `whole` the JSON as the upstream sent it; for `stream` its events, each ended by a blank line, usage
    included where the upstream told it, without `[DONE]`. `vector`: float16, unit length, of `question`.
    """

    id: str
    tenant: str
    namespace: str
    partition: bytes
    key: bytes
    kind: Kind
    model: str
    target: str
    form: Form
    body: bytes
    made: float
    expires: float
    usage: Usage | None = None
    family: bytes | None = None
    question: str | None = None
    vector: bytes | None = None
    tags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    alias_of: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes up, roughly: what the memory bound counts."""
        text = len(self.question or "") * 2 + len(self.vector or b"")
        return len(self.body) + text + 900 + sum(map(len, self.tags)) + sum(map(len, self.sources))

    @property
    def worth(self) -> int:
        """Tokens that serving it saves."""
        return self.usage.total if self.usage is not None else len(self.body) // 4

    def belongs(self, place: Place) -> bool:
        """Whether this is the answer of that very place: compared on every read, whatever was looked up."""
        scope = place.scope
        return (
            hmac.compare_digest(self.key, place.key)
            and hmac.compare_digest(self.partition, place.partition)
            and self.tenant == scope.tenant
            and self.namespace == scope.namespace
        )

    def related(self, place: Place) -> bool:
        """Whether it answers another wording of what was asked at `place`."""
        scope = place.scope
        return (
            self.family is not None
            and place.family is not None
            and hmac.compare_digest(self.family, place.family)
            and hmac.compare_digest(self.partition, place.partition)
            and self.tenant == scope.tenant
            and self.namespace == scope.namespace
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def seal(secret: bytes, entry: Entry) -> bytes:
    payload = _encoder.encode(entry)
    return MAGIC + _mac(secret, payload) + payload


def unseal(secret: bytes, data: bytes) -> Entry:
    """Raises Foreign, without repeating the bytes."""
    head = len(MAGIC)
    if not data.startswith(MAGIC) or len(data) < head + _MAC:
        raise Foreign("not an envelope of this version")
    payload = data[head + _MAC :]
    if not hmac.compare_digest(data[head : head + _MAC], _mac(secret, payload)):
        raise Foreign("an envelope that is damaged, or sealed with another secret")
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Foreign("an envelope that holds no entry") from None


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, payload, "sha256")[:_MAC]
