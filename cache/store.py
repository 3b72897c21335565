"""The port to where answers are kept: in this process, or in a Redis or Valkey that all replicas share.

A store keeps entries by key within a tenant's bound, and tells whoever listens what came and went, so that an index of
vectors can follow. It decides nothing: what may be stored or served is known elsewhere, and what it gives back is
checked by whoever asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .entry import Entry
from .key import Place


@dataclass(frozen=True, slots=True)
class Selection:
    """What to delete of one owner: everything that meets all the conditions given; with none given, everything. An id
    means its aliases, too.

    `owner` is the tenant's name, or "" for a public namespace, which `namespace` then names.
    """

    owner: str
    id: str | None = None
    tag: str | None = None
    source: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something came, went or was barred. `entry` is the one that came, without its body."""

    what: Literal["put", "gone", "barred"]
    owner: str
    id: str
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What one owner has in the store."""

    entries: int = 0
    bytes: int = 0


class Store(Protocol):
    """`counts`: what went wrong or was let go, by name (`errors`, `foreign`, `evicted`, `expired`, `refused`...).

    No method raises for what the store did: a failed look-up is None, a failed write is counted.
    """

    counts: Counter[str]

    @property
    def healthy(self) -> bool: ...

    @property
    def reason(self) -> str | None:
        """Why it is not healthy."""
        ...

    async def start(self, listen: Callable[[Change], None]) -> None:
        """Begin. `listen` is called on the event loop for what is already there and for every change from now on."""
        ...

    async def close(self) -> None: ...

    async def get(self, place: Place) -> Entry | None:
        """The entry at `place.key` that has not expired. At most 50 ms."""
        ...

    async def fetch(self, owner: str, ids: Sequence[str]) -> list[Entry]:
        """Those of the entries that are there, in the order of `ids`."""
        ...

    def mark(self, owner: str) -> int:
        """How far the owner's deletions have come, as far as is known here, so that `put` can tell which were later.
        Never waits."""
        ...

    def put(self, entry: Entry, limit: int, mark: int | None = None) -> None:
        """Keep it, and no more than `limit` bytes of its owner: the least valuable go first. Never waits.

        `mark`: where the owner's deletions stood when the answer began; it is refused if a later one meant it, or may
        have. None: it has only just begun.
        """
        ...

    def used(self, entry: Entry) -> None:
        """It was served: worth more to keep. Never waits."""
        ...

    async def delete(self, what: Selection) -> int:
        """How many entries went; what is on its way is refused when it comes. Raises StoreUnavailable: whoever deletes
        must know."""
        ...

    async def bar(self, owner: str, id: str, seconds: float) -> None:
        """Delete it, and let nothing of this id be offered to other wordings for so long."""
        ...

    async def held(self, owner: str) -> Held: ...

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        """Add figures to a row of counters that outlives entries (evidence). Lost silently if the store is away."""
        ...

    async def tallies(self, owner: str, name: str) -> dict[str, float]:
        """A row of counters as it stands; empty if there is none or the store is away."""
        ...
