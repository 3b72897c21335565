"""What was worked out before, by fingerprint: sizes in tokens, and what became of each message of a conversation.

A long history is not compressed again with every turn, and what was forwarded once stays as it was also when there is
no time left. Fingerprints carry their tenant, so nothing is shared between tenants.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

import msgspec

from ..protocol.exchange import Part
from ..protocol.tokens import estimate
from .deadline import Deadline
from .prefix import extend
from .spans import Conversation

V = TypeVar("V")

_CHUNK = 65_536  # characters between two looks at the clock
FRAME = 4  # tokens of a message beside its text: its role and its marks


class Recent(Generic[V]):
    """The values used last, `size` bytes of them by what `put` is told. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> V | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: bytes, value: V, size: int) -> None:
        """`size` in bytes, about. A value larger than an eighth of everything is not kept."""
        if size * 8 > self._size:
            return
        with self._lock:
            before = self._values.pop(key, None)
            self._held += size - (before[1] if before else 0)
            self._values[key] = (value, size)
            while self._held > self._size:
                _, (_, freed) = self._values.popitem(last=False)
                self._held -= freed


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one message: its new bytes (None: nothing changed), what that took out, words for the receipt.

    `harmless` is how much of what was taken out no answer can miss, `sources` names the documents. Tens of thousands
    are kept, so the garbage collector does not walk through them: no cycle can lead here.
    """

    changed: bytes | None = None
    saved: int = 0
    parts: tuple[Part, ...] = ()
    harmless: int = 0
    sources: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return 256 + len(self.changed or b"") + 128 * len(self.parts) + 72 * len(self.sources)


class Sizes:
    """Tokens of messages (an estimate of their texts), each counted once."""

    def __init__(self, size: int = 4 << 20) -> None:
        self._known: Recent[int] = Recent(size)

    def of(self, conversation: Conversation, deadline: Deadline | None = None) -> list[int]:
        """One count a message. Raises OutOfTime."""
        return [self._one(conversation, index, deadline) for index in range(len(conversation.messages))]

    def _one(self, conversation: Conversation, index: int, deadline: Deadline | None) -> int:
        message = conversation.messages[index]
        key = extend(b"", conversation.raw[message.start : message.end])
        known = self._known.get(key)
        if known is None:
            known = FRAME + sum(_count(span.text, deadline) for span in message.spans)
            self._known.put(key, known, 128)
        return known


def _count(text: str, deadline: Deadline | None) -> int:
    if deadline is not None:
        deadline.check()
    if len(text) <= _CHUNK:
        return estimate(text)
    return sum(_count(text[at : at + _CHUNK], deadline) for at in range(0, len(text), _CHUNK))
