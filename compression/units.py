"""What evidence is kept or left out by: sentences, list items, table rows, records, log lines, each whole.

A unit is `text[start:end]` of the text that it was cut from, so putting units back is copying, never writing. Between
two units there is only white space, or the punctuation between two JSON records: nothing else is left out of them.
What must not be cut (source code, markup, JSON without records) is one unit.
"""

from __future__ import annotations

from . import layout
from .cutter import Cutter
from .deadline import Deadline
from .records import looks_like_json, records
from .unit import Unit as Unit
from .unit import UnitKind as UnitKind


def units(
    text: str,
    start: int = 0,
    end: int | None = None,
    document: int = 0,
    heading: str = "",
    first: int = 0,
    deadline: Deadline | None = None,
) -> list[Unit]:
    """The units of `text[start:end]`, in order. `first` is the index that the first one will have in the caller's list.

    Linear in the text. Raises OutOfTime.
    """
    cutter = Cutter(text, start, len(text) if end is None else end, document, heading, first, deadline)
    if looks_like_json(text, cutter.start, cutter.end):
        found = records(text, cutter.start, cutter.end)
        for begin, stop in found or ():
            cutter.add(begin, stop, "record")
        if not found:
            cutter.add(cutter.start, cutter.end, "code")
    elif layout.solid([text[a:b] for a, b in cutter.lines[:400]]):
        cutter.add(cutter.start, cutter.end, "code")
    else:
        cutter.run()
    return cutter.found
