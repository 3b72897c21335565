"""The `tools` field without the whitespace between its tokens; no model sees that, so it saves no tokens."""

from __future__ import annotations

import msgspec

from ..protocol.exchange import Part
from ..protocol.messages import Request
from .deadline import Deadline, OutOfTime
from .lossless import compact_tools
from .memo import Recent
from .prefix import Option, extend
from .sending import Sending
from .verify import Refused


class CompactTools:
    """Compacts each set of tools once. `size`: bytes that are kept. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._known: Recent[bytes] = Recent(size)
        self.refused = 0  # sets that the verifier sent back

    def head(self, request: Request, chosen: bytes | None, deadline: Deadline) -> Option:
        """What stands before the messages for the model: all tools, or those that a tier has `chosen`."""
        raw = bytes(request.fields.get("tools", b""))
        whole = self._compact(raw, deadline) if raw else raw
        some = whole if chosen is None else self._compact(chosen, deadline)
        return Option(whole, some, len(whole) // 4, len(some) // 4)

    def _compact(self, raw: bytes, deadline: Deadline) -> bytes:
        key = extend(b"tools", raw)
        known = self._known.get(key)
        if known is None:
            try:
                known = compact_tools(raw, deadline) or raw
            except Refused:
                known = raw
                self.refused += 1
            except OutOfTime:
                return raw
            self._known.put(key, known, len(known) + 128)
        return known


def tools_field(
    request: Request, head: Option, sending: Sending, lossless: bool
) -> tuple[dict[str, msgspec.Raw], tuple[Part, ...]]:
    """The field to set, if it changes, and what to say about its whitespace. With `lossless` off, all tools stay
    spelt as they came."""
    raw = bytes(request.fields.get("tools", b""))
    chosen = sending.head and head.changed != head.original
    if head.changed is None or not (chosen or (lossless and head.original != raw)):
        return {}, ()
    spared = len(raw) - len(head.original)
    part = Part("whitespace between tokens", "tools", why=f"{spared} bytes that no model is shown")
    return {"tools": msgspec.Raw(head.changed if chosen else head.original)}, (part,) if lossless and spared else ()
