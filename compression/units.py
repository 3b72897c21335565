"""What evidence is kept or left out by: sentences, list items, table rows, records, log lines, each whole.

A unit is `text[start:end]` of the text that it was cut from, so putting units back is copying, never writing. Between
two units there is only white space, or the punctuation between two JSON records: nothing else is left out of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UnitKind = Literal["sentence", "item", "row", "record", "line", "heading", "code"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of evidence. `start` and `end` are character offsets in the span's text.

    `heading` is what it stands under (the document's title, then the nearest section's), `document` the index of its
    document block in the span. `fixed`: it stays whatever it scores (a table's head, an instruction, an error).
    """

    text: str
    heading: str
    document: int
    start: int
    end: int
    kind: UnitKind
    fixed: bool = False
