"""What only a shared store can get wrong: replicas, foreign bytes, a server that is gone, slow, full or garbled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import Any

import pytest
from faults.proxy import FaultProxy, Faults
from stores import MB, SECRET, Clock, Heard, entry, eventually, redis_store, settled, spot, until

from trimtab.cache.entry import MAGIC, seal
from trimtab.cache.store import Change, Held, Selection
from trimtab.cache.store_redis import RedisStore
from trimtab.protocol.errors import StoreUnavailable

now = time.time


def name(store: RedisStore, at: Any) -> str:
    """The key that an entry stands at."""
    return f"{store._stem(at.scope.tenant)}e:{at.id}"


async def write(store: RedisStore, *command: Any) -> None:
    """As another program would: past the store's own ways. Bytes may be anything."""
    await store._writes.ask(command)


# Replicas.


async def test_two_replicas_converge(valkey: Any) -> None:
    one_hears, two_hears = Heard(), Heard()
    async with redis_store(valkey.url, heard=one_hears) as one, redis_store(valkey.url, heard=two_hears) as two:
        chance = random.Random(5)
        for n in range(120):
            store = chance.choice((one, two))
            store.put(entry(spot(str(n)), now()), MB)
            if n % 5 == 4:
                await settled(one)
                await settled(two)
                await chance.choice((one, two)).delete(Selection("acme", id=spot(str(chance.randrange(n))).id))
        await settled(one)
        await settled(two)
        held = (await one.held("acme")).entries
        await until(lambda: len(one_hears.known) == len(two_hears.known) == held)
        assert one_hears.known == two_hears.known
        puts = [change.id for change in one_hears.changes if change.what == "put"]
        assert len(puts) == len(set(puts)), "each is told once, a replica's own included"
        assert (await two.get(spot("119"))) is not None


async def test_a_replica_that_starts_late_hears_what_is_there(valkey: Any) -> None:
    heard = Heard()
    async with redis_store(valkey.url) as first:
        for n in range(600):
            first.put(entry(spot(str(n)), now(), b"body"), MB)
        await settled(first)
        await first.delete(Selection("acme", id=spot("3").id))
    async with redis_store(valkey.url, heard=heard):
        await until(lambda: len(heard.known) == 599)
        assert ("acme", spot("3").id) not in heard.known
        assert all(change.entry is None or change.entry.body == b"" for change in heard.changes)


async def test_what_expired_since_is_not_told(valkey: Any, clock: Clock, heard: Heard) -> None:
    async with redis_store(valkey.url) as first:
        first.put(entry(spot("short"), now(), life=30), MB)
        first.put(entry(spot("long"), now()), MB)
        await settled(first)
    clock.now += 60
    async with redis_store(valkey.url, heard=heard, clock=clock):
        await until(lambda: bool(heard.known))
        assert heard.known == {("acme", spot("long").id)}


async def test_nobodys_words_are_left_after_a_deletion(valkey: Any) -> None:
    async with redis_store(valkey.url) as store:
        canary = "canary-7d1f"
        for n in range(30):
            at = spot(f"{canary} {n}")
            store.put(entry(at, now(), canary.encode(), tags=(canary,), sources=(canary,)), MB)
        await settled(store)
        store_keys = (await store._writes.ask(("KEYS", "*"))) or []
        # The server's own eviction may take the book and leave entries behind.
        await write(store, "DEL", store._stem("acme") + "book")
        assert await store.get(spot(f"{canary} 0")) is None, "what has no row is not there"
        await store.delete(Selection("acme"))
        keys = await store._writes.ask(("KEYS", "*"))
        assert not [key for key in keys if b":e:" in key]
        assert len(store_keys) > 30


async def test_flushall_is_a_miss_and_the_index_hears_of_it_when_it_asks(valkey: Any, heard: Heard) -> None:
    async with redis_store(valkey.url, heard=heard) as store:
        at = spot()
        store.put(entry(at, now()), MB)
        await until(lambda: bool(heard.known))
        valkey.say("FLUSHALL")
        valkey.say("SCRIPT", "FLUSH")
        assert await store.get(at) is None
        assert await store.fetch("acme", [at.id]) == []
        assert heard.changes[-1] == Change("gone", "acme", at.id)
        assert await store.held("acme") == Held()
        store.put(entry(at, now()), MB)
        await settled(store)
        assert await store.get(at) is not None
        await until(lambda: bool(heard.known))
        assert store.healthy


# What is not ours under our keys.


@pytest.mark.parametrize("kind", ["list", "random", "truncated", "flipped", "old version", "empty", "other entry"])
async def test_foreign_bytes_are_a_miss_counted_and_removed(valkey: Any, kind: str) -> None:
    async with redis_store(valkey.url) as store:
        at, other = spot("mine"), spot("another")
        kept = entry(at, now(), b"body" * 50)
        store.put(kept, MB)
        store.put(entry(other, now()), MB)
        await settled(store)
        sealed = seal(SECRET, kept)
        value = {
            "random": random.Random(4).randbytes(300),
            "truncated": sealed[:-7],
            "flipped": sealed[:60] + bytes([sealed[60] ^ 1]) + sealed[61:],
            "old version": MAGIC[:-1] + b"\x00" + sealed[len(MAGIC) :],
            "empty": b"",
            "other entry": seal(SECRET, entry(other, now())),
        }.get(kind)
        await write(store, "DEL", name(store, at))
        if value is None:
            valkey.say("LPUSH", name(store, at), "something else")
        else:
            await write(store, "SET", name(store, at), value)
        for ask in (store.get(at), store.fetch("acme", [at.id])):
            assert not await ask
        assert store.counts["foreign"] >= 1
        await settled(store)
        assert int(valkey.say("EXISTS", name(store, at))[1:]) == 0
        assert (await store.held("acme")).entries == 1, "its row went with it"
        assert await store.get(other) is not None
        store.put(kept, MB)
        await settled(store)
        assert await store.get(at) == kept
        assert store._reads.counts["drops"] == store._writes.counts["drops"] == 0


async def test_another_secret_reads_nothing(valkey: Any, heard: Heard) -> None:
    async with redis_store(valkey.url) as one, redis_store(valkey.url, b"another secret", heard) as two:
        at = spot()
        one.put(entry(at, now()), MB)
        await settled(one)
        await until(lambda: two.counts["foreign"] == 1)
        assert heard.changes == []
        assert await two.get(at) is None
        assert two.counts["foreign"] == 2


@pytest.mark.parametrize("key", ["book", "stream", "tally"])
@pytest.mark.parametrize("how", ["string", "list"])
async def test_bookkeeping_of_another_type_begins_again(valkey: Any, heard: Heard, key: str, how: str) -> None:
    async with redis_store(valkey.url, heard=heard) as store:
        store.put(entry(spot("before"), now()), MB)
        await store.tally("acme", "x", {"a": 1})
        await until(lambda: bool(heard.known))
        full = {"book": store._stem("acme") + "book", "stream": store._stream, "tally": store._stem("acme") + "t:x"}[
            key
        ]
        valkey.say("DEL", full)
        valkey.say(*(("SET", full, "odd") if how == "string" else ("LPUSH", full, "odd")))
        await store.get(spot("before"))
        await store.tallies("acme", "x")
        await store.held("acme")
        at = spot("after")

        async def works() -> bool:
            store.put(entry(at, now()), MB)
            await settled(store)
            await store.tally("acme", "x", {"a": 1})
            return await store.get(at) is not None and (await store.tallies("acme", "x"))["a"] >= 1

        await eventually(works)
        await until(lambda: ("acme", at.id) in heard.known)
        assert store.counts["foreign"] >= 1
        assert store.healthy
        assert store._writes.counts["drops"] == store._reads.counts["drops"] == 0


async def test_rows_that_are_none_are_dropped_and_the_sum_is_counted_anew(valkey: Any) -> None:
    async with redis_store(valkey.url) as store:
        book = store._stem("acme") + "book"
        kept = [entry(spot(str(n)), now()) for n in range(5)]
        for one in kept:
            store.put(one, MB)
        await settled(store)
        valkey.say("HSET", book, "bytes", "nonsense", "0" * 24, "no row", "1" * 24, "")
        for _ in range(20):  # each put looks at a few
            store.put(kept[0], MB)
        await settled(store)
        assert await store.held("acme") == Held(5, sum(one.size for one in kept))
        assert store.counts["foreign"] == 2
        valkey.say("HSET", store._stem("acme") + "t:x", "a", "nonsense", "b", "2")
        assert await store.tallies("acme", "x") == {"b": 2}
        await store.tally("acme", "x", {"a": 1, "b": 1})
        assert await store.tallies("acme", "x") == {"a": 1, "b": 3}


async def test_records_that_are_none_are_passed_over(valkey: Any, heard: Heard) -> None:
    async with redis_store(valkey.url, heard=heard) as store:
        stolen = seal(SECRET, entry(spot(tenant="other"), now()))
        for fields in (
            ("x", "y"),
            ("o", "acme", "w", "put", "e", b"garbage"),
            ("o", "acme", "w", "put", "e", stolen),
            ("o", b"\xff\xfe", "w", "gone", "i", "1"),
            ("o", "acme", "w", "gone"),
        ):
            await write(store, "XADD", store._stream, "*", *fields)
        await write(store, "XADD", store._stream, "*", "o", "acme", "w", "unheard of")
        store.put(entry(spot(), now()), MB)
        await until(lambda: bool(heard.known))
        assert [change.what for change in heard.changes] == ["put"]
        assert store.counts["foreign"] == 5


# A server that is gone, slow or full.


async def test_while_it_is_away_every_call_answers_at_once_and_it_recovers(own_valkey: Any, heard: Heard) -> None:
    async with redis_store(own_valkey.url, heard=heard, timeout=0.5) as store:
        at = spot()
        store.put(entry(at, now()), MB)
        await until(lambda: bool(heard.known))
        own_valkey.kill()
        await until(lambda: not store.healthy)
        assert store.reason
        began = time.perf_counter()
        for _ in range(300):
            assert await store.get(at) is None
            assert await store.fetch("acme", [at.id]) == []
            store.put(entry(at, now()), MB)
            store.used(entry(at, now()))
            assert await store.tallies("acme", "x") == {}
            await store.tally("acme", "x", {"a": 1})
            assert await store.held("acme") == Held()
        assert time.perf_counter() - began < 5, "1,500 calls, none of which waits for the store"
        assert store.counts["errors"] >= 1_000
        assert store.counts["dropped"] >= 500
        with pytest.raises(StoreUnavailable):
            await store.delete(Selection("acme"))
        own_valkey.start()  # with nothing of what it knew

        async def works() -> bool:
            store.put(entry(at, now()), MB)
            await settled(store)
            return await store.get(at) is not None

        await eventually(works)
        await until(lambda: [change.what for change in heard.changes].count("put") >= 2)


async def test_a_bar_is_not_forgotten_while_it_is_away(own_valkey: Any) -> None:
    async with redis_store(own_valkey.url) as store:
        at = spot()
        own_valkey.kill()
        await until(lambda: not store.healthy)
        await store.bar("acme", at.id, 60)
        own_valkey.start()

        async def works() -> bool:
            store.put(entry(at, now()), MB)
            await settled(store)
            return await store.get(at) is not None

        await eventually(works)
        assert await store.fetch("acme", [at.id]) == []


async def test_a_sleeping_server_costs_one_timeout_and_then_nothing(own_valkey: Any) -> None:
    async with redis_store(own_valkey.url, timeout=0.1) as store:
        at = spot()
        store.put(entry(at, now()), MB)
        await settled(store)
        loop = asyncio.get_running_loop()
        sleeping = loop.run_in_executor(None, own_valkey.say, "DEBUG", "SLEEP", "1")
        await asyncio.sleep(0.05)
        assert await store.get(at) is None
        await until(lambda: not store._reads.up)
        asked = store._reads.counts["asked"]
        for _ in range(200):
            assert await store.get(at) is None
        assert store._reads.counts["asked"] == asked
        await sleeping

        async def works() -> bool:
            return await store.get(at) is not None

        await eventually(works)


async def test_a_frozen_server_is_found_again(own_valkey: Any, heard: Heard) -> None:
    async with redis_store(own_valkey.url, timeout=0.2, heard=heard) as store:
        at = spot()
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            store.put(entry(at, now()), MB)
            await store.get(at)
            await until(lambda: not store._reads.up and not store._writes.up)
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)

        async def works() -> bool:
            store.put(entry(at, now()), MB)
            await settled(store)
            return await store.get(at) is not None

        await eventually(works)
        await until(lambda: bool(heard.known))


@pytest.mark.parametrize(
    "faults",
    [Faults(latency_s=0.3), Faults(hang_after=700), Faults(cut_after=900), Faults(reset_after=900), Faults(refuse=True),
     Faults(garble=0.002)],
    ids=["slow", "hangs", "cut", "reset", "refused", "garbled"],
)  # fmt: skip
async def test_a_bad_line_is_a_miss_and_never_a_wrong_answer(own_valkey: Any, faults: Faults) -> None:
    places = [spot(str(n)) for n in range(20)]
    bodies = {at.key: f"body {at.question}".encode() for at in places}
    async with (
        FaultProxy("127.0.0.1", own_valkey.port, seed=3) as proxy,
        redis_store(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.1) as store,
    ):
        for at in places:
            store.put(entry(at, now(), bodies[at.key]), MB)
        await settled(store)
        proxy.faults = faults
        proxy.reset_all()
        ended = time.perf_counter() + 1.0
        while time.perf_counter() < ended:
            answers = await asyncio.gather(*(store.get(at) for at in places))
            for at, found in zip(places, answers, strict=True):
                assert found is None or found.body == bodies[at.key]
            store.put(entry(places[0], now(), bodies[places[0].key]), MB)
            await store.tallies("acme", "x")
            await store.held("acme")
            await store.fetch("acme", [at.id for at in places])
            await asyncio.sleep(0.005)
        proxy.faults = Faults()
        proxy.reset_all()

        async def works() -> bool:
            store.put(entry(places[0], now(), bodies[places[0].key]), MB)
            await store.drain(1)
            return await store.get(places[0]) is not None

        await eventually(works)


async def test_a_full_server_refuses_what_is_new_and_still_gives_what_it_has(own_valkey: Any) -> None:
    async with redis_store(own_valkey.url, timeout=1.0) as store:
        at = spot()
        store.put(entry(at, now()), MB)
        await settled(store)
        own_valkey.say("CONFIG", "SET", "maxmemory", "1mb")
        for n in range(50):
            store.put(entry(spot(str(n)), now(), bytes(100_000)), 100 * MB)
        await until(lambda: not store._writes.up)
        assert not store.healthy
        assert "refuses" in str(store.reason)
        assert await store.get(at) is not None
        own_valkey.say("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: store.healthy)
        held = await store.held("acme")
        assert await store.delete(Selection("acme")) == held.entries, "the books are right"
        assert await store.held("acme") == Held()


async def test_a_server_that_evicts_by_itself_serves_what_is_left(own_valkey: Any) -> None:
    own_valkey.say("CONFIG", "SET", "maxmemory", "3mb")
    own_valkey.say("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    async with redis_store(own_valkey.url) as store:
        found = 0
        for n in range(400):
            at = spot(str(n))
            store.put(entry(at, now(), bytes(20_000)), 100 * MB)
            await settled(store)
            got = await store.get(at)
            assert got is None or got.key == at.key
            found += got is not None
        assert found > 100
        assert store.healthy
        await store.delete(Selection("acme"))
        assert await store.held("acme") == Held()


async def test_a_replica_reads_and_does_not_write(own_valkey: Any) -> None:
    async with redis_store(own_valkey.url, timeout=1.0) as store:
        at = spot()
        store.put(entry(at, now()), MB)
        await settled(store)
        own_valkey.say("REPLICAOF", "127.0.0.1", "1")
        store.put(entry(spot("new"), now()), MB)
        await until(lambda: not store._writes.up)
        assert await store.get(at) is not None
        own_valkey.say("REPLICAOF", "NO", "ONE")
        await until(lambda: store.healthy)


async def test_what_waits_to_be_written_is_bounded(own_valkey: Any) -> None:
    async with redis_store(own_valkey.url, unsent=50_000, largest=30_000) as store:
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            for n in range(100):
                store.put(entry(spot(str(n)), now(), bytes(10_000)), 100 * MB)
            assert store.counts["dropped"] > 90
            assert store._waiting <= 50_000
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        await until(lambda: store._waiting == 0)
        store.put(entry(spot("large"), now(), bytes(40_000)), 100 * MB)
        assert store.counts["refused"] == 1


async def test_the_server_forgets_an_owner_whose_entries_have_expired(valkey: Any) -> None:
    async with redis_store(valkey.url) as store:
        store.put(entry(spot(), now(), life=5), MB)
        await settled(store)
        left = await store._writes.ask(("PTTL", store._stem("acme") + "book"))
        assert 5_000 < left <= 65_000


# Cancelled callers: the leak of March 2023.


async def test_cancelled_at_every_step_nobody_gets_anothers_answer(valkey: Any) -> None:
    """One look-up is cancelled after k steps of the loop, for every k that it takes, while others look up theirs."""
    places = [spot(str(n), tenant=f"t{n % 3}") for n in range(12)]
    async with redis_store(valkey.url) as store:
        for at in places:
            store.put(entry(at, now(), f"canary {at.scope.tenant} {at.question}".encode()), MB)
        await settled(store)
        right = wrong = cancelled = 0

        async def look(at: Any) -> None:
            nonlocal right, wrong
            found = await store.get(at)
            ours = found is not None and found.body == f"canary {at.scope.tenant} {at.question}".encode()
            right, wrong = right + ours, wrong + (not ours)

        for steps in range(60):
            for doomed_at in (0, 5, 11):
                tasks = [asyncio.ensure_future(look(at)) for at in places]
                for _ in range(steps):
                    await asyncio.sleep(0)
                cancelled += tasks[doomed_at].cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        assert wrong == 0
        assert cancelled > 5
        assert right == 60 * 3 * 12 - cancelled
        assert store._reads.counts["drops"] == 0
        assert store.counts["foreign"] == 0


async def test_ten_thousand_mixed_and_cancelled_operations_bring_no_foreign_bytes(valkey: Any) -> None:
    """Two replicas, four tenants that ask the same questions, and a word of each in everything that is theirs."""
    chance = random.Random(11)
    tenants = [f"tenant-{n}" for n in range(4)]
    done = seen = 0

    async def one(store: RedisStore, tenant: str) -> None:
        nonlocal done, seen
        n = chance.randrange(40)
        at = spot(str(n), tenant)
        kind = chance.random()
        if kind < 0.3:
            store.put(entry(at, now(), f"canary {tenant} {n}".encode() * chance.randrange(1, 200)), 400_000)
        elif kind < 0.7:
            found = await store.get(at)
            if found is not None:
                seen += 1
                assert found.body.startswith(f"canary {tenant} {n}".encode())
                store.used(found)
        elif kind < 0.9:
            ids = [spot(str(chance.randrange(40)), tenant).id for _ in range(4)]
            for found in await store.fetch(tenant, ids):
                seen += 1
                assert found.id in ids
                assert found.body.startswith(f"canary {tenant} ".encode())
        elif kind < 0.95:
            await store.tally(tenant, "row", {tenant: 1})
            assert set(await store.tallies(tenant, "row")) == {tenant}
        else:
            await store.delete(Selection(tenant, id=at.id))
        done += 1

    async with redis_store(valkey.url) as first, redis_store(valkey.url) as second:
        failures = []
        for _ in range(200):
            tasks = [
                asyncio.ensure_future(one(chance.choice((first, second)), chance.choice(tenants))) for _ in range(50)
            ]
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            for task in chance.sample(tasks, 12):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    failures.append(result)
        assert failures == []
        assert done > 7_000
        assert seen > 1_000
        for store in (first, second):
            assert store.counts["foreign"] == 0
            assert store._reads.counts["drops"] == store._writes.counts["drops"] == 0


# Addresses and secrets.


def test_an_address_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="redis://") as caught:
        RedisStore("postgres://u:s3cret@h/0", SECRET)
    assert "s3cret" not in str(caught.value)


async def test_without_a_server_it_begins_all_the_same(tmp_path: Any) -> None:
    async with redis_store(f"unix://{tmp_path}/none") as store:
        assert not store.healthy
        assert await store.get(spot()) is None
