"""What a tier would change, before anybody decided that it may: new texts, dropped messages, words for the receipt."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..protocol.exchange import Part
from .spans import Span


@dataclass(slots=True)
class Proposal:
    """`texts` maps spans to what they should say instead, `dropped` holds indices of messages to leave out, `parts`
    says what was done (or why not) where, for the receipt; `lossy` whether an answer could change by it."""

    texts: dict[Span, str] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    parts: list[Part] = field(default_factory=list)
    lossy: bool = False

    def __bool__(self) -> bool:
        return bool(self.texts or self.dropped)
