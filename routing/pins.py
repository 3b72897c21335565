"""Which model each conversation is with, and until when that is worth anything. Bounded, in this process."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from .affinity import CACHE_LIFE_S, Pin

MOST = 50_000


def session_key(tenant: str, route: str, name: str) -> bytes:
    """`name`: the caller's own for the conversation, or a digest of its first turns."""
    return hashlib.blake2b("\0".join((tenant, route, name)).encode("utf-8", "surrogatepass"), digest_size=12).digest()


class Pins:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._pins: OrderedDict[bytes, Pin] = OrderedDict()

    def get(self, session: bytes, now: float) -> Pin | None:
        pin = self._pins.get(session)
        return pin if pin is not None and 0 <= now - pin.at < CACHE_LIFE_S else None

    def put(self, session: bytes, pin: Pin) -> None:
        self._pins[session] = pin
        self._pins.move_to_end(session)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)

    def __len__(self) -> int:
        return len(self._pins)
