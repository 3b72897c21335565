"""What both stores promise: the port's contract, on the one in this process and on a real Valkey."""

from __future__ import annotations

import random

import msgspec
import pytest
from stores import MB, Clock, Heard, entry, eventually, settled, spot, until

from trimtab.cache.store import Held, Selection
from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.store_redis import RedisStore
from trimtab.protocol.messages import Usage

Store = MemoryStore | RedisStore


async def test_what_was_put_comes_back_and_nothing_else_does(store: Store, clock: Clock) -> None:
    at = spot()
    kept = entry(at, clock(), b'{"a": 1}', tags=("t",), sources=("s",))
    assert await store.get(at) is None
    store.put(kept, MB)
    await settled(store)
    assert await store.get(at) == kept
    assert await store.get(spot("Something else")) is None
    assert await store.get(spot(tenant="other")) is None
    assert await store.get(spot(namespace="mine")) is None
    assert await store.fetch("acme", [at.id]) == [kept]
    assert await store.fetch("other", [at.id]) == []
    assert await store.held("acme") == Held(1, kept.size)
    assert await store.held("other") == Held()


async def test_a_second_put_replaces_the_first(store: Store, clock: Clock) -> None:
    at = spot()
    store.put(entry(at, clock(), b"old" * 100), MB)
    later = entry(at, clock(), b"new")
    store.put(later, MB)
    await settled(store)
    assert await store.get(at) == later
    assert await store.held("acme") == Held(1, later.size)


async def test_expiry_is_absolute_and_no_hit_extends_it(store: Store, clock: Clock) -> None:
    at = spot()
    kept = entry(at, clock(), life=10)
    store.put(kept, MB)
    await settled(store)
    for _ in range(3):
        clock.now += 3
        assert await store.get(at) == kept
        store.used(kept)
        await settled(store)
    clock.now += 1
    assert await store.get(at) is None
    assert await store.fetch("acme", [at.id]) == []


async def test_what_has_expired_already_is_not_kept(store: Store, clock: Clock) -> None:
    at = spot()
    store.put(entry(at, clock(), life=0), MB)
    await settled(store)
    assert await store.get(at) is None
    assert store.counts["refused"] == 1


async def test_an_entry_of_more_than_a_quarter_of_the_bound_is_refused(store: Store, clock: Clock) -> None:
    small, large = entry(spot("s"), clock(), b"x" * 100), entry(spot("l"), clock(), b"x" * 5_000)
    store.put(large, 4 * large.size - 1)
    store.put(small, 4 * small.size)
    await settled(store)
    assert store.counts["refused"] == 1
    assert await store.get(spot("l")) is None
    assert await store.get(spot("s")) == small


async def test_the_bound_holds_after_every_put_for_each_owner(store: Store, clock: Clock) -> None:
    chance = random.Random(3)
    bounds = {"acme": 20_000, "other": 50_000}
    for n in range(300):
        owner = chance.choice(list(bounds))
        store.put(entry(spot(str(n), owner), clock(), bytes(chance.randrange(4_000))), bounds[owner])
        await settled(store)
        for name, bound in bounds.items():
            assert (await store.held(name)).bytes <= bound
    assert store.counts["evicted"] > 100
    assert (await store.held("acme")).bytes > 10_000


async def test_eviction_keeps_what_is_worth_most(store: Store, clock: Clock) -> None:
    """Equal sizes: what saves a thousand tokens, or is used, outlives what saves ten and is not."""
    limit = 60 * entry(spot("00"), clock()).size
    rich = [spot(f"rich {n:02}") for n in range(5)]
    loved = [spot(f"used {n:02}") for n in range(5)]
    for at in rich:
        store.put(entry(at, clock(), usage=Usage(5_000, 5_000)), limit)
    for at in loved:
        kept = entry(at, clock(), usage=Usage(5, 5))
        store.put(kept, limit)
        for _ in range(200):
            store.used(kept)
    for n in range(400):
        store.put(entry(spot(f"poor {n:03}"), clock(), usage=Usage(5, 5)), limit)
    await settled(store)
    assert store.counts["evicted"] > 300
    assert len(await store.fetch("acme", [at.id for at in rich])) == 5
    assert len(await store.fetch("acme", [at.id for at in loved])) == 5


async def test_deletion_by_id_tag_source_and_namespace(store: Store, clock: Clock) -> None:
    plain, tagged, based, named = spot("plain"), spot("tagged"), spot("based"), spot("named", namespace="n")
    for at, more in (
        (plain, {}),
        (tagged, {"tags": ("a", "b")}),
        (based, {"sources": ("d",), "tags": ("b",)}),
        (named, {}),
    ):
        store.put(entry(at, clock(), **more), MB)
        store.put(entry(spot(str(at.question), "other"), clock(), **more), MB)
    await settled(store)
    assert await store.delete(Selection("acme", tag="a", source="d")) == 0
    assert await store.delete(Selection("acme", tag="a")) == 1
    assert await store.get(tagged) is None
    assert await store.delete(Selection("acme", source="d")) == 1
    assert await store.get(based) is None
    assert await store.delete(Selection("acme", namespace="n")) == 1
    assert await store.get(named) is None
    assert await store.delete(Selection("acme", id=plain.id, tag="a")) == 0
    assert await store.delete(Selection("acme", id=plain.id)) == 1
    assert await store.delete(Selection("acme", id=plain.id)) == 0
    assert await store.held("acme") == Held()
    assert (await store.held("other")).entries == 4


async def test_deletion_of_everything_of_one_owner(store: Store, clock: Clock) -> None:
    for n in range(700):
        store.put(entry(spot(str(n)), clock()), MB)
    store.put(entry(spot("0", "other"), clock()), MB)
    await settled(store)
    assert await store.delete(Selection("acme")) == 700
    assert await store.held("acme") == Held()
    assert await store.get(spot("5")) is None
    assert (await store.held("other")).entries == 1
    assert await store.delete(Selection("acme")) == 0


async def test_whoever_listens_hears_what_came_and_went(store: Store, clock: Clock, heard: Heard) -> None:
    one, two = spot("one"), spot("two")
    store.put(entry(one, clock(), b"body"), MB)
    store.put(entry(two, clock()), MB)
    store.put(entry(spot("no other wording"), clock(), family=None), MB)
    await settled(store)
    await until(lambda: heard.known == {("acme", one.id), ("acme", two.id)})
    assert heard.changes[0].entry == msgspec.structs.replace(
        entry(one, clock()), body=b"", made=heard.changes[0].entry.made
    )
    await store.delete(Selection("acme", id=one.id))
    await until(lambda: heard.known == {("acme", two.id)})
    assert [change.what for change in heard.changes] == ["put", "put", "gone"]


async def test_evicted_entries_are_told(store: Store, clock: Clock, heard: Heard) -> None:
    limit = 10 * entry(spot("00"), clock()).size
    for n in range(50):
        store.put(entry(spot(f"{n:02}"), clock()), limit)
    await settled(store)
    held = await store.held("acme")
    await until(lambda: len(heard.known) == held.entries)
    found = await store.fetch("acme", [id for _, id in heard.known])
    assert len(found) == held.entries


async def test_a_listener_that_fails_harms_nobody(store: Store, clock: Clock, heard: Heard) -> None:
    def fail(change: object) -> None:
        raise RuntimeError("on purpose")

    await store.start(fail)
    store.put(entry(spot(), clock()), MB)
    await settled(store)
    await until(lambda: store.counts["errors"] == 1)
    await until(lambda: len(heard.changes) == 1)


async def test_what_is_barred_is_not_offered_to_other_wordings(store: Store, clock: Clock, heard: Heard) -> None:
    at = spot()
    kept = entry(at, clock())
    store.put(kept, MB)
    await until(lambda: bool(heard.changes))
    await store.bar("acme", at.id, 60)
    assert await store.get(at) is None
    await until(lambda: [change.what for change in heard.changes] == ["put", "barred"])
    store.put(kept, MB)
    store.put(entry(spot("after"), clock()), MB)
    await settled(store)
    assert await store.get(at) == kept, "an exact repeat is the caller's own question"
    assert await store.fetch("acme", [at.id]) == []
    await until(lambda: ("acme", spot("after").id) in heard.known)
    assert ("acme", at.id) not in heard.known


async def test_a_bar_ends(store: Store, clock: Clock) -> None:
    at = spot()
    await store.bar("acme", at.id, 0.05)
    store.put(entry(at, clock()), MB)
    await settled(store)
    clock.now += 1

    async def offered() -> bool:
        return len(await store.fetch("acme", [at.id])) == 1

    await eventually(offered)


async def test_counters_add_up_and_outlive_entries(store: Store) -> None:
    assert await store.tallies("acme", "evidence") == {}
    await store.tally("acme", "evidence", {"asked": 2, "wrong": 0.25})
    await store.tally("acme", "evidence", {"asked": 1.5, "odd": float("nan")})
    await store.tally("other", "evidence", {"asked": 100})
    await store.delete(Selection("acme"))
    assert await store.tallies("acme", "evidence") == {"asked": 3.5, "wrong": 0.25}
    assert await store.tallies("acme", "else") == {}


@pytest.mark.parametrize("owner", ["", "tenant {with} braces *?[a]", "é\n\x00", "half \ud800 a character"])
async def test_names_may_hold_anything(store: Store, clock: Clock, owner: str) -> None:
    at = spot(tenant=owner)
    store.put(entry(at, clock(), tags=("\ud800",)), MB)
    await settled(store)
    await store.tally(owner, "\ud800", {"\ud800": 1})
    assert await store.tallies(owner, "\ud800") == {"\ud800": 1}
    assert await store.delete(Selection(owner, id="\ud800")) == 0
    await store.bar(owner, "\ud800", 1)
    await store.delete(Selection(owner))
    assert await store.get(at) is None
    assert store.healthy
