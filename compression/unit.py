"""A unit of evidence: what is scored, kept or left out as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UnitKind = Literal["sentence", "item", "row", "record", "line", "heading", "code"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of evidence. `start` and `end` are character offsets in the span's text.

    `heading` is what it stands under (the document's title, then the nearest section's), `document` the index of its
    document block in the span. `fixed`: it stays whatever it scores (a mark that something was left out here).
    `parent` is the index, in the list that it came in, of the unit that stays where this one does: its heading, its
    table's head, the item it stands under, the sentence that leads up to its list.
    """

    text: str
    heading: str
    document: int
    start: int
    end: int
    kind: UnitKind
    fixed: bool = False
    parent: int | None = None
