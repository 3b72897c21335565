"""Entries in this process: by key, within a bound of bytes for each owner, the least valuable let go first.

What an entry is worth to keep: the tokens that it saves, times one and its recent uses, per byte. The least valuable of
a small random sample goes; that needs no order to be kept, so a look-up costs about a microsecond and never suspends.
Expiry is absolute. It knows no policy and no index.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from .deletions import Deletions, selected
from .entry import Entry
from .key import Place
from .store import Change, Held, Selection

log = logging.getLogger("trimtab.store")

HALF_LIFE = 3_600.0  # seconds after which a use counts half
SAMPLE = 8
_SWEPT = 4  # entries looked at for their expiry with each put
_PAUSE = 1_000  # entries looked at by a deletion before others get a turn
_MOST_BARS = 10_000


class _Slot(msgspec.Struct, gc=False, eq=False):
    """There may be a million: the garbage collector need not look at them, as none is in a circle."""

    entry: Entry
    size: int
    last: float
    uses: float = 0.0
    index: int = -1  # in its owner's list; below 0 when it is not held

    def recent(self, now: float) -> float:
        return self.uses * math.exp2(min(0.0, self.last - now) / HALF_LIFE)

    def value(self, now: float) -> float:
        return self.entry.worth * (1.0 + self.recent(now)) / self.size


class _Owner:
    __slots__ = ("bytes", "cursor", "ids", "name", "slots")

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = 0
        self.cursor = 0
        self.ids: dict[str, _Slot] = {}
        self.slots: list[_Slot] = []


class MemoryStore:
    """`clock` in seconds since the epoch. `chance` picks what eviction looks at."""

    healthy = True
    reason: str | None = None

    def __init__(self, clock: Callable[[], float] = time.time, chance: random.Random | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - it protects nothing
        self._slots: dict[bytes, _Slot] = {}
        self._owners: dict[str, _Owner] = {}
        self._rota: deque[_Owner] = deque()
        self._deletions: defaultdict[str, Deletions] = defaultdict(Deletions)
        self._bars: dict[tuple[str, str], float] = {}
        self._tallies: defaultdict[tuple[str, str], defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._listeners: list[Callable[[Change], None]] = []

    async def start(self, listen: Callable[[Change], None]) -> None:
        self._listeners.append(listen)
        for slot in list(self._slots.values()):
            if slot.entry.family is not None:
                self._tell(listen, Change("put", slot.entry.tenant, slot.entry.id, _bodiless(slot.entry)))

    async def close(self) -> None:
        self._listeners.clear()

    async def get(self, place: Place) -> Entry | None:
        slot = self._slots.get(place.key)
        if slot is None:
            return None
        entry = slot.entry
        if entry.expires <= self._clock():
            self._let_go(slot, "expired")
            return None
        if not entry.belongs(place):
            self.counts["foreign"] += 1
            return None
        return entry

    async def fetch(self, owner: str, ids: Sequence[str]) -> list[Entry]:
        held, now, found = self._owners.get(owner), self._clock(), []
        for id in ids:
            slot = held.ids.get(id) if held is not None else None
            if slot is None or self._barred(owner, id, now):
                continue
            if slot.entry.expires <= now:
                self._let_go(slot, "expired")
            else:
                found.append(slot.entry)
        return found

    def mark(self, owner: str) -> int:
        deletions = self._deletions.get(owner)
        return 0 if deletions is None else deletions.mark

    def put(self, entry: Entry, limit: int, mark: int | None = None) -> None:
        now = self._clock()
        self._sweep(now)
        slot = _Slot(entry, entry.size, now)
        if entry.expires <= now or slot.size > limit // 4 or self._late(entry, mark):
            self.counts["refused"] += 1
            return
        owner = self._owners.get(entry.tenant)
        for old in (self._slots.get(entry.key), owner.ids.get(entry.id) if owner is not None else None):
            if old is not None and old.index >= 0:
                slot.uses, slot.last = old.uses, old.last
                self._remove(old)
        owner = self._owners.get(entry.tenant)
        if owner is not None:
            self._make_room(owner, limit - slot.size, now)
            owner = self._owners.get(entry.tenant)  # the last of it may have gone
        self._hold(owner or self._new_owner(entry.tenant), slot)
        if not self._barred(entry.tenant, entry.id, now):
            self._announce("put", entry)

    def used(self, entry: Entry) -> None:
        slot = self._slots.get(entry.key)
        if slot is not None and slot.entry.tenant == entry.tenant:
            now = self._clock()
            slot.uses, slot.last = slot.recent(now) + 1.0, now

    async def delete(self, what: Selection) -> int:
        self._deletions[what.owner].add(what)
        owner = self._owners.get(what.owner)
        if owner is None:
            return 0
        gone = 0
        for n, slot in enumerate(list(owner.slots), 1):
            if slot.index >= 0 and selected(slot.entry, what):
                self._let_go(slot, "deleted")
                gone += 1
            if n % _PAUSE == 0:
                await asyncio.sleep(0)
        return gone

    async def bar(self, owner: str, id: str, seconds: float) -> None:
        now = self._clock()
        for key in [key for key, until in self._bars.items() if until <= now]:
            del self._bars[key]
        if len(self._bars) >= _MOST_BARS:
            del self._bars[next(iter(self._bars))]
        self._bars[owner, id] = now + seconds
        held = self._owners.get(owner)
        if held is not None and id in held.ids:
            self._remove(held.ids[id])
        self._say(Change("barred", owner, id))

    async def held(self, owner: str) -> Held:
        held = self._owners.get(owner)
        return Held(len(held.slots), held.bytes) if held is not None else Held()

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        row = self._tallies[owner, name]
        for figure, amount in figures.items():
            if math.isfinite(amount):
                row[figure] += amount

    async def tallies(self, owner: str, name: str) -> dict[str, float]:
        return dict(self._tallies.get((owner, name), {}))

    # What is held.

    def _new_owner(self, name: str) -> _Owner:
        owner = self._owners[name] = _Owner(name)
        self._rota.append(owner)
        return owner

    def _hold(self, owner: _Owner, slot: _Slot) -> None:
        slot.index = len(owner.slots)
        owner.slots.append(slot)
        owner.ids[slot.entry.id] = slot
        owner.bytes += slot.size
        self._slots[slot.entry.key] = slot

    def _remove(self, slot: _Slot) -> None:
        owner = self._owners[slot.entry.tenant]
        last = owner.slots.pop()
        if last is not slot:
            owner.slots[slot.index] = last
            last.index = slot.index
        slot.index = -1
        owner.bytes -= slot.size
        del owner.ids[slot.entry.id]
        del self._slots[slot.entry.key]
        if not owner.slots:
            del self._owners[owner.name]

    def _let_go(self, slot: _Slot, why: str) -> None:
        self.counts[why] += 1
        self._remove(slot)
        self._announce("gone", slot.entry)

    def _make_room(self, owner: _Owner, limit: int, now: float) -> None:
        slots, chance = owner.slots, self._chance.random
        while owner.bytes > limit:
            sample = [slots[int(chance() * len(slots))] for _ in range(SAMPLE)]
            expired = next((slot for slot in sample if slot.entry.expires <= now), None)
            if expired is not None:
                self._let_go(expired, "expired")
            else:
                self._let_go(min(sample, key=lambda slot: slot.value(now)), "evicted")

    def _sweep(self, now: float) -> None:
        """Look at a few entries of the next owner, so that what nobody asks for does not stay either."""
        if not self._rota:
            return
        owner = self._rota.popleft()
        for _ in range(min(_SWEPT, len(owner.slots))):
            owner.cursor = (owner.cursor + 1) % len(owner.slots)
            slot = owner.slots[owner.cursor]
            if slot.entry.expires <= now:
                self._let_go(slot, "expired")
                if not owner.slots:
                    break
        if self._owners.get(owner.name) is owner:
            self._rota.append(owner)

    def _late(self, entry: Entry, mark: int | None) -> bool:
        """Whether it was deleted before it came."""
        deletions = self._deletions.get(entry.tenant)
        return mark is not None and deletions is not None and deletions.cover(entry, mark)

    # Who is told.

    def _barred(self, owner: str, id: str, now: float) -> bool:
        return bool(self._bars) and self._bars.get((owner, id), 0.0) > now

    def _announce(self, what: Literal["put", "gone"], entry: Entry) -> None:
        if self._listeners and entry.family is not None:
            self._say(Change(what, entry.tenant, entry.id, _bodiless(entry) if what == "put" else None))

    def _say(self, change: Change) -> None:
        for listen in self._listeners:
            self._tell(listen, change)

    def _tell(self, listen: Callable[[Change], None], change: Change) -> None:
        try:
            listen(change)
        except Exception:
            self.counts["errors"] += 1
            log.exception("a listener failed at %r of an entry", change.what)


def _bodiless(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, body=b"")
