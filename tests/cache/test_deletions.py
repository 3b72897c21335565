"""An answer that was on its way when its like was deleted is not kept, in whatever order things come and wherever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import MB, Clock, entry, eventually, redis_store, settled, spot

from trimtab.cache.deletions import KNOWN, Deletions, selected
from trimtab.cache.entry import Entry
from trimtab.cache.store import Selection
from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.store_redis import RedisStore

Store = MemoryStore | RedisStore

SELECTIONS: list[dict[str, str]] = [
    {}, {"tag": "a"}, {"tag": "b"}, {"source": "d"}, {"namespace": "n"}, {"tag": "a", "source": "d"},
    {"id": "0"}, {"id": "1"}, {"id": "2", "tag": "b"}, {"id": "- with spaces"}, {"tag": "a b"},
]  # fmt: skip


@pytest.fixture(params=["memory", "redis"])
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[list[Store]]:
    """One store in memory, or two replicas of a shared one."""
    if request.param == "memory":
        yield [MemoryStore(chance=random.Random(7))]
        return
    url = request.getfixturevalue("valkey").url
    async with redis_store(url) as one, redis_store(url) as two:
        yield [one, two]


class Answer:
    """One that is on its way: where, since when."""

    def __init__(self, chance: random.Random, owner: str, number: int) -> None:
        self.at = spot(f"question {number}", owner, chance.choice(["", "n"]))
        self.tags = tuple(tag for tag in ("a", "b") if chance.random() < 0.4)
        self.sources = ("d",) if chance.random() < 0.3 else ()
        self.alias_of = str(chance.randrange(3)) if chance.random() < 0.3 else None
        self.made: Entry | None = None

    def entry(self) -> Entry:
        self.made = entry(
            self.at, time.time(), tags=self.tags, sources=self.sources, alias_of=self.alias_of, family=None
        )
        return self.made


async def interleaved(replicas: list[Store], owner: str, seed: int) -> None:
    """Answers and deletions, on any replica, each with pauses of its own."""
    chance = random.Random(seed)
    answers = [Answer(chance, owner, n) for n in range(12)]
    clock = iter(range(10_000))
    begun: dict[int, int] = {}
    deleted: list[tuple[int, int, Selection]] = []

    async def pause() -> None:
        for _ in range(chance.choice((0, 0, 1, 3))):
            await asyncio.sleep(chance.choice((0, 0.0005)))

    async def answer(n: int) -> None:
        await pause()
        store, one = chance.choice(replicas), answers[n]
        await store.get(one.at)
        mark = store.mark(owner)
        begun[n] = next(clock)
        await pause()
        store.put(one.entry(), MB, mark)

    async def delete() -> None:
        await pause()
        what = Selection(owner, **chance.choice(SELECTIONS))
        start = next(clock)
        await chance.choice(replicas).delete(what)
        deleted.append((start, next(clock), what))

    await asyncio.gather(*(answer(n) for n in range(12)), *(delete() for _ in range(4)))
    for store in replicas:
        await settled(store)
    for n, one in enumerate(answers):
        assert one.made is not None
        meant = [(start, end) for start, end, what in deleted if selected(one.made, what)]
        held = [await store.get(one.at) is not None for store in replicas]
        assert len(set(held)) == 1
        if any(start > begun[n] for start, _ in meant):
            assert not held[0], "deleted after it began"
        if all(end < begun[n] for _, end in meant):
            assert held[0], "nothing that meant it was deleted since it began"


async def test_in_any_order(replicas: list[Store]) -> None:
    for seed in range(60):
        await interleaved(replicas, f"owner-{seed}", seed)
    assert sum(store.counts["refused"] for store in replicas) > 20


async def test_a_replica_that_never_looked_learns_by_the_stream(valkey: Any) -> None:
    async with redis_store(valkey.url) as one, redis_store(valkey.url) as two:
        two.used(entry(spot(), 0.0))  # it has had to do with this owner
        await one.delete(Selection("acme", tag="a"))

        async def heard() -> bool:
            return two.mark("acme") == one.mark("acme") > 0

        await eventually(heard)
        two.put(entry(spot(), time.time(), tags=("a",)), MB, two.mark("acme"))
        await settled(two)
        assert await one.get(spot()) is not None


async def test_a_list_of_deletions_that_is_lost_or_foreign_keeps_nothing_that_began_before(
    replicas: list[Store], request: pytest.FixtureRequest
) -> None:
    store = replicas[0]
    if not isinstance(store, RedisStore):
        pytest.skip("it is nobody else's in a process")
    valkey = request.getfixturevalue("valkey")
    kept = entry(spot(), time.time())
    await store.delete(Selection("acme", tag="a"))
    mark = store.mark("acme")
    for spoil in (("DEL",), ("SET", "x"), ("LPUSH", "no mark")):
        key = f"{store._stem('acme')}d"
        valkey.say("DEL", key)
        valkey.say(spoil[0], key, *spoil[1:])
        store.put(kept, MB, mark)
        await settled(store)
        assert await store.get(spot()) is None, spoil
        await store.delete(Selection("acme", tag="a"))
        assert store.mark("acme") > mark
    await store.get(spot())
    store.put(kept, MB, store.mark("acme"))
    await settled(store)
    assert await store.get(spot()) == kept


async def test_more_deletions_than_are_known_refuse_all_that_began_before_them(replicas: list[Store]) -> None:
    store = replicas[0]
    marks = [store.mark("acme")]
    for n in range(KNOWN + 2):
        await store.delete(Selection("acme", tag=str(n)))
        marks.append(store.mark("acme"))
    assert marks == sorted(set(marks))
    for mark, kept in ((marks[1], False), (marks[3], True), (marks[-1], True)):
        at = spot(str(mark))
        store.put(entry(at, time.time()), MB, mark)
        await settled(store)
        assert (await store.get(at) is not None) is kept


async def test_an_id_means_its_aliases(replicas: list[Store]) -> None:
    store, now = replicas[0], time.time()
    first, alias, other = spot("first"), spot("alias"), spot("other")
    for at, more in ((first, {}), (alias, {"alias_of": first.id}), (other, {})):
        store.put(entry(at, now, **more), MB)
    await settled(store)
    assert await store.delete(Selection("acme", id=first.id)) == 2
    assert [one is None for one in [await store.get(at) for at in (first, alias, other)]] == [True, True, False]


@given(st.lists(st.one_of(st.none(), st.sampled_from(SELECTIONS[:6])), max_size=600), st.integers(0, 600))
@settings(max_examples=60, deadline=None)
def test_what_is_covered_is_what_was_deleted_since_or_is_not_known(steps: list[Any], start: int) -> None:
    one = entry(spot(), Clock()(), tags=("a",))
    deletions, mark, since = Deletions(), 0, []
    for n, step in enumerate(steps):
        if n == min(start, len(steps) - 1):
            mark, since = deletions.mark, []
        if step is not None:
            what = Selection("acme", **step)
            deletions.add(what)
            since.append(what)
    forgotten = len(since) > KNOWN
    assert deletions.cover(one, mark) is (forgotten or any(selected(one, what) for what in since))
