"""What was deleted of one owner lately, so that an answer which was on its way by then is not kept after all.

A mark is how much had been deleted when a request was made. Only the last deletions are known one by one; an answer
that began before all of them is not kept, whatever it is. Pure.
"""

from __future__ import annotations

from collections import deque

from .entry import Entry
from .store import Selection

KNOWN = 256


class Deletions:
    """`mark`: how many there were so far."""

    __slots__ = ("_known", "mark")

    def __init__(self) -> None:
        self.mark = 0
        self._known: deque[Selection] = deque(maxlen=KNOWN)

    def add(self, what: Selection) -> None:
        self.mark += 1
        self._known.append(what)

    def cover(self, entry: Entry, mark: int) -> bool:
        """Whether something deleted since `mark` may have meant this entry."""
        since = self.mark - mark
        if since > len(self._known):
            return True
        return any(selected(entry, self._known[-1 - back]) for back in range(since))


def selected(entry: Entry, what: Selection) -> bool:
    """Whether the entry meets all the conditions; the same answer under other words goes with the one that is named."""
    return (
        (what.id is None or what.id in (entry.id, entry.alias_of))
        and (what.tag is None or what.tag in entry.tags)
        and (what.source is None or what.source in entry.sources)
        and (what.namespace is None or entry.namespace == what.namespace)
    )
