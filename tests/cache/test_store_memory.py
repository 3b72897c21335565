"""What only the store in this process promises: it never suspends, and its books are right whatever happens."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from stores import MB, Clock, Heard, entry, spot

from trimtab.cache.entry import Entry
from trimtab.cache.store import Selection
from trimtab.cache.store_memory import MemoryStore


def at_once(coroutine: Any) -> Any:
    """The result of something that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def check(store: MemoryStore) -> None:
    """Every way to count what is held gives the same."""
    slots = list(store._slots.values())
    assert sum(len(owner.slots) for owner in store._owners.values()) == len(slots)
    for name, owner in store._owners.items():
        assert owner.slots
        assert owner.bytes == sum(slot.size for slot in owner.slots) == sum(slot.entry.size for slot in owner.slots)
        assert [slot.index for slot in owner.slots] == list(range(len(owner.slots)))
        assert set(owner.ids) == {slot.entry.id for slot in owner.slots}
        assert {slot.entry.tenant for slot in owner.slots} == {name}
        assert owner in store._rota
    assert all(store._slots[slot.entry.key] is slot for slot in slots)


STEP = st.tuples(
    st.sampled_from(["put", "put", "put", "used", "delete", "bar", "move", "get"]),
    st.integers(0, 12),
    st.sampled_from(["acme", "other"]),
    st.integers(0, 1_500),
    st.floats(0, 50),
)
PLACES = {(n, owner): spot(str(n), owner) for n in range(13) for owner in ("acme", "other")}


@given(st.lists(STEP, min_size=20, max_size=80), st.integers(4_000, 9_000), st.integers())
def test_the_bound_and_the_books_hold_whatever_happens(steps: list[Any], limit: int, seed: int) -> None:
    clock, heard = Clock(), Heard()
    store = MemoryStore(clock, random.Random(seed))
    at_once(store.start(heard))
    for what, n, owner, size, life in steps:
        at = PLACES[n, owner]
        made: Entry = entry(at, clock(), bytes(size), life=life)
        if what == "put":
            store.put(made, limit)
            assert at_once(store.held(owner)).bytes <= limit
        elif what == "used":
            store.used(made)
        elif what == "delete":
            at_once(store.delete(Selection(owner, id=at.id)))
        elif what == "bar":
            at_once(store.bar(owner, at.id, life))
        elif what == "get":
            found = at_once(store.get(at))
            assert found is None or (found.key == at.key and found.expires > clock())
        else:
            clock.now += life
        check(store)
    held = {(slot.entry.tenant, slot.entry.id) for slot in store._slots.values()}
    assert heard.known <= held  # what came while it was barred is held and was not told


def test_a_lower_bound_is_met_by_the_next_put(clock: Clock) -> None:
    store = MemoryStore(clock, random.Random(1))
    for n in range(200):
        store.put(entry(spot(str(n)), clock()), MB)
    store.put(entry(spot("last"), clock()), 8_000)
    assert at_once(store.held("acme")).bytes <= 8_000
    check(store)


def test_what_expired_goes_without_being_asked_for(clock: Clock) -> None:
    store = MemoryStore(clock, random.Random(1))
    for n in range(100):
        store.put(entry(spot(str(n), "idle"), clock(), life=10), MB)
    clock.now += 11
    for n in range(100):
        store.put(entry(spot(str(n), "busy"), clock()), MB)
    assert at_once(store.held("idle")).entries == 0
    assert store.counts["expired"] == 100
    check(store)


def test_a_use_counts_half_after_an_hour(clock: Clock) -> None:
    store = MemoryStore(clock)
    kept = entry(spot(), clock(), life=100_000)
    store.put(kept, MB)
    store.used(kept)
    slot = store._slots[kept.key]
    assert slot.recent(clock()) == 1.0
    assert abs(slot.recent(clock() + 3_600) - 0.5) < 1e-6
    assert slot.recent(clock() - 5) == 1.0, "a clock that was set back makes nothing more valuable"


def test_another_owners_entry_under_the_same_key_is_a_miss(clock: Clock) -> None:
    """It cannot be, by the key's making; should it be, nobody gets the other's answer."""
    store = MemoryStore(clock)
    at = spot()
    store.put(msgspec.structs.replace(entry(at, clock()), tenant="other"), MB)
    assert at_once(store.get(at)) is None
    assert store.counts["foreign"] == 1


async def test_a_late_listener_hears_what_is_there(clock: Clock) -> None:
    store, heard = MemoryStore(clock), Heard()
    store.put(entry(spot(), clock(), b"body"), MB)
    await store.start(heard)
    assert [(change.what, change.entry.body if change.entry else None) for change in heard.changes] == [("put", b"")]


async def test_a_long_deletion_lets_others_have_a_turn(clock: Clock) -> None:
    store = MemoryStore(clock)
    for n in range(3_000):
        store.put(entry(spot(str(n)), clock()), 16 * MB)
    running = asyncio.ensure_future(store.delete(Selection("acme")))
    await asyncio.sleep(0)
    store.put(entry(spot("meanwhile"), clock()), 16 * MB)
    assert not running.done()
    assert await running == 3_000
    assert at_once(store.held("acme")).entries == 1
    check(store)
