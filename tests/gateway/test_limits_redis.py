"""What only a shared store can get wrong: other processes, cancelled callers, a server that is slow, gone, garbled."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from trimtab.gateway.limits import Ask, Reservation
from trimtab.gateway.limits_lua import SCRIPTS
from trimtab.gateway.limits_redis import RedisLimiter
from trimtab.protocol.errors import BudgetExceeded, LimitExceeded, StoreUnavailable
from trimtab.protocol.exchange import Limits

BUDGET = Limits(microusd_per_day=1000)
WIDE = Limits(10**6, 10**9, 10**9, 10**6)
# Patient, so that a machine under load does not look like a store that is down; the fault tests pass their own.
PATIENT = 5.0


@asynccontextmanager
async def limiter(url: str, timeout: float = PATIENT, **options: Any) -> AsyncIterator[RedisLimiter]:
    made = RedisLimiter(url, timeout=timeout, **options)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def until(true: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for it; five seconds is what recovery may take."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


async def eventually(attempt: Callable[[], Awaitable[Any]], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not await attempt():
            await asyncio.sleep(0.02)


def field(server: Any, made: RedisLimiter, name: str, tenant: str = "acme") -> int:
    """A count as the server has it."""
    reply = server.say("HGET", made._keys[tenant][0], name)
    return 0 if reply.startswith("$-1") else int(reply.split("\r\n")[1])


def slots(server: Any, made: RedisLimiter, tenant: str = "acme") -> int:
    return int(server.say("ZCARD", made._keys[tenant][1])[1:])


# Several processes.

_WORKER = """
    import asyncio, sys
    from trimtab.gateway.limits import Ask
    from trimtab.gateway.limits_redis import RedisLimiter
    from trimtab.protocol.errors import LimitExceeded
    from trimtab.protocol.exchange import Limits

    async def main():
        limiter = RedisLimiter(sys.argv[1], timeout=10)
        await limiter.start()
        assert limiter.healthy
        print("ready", flush=True)
        sys.stdin.readline()
        limits = Limits(requests_per_minute=1000, tokens_per_minute=100_000, microusd_per_day=1050, concurrent=900)
        asks = [limiter.reserve("acme", limits, Ask(100, 100)) for _ in range(50)]
        results = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(r, LimitExceeded) for r in results if isinstance(r, Exception)), results
        print(sum(not isinstance(r, Exception) for r in results), flush=True)
        await limiter.close()

    asyncio.run(main())
"""


def test_four_workers_with_200_requests_admit_exactly_what_the_budget_allows(valkey: Any) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_WORKER), valkey.url]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        admitted = [int(worker.communicate("go\n", timeout=60)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert sum(admitted) == 10


async def test_a_dead_workers_slot_ends_with_its_lease_and_its_money_stays_counted(valkey: Any) -> None:
    limits = Limits(microusd_per_day=1000, concurrent=1)
    async with limiter(valkey.url, lease=0.3) as other:
        dead = RedisLimiter(valkey.url, timeout=PATIENT, lease=0.3)
        await dead.start()
        await dead.reserve("acme", limits, Ask(0, 400))
        await dead.close()
        with pytest.raises(LimitExceeded):
            await other.reserve("acme", limits, Ask(0, 1))

        async def free() -> bool:
            try:
                other.release(await other.reserve("acme", limits, Ask(0, 600)))
            except LimitExceeded:
                return False
            return True

        await eventually(free)
        with pytest.raises(BudgetExceeded):
            await other.reserve("acme", limits, Ask(0, 601))


async def test_a_long_answer_keeps_its_slot(valkey: Any) -> None:
    limits = Limits(concurrent=1)
    async with limiter(valkey.url, lease=0.3) as made:
        long = await made.reserve("acme", limits, Ask())
        for _ in range(10):
            await asyncio.sleep(0.1)
            with pytest.raises(LimitExceeded):
                await made.reserve("acme", limits, Ask())
        made.release(long)
        await made.reserve("acme", limits, Ask())


async def test_a_late_renewal_does_not_bring_a_settled_slot_back(valkey: Any) -> None:
    async with limiter(valkey.url) as made:
        taken = await made.reserve("acme", Limits(concurrent=1), Ask())
        made.release(taken)
        made._link.post(made._command("renew", "acme", 60_000, taken.inner))
        await made.reserve("acme", Limits(concurrent=1), Ask())


async def test_a_settle_is_seen_by_the_next_request_of_the_same_process(valkey: Any) -> None:
    limits = Limits(concurrent=1)
    async with limiter(valkey.url) as made:
        for _ in range(200):
            made.settle(await made.reserve("acme", limits, Ask()), 1, 1)


# Cancelled callers: the leak of March 2023.


async def test_no_cancelled_caller_leaves_its_reply_to_another(valkey: Any) -> None:
    """Questions whose answer is known, cancelled at every step of the loop, while others keep asking."""
    echo = {**SCRIPTS, "echo": "return ARGV[1]"}
    async with limiter(valkey.url, scripts=echo) as made:
        asked = wrong = 0

        async def ask(text: str) -> None:
            nonlocal asked, wrong
            reply = await made._link.ask(("echo", "k", "k2", text))
            asked += 1
            wrong += reply.decode() != text

        async def traffic(name: int) -> None:
            for n in range(150):
                await ask(f"traffic {name} {n}")

        background = [asyncio.create_task(traffic(n)) for n in range(4)]
        for steps in range(150):
            doomed = asyncio.create_task(ask(f"doomed {steps}"))
            for _ in range(steps % 25):
                await asyncio.sleep(0)
            doomed.cancel()
            await asyncio.gather(doomed, return_exceptions=True)
        await asyncio.gather(*background)
        assert asked >= 600
        assert wrong == 0
        assert made._link.counts["drops"] == 0


async def test_a_cancelled_reservation_is_taken_back(valkey: Any) -> None:
    chance = random.Random(7)
    async with limiter(valkey.url) as made:
        kept: list[Reservation] = []

        async def one() -> None:
            kept.append(await made.reserve("acme", WIDE, Ask(10, 10)))

        for _ in range(60):
            tasks = [asyncio.create_task(one()) for _ in range(5)]
            for task in tasks[1:]:
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await made._link.drain(5)
        assert 60 <= len(kept) < 300
        counts = [field(valkey, made, name) for name in ("ru", "tu", "held")]
        assert counts == [len(kept), 10 * len(kept), 10 * len(kept)]
        assert slots(valkey, made) == len(kept) == len(made._live)
        for reservation in kept:
            made.settle(reservation, 3, 4)
        assert await made._link.drain(5)
        counts = [field(valkey, made, name) for name in ("ru", "tu", "held", "spent")]
        assert counts == [len(kept), 3 * len(kept), 0, 4 * len(kept)]
        assert slots(valkey, made) == 0
        assert not made._live


# A server that is gone, slow or full.


async def test_limits_hold_in_process_while_the_server_is_down_and_budgets_refuse(own_valkey: Any) -> None:
    limits = Limits(requests_per_minute=3)
    async with limiter(own_valkey.url) as made:
        await made.reserve("acme", limits, Ask())
        own_valkey.kill()
        admitted = 0
        for _ in range(10):
            try:
                await made.reserve("acme", limits, Ask())
                admitted += 1
            except LimitExceeded:
                pass
        assert admitted == 3
        assert not made.healthy
        assert made.reason
        with pytest.raises(StoreUnavailable) as caught:
            await made.reserve("acme", BUDGET, Ask(0, 1))
        assert caught.value.http_status == 503
        assert caught.value.should_retry
        assert caught.value.retry_after


async def test_it_recovers_within_five_seconds_and_forgets_neither_settles_nor_money(own_valkey: Any) -> None:
    async with limiter(own_valkey.url) as made:
        made.settle(await made.reserve("acme", BUDGET, Ask(0, 500)), 0, 500)
        open_one = await made.reserve("acme", BUDGET, Ask(0, 100))
        own_valkey.kill()
        made.settle(open_one, 0, 50)
        with pytest.raises(StoreUnavailable):
            await made.reserve("acme", BUDGET, Ask(0, 1))
        own_valkey.start()  # with nothing of what it knew
        await until(lambda: made.healthy)
        with pytest.raises(BudgetExceeded):
            await made.reserve("acme", BUDGET, Ask(0, 501))
        await made.reserve("acme", BUDGET, Ask(0, 500))


async def test_a_store_that_comes_late_is_found(own_valkey: Any) -> None:
    own_valkey.kill()
    async with limiter(own_valkey.url) as made:
        assert not made.healthy
        await made.reserve("acme", Limits(requests_per_minute=1), Ask())
        own_valkey.start()
        await until(lambda: made.healthy)
        await made.reserve("acme", BUDGET, Ask(0, 1))


async def test_settles_wait_for_a_server_that_is_only_frozen(own_valkey: Any) -> None:
    """Nothing is lost and nothing counts twice, whether the frozen server had read the command or not."""
    async with limiter(own_valkey.url, timeout=0.2) as made:
        taken = await made.reserve("acme", WIDE, Ask(100, 100))
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            made.settle(taken, 30, 40)
            inside = await made.reserve("acme", Limits(requests_per_minute=5), Ask(7))  # asked, then given up
            assert not isinstance(inside.inner, str)
            await until(lambda: not made.healthy)
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        await until(lambda: made.healthy)
        assert await made._link.drain(5)
        counts = [field(own_valkey, made, name) for name in ("ru", "tu", "held", "spent")]
        assert counts == [1, 30, 0, 40]
        assert slots(own_valkey, made) == 0


async def test_a_sleeping_server_costs_one_timeout_and_then_nothing(own_valkey: Any) -> None:
    async with limiter(own_valkey.url, timeout=0.1) as made:
        await made.reserve("acme", WIDE, Ask())
        loop = asyncio.get_running_loop()
        sleeping = loop.run_in_executor(None, own_valkey.say, "DEBUG", "SLEEP", "1")
        await asyncio.sleep(0.05)
        await made.reserve("acme", Limits(requests_per_minute=1000), Ask())
        assert not made.healthy
        asked = made._link.counts["asked"]
        for _ in range(200):
            await made.reserve("acme", Limits(requests_per_minute=1000), Ask())
        assert made.counts["local"] == 201
        assert made._link.counts["asked"] == asked
        await sleeping
        await until(lambda: made.healthy)


async def test_a_connection_that_was_closed_while_idle_refuses_nobody(valkey: Any) -> None:
    async with limiter(valkey.url) as made:
        for n in range(5):
            await made.reserve("acme", BUDGET, Ask(0, 1))
            valkey.say("CLIENT", "KILL", "TYPE", "normal", wait=False)
            await asyncio.sleep(0.02)
            await made.reserve("acme", BUDGET, Ask(0, 1))
            assert made._link.counts["drops"] == n + 1
        assert made.counts["refused"] == 0
        assert field(valkey, made, "held") == 10


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CLIENT", "PAUSE", "60000", "WRITE"), ("CLIENT", "UNPAUSE")),
    ],
    ids=["full", "read-only replica", "paused"],
)
async def test_a_server_that_refuses_writes_counts_as_down(
    own_valkey: Any, broken: tuple[str, ...], mended: tuple[str, ...]
) -> None:
    async with limiter(own_valkey.url, timeout=0.5) as made:
        await made.reserve("acme", BUDGET, Ask(0, 1))
        own_valkey.say(*broken)
        with pytest.raises(StoreUnavailable):
            await made.reserve("acme", BUDGET, Ask(0, 1))
        await asyncio.sleep(1)
        asked = made._link.counts["asked"]
        await made.reserve("acme", Limits(requests_per_minute=1), Ask())
        assert made._link.counts["asked"] == asked  # it stays down, although the server answers a PING
        own_valkey.say(*mended)

        async def works() -> bool:
            try:
                await made.reserve("acme", BUDGET, Ask(0, 1))
            except StoreUnavailable:
                return False
            return True

        await eventually(works)


async def test_flushed_scripts_are_loaded_again(valkey: Any) -> None:
    async with limiter(valkey.url) as made:
        for _ in range(3):
            valkey.say("SCRIPT", "FLUSH")
            await asyncio.gather(*(made.reserve("acme", WIDE, Ask(1)) for _ in range(20)))
        assert field(valkey, made, "tu") == 60
        assert made._link.counts["drops"] == 0


async def test_where_the_operator_allows_it_money_is_spent_without_the_store_and_told_later(own_valkey: Any) -> None:
    async with limiter(own_valkey.url, when_down="local") as made:
        made.settle(await made.reserve("acme", BUDGET, Ask(0, 300)), 0, 300)
        await made.reserve("acme", BUDGET, Ask(0, 0))
        own_valkey.kill()
        away = await made.reserve("acme", BUDGET, Ask(0, 700))
        with pytest.raises(BudgetExceeded):
            await made.reserve("acme", BUDGET, Ask(0, 1))
        made.settle(away, 0, 200)
        own_valkey.start()
        await until(lambda: made.healthy)
        with pytest.raises(BudgetExceeded):
            await made.reserve("acme", BUDGET, Ask(0, 501))
        await made.reserve("acme", BUDGET, Ask(0, 500))
        assert field(own_valkey, made, "spent") == 500


async def test_replicas_share_the_limit_out_while_they_cannot_see_one_another(tmp_path: Any) -> None:
    async with limiter(f"unix://{tmp_path}/none", replicas=4) as made:
        results = await asyncio.gather(
            *(made.reserve("acme", Limits(requests_per_minute=10), Ask()) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(r, Reservation) for r in results) == 3


# What is not ours under our keys.


@pytest.mark.parametrize("part", [0, 1], ids=["state", "slots"])
async def test_a_key_of_another_type_is_removed_and_said_so(
    valkey: Any, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(requests_per_minute=2, microusd_per_day=1000)
    async with limiter(valkey.url) as made:
        made.settle(await made.reserve("acme", limits, Ask(0, 600)), 0, 600)
        await made.reserve("acme", limits, Ask(0, 0))
        key = made._keys["acme"][part]
        valkey.say("SET", key, "something else")
        with caplog.at_level(logging.ERROR):
            await made.reserve("acme", limits, Ask(0, 100))
        assert made.counts["healed"] == 1
        assert "acme" in caplog.text
        # The windows begin again; the day's money is remembered.
        await made.reserve("acme", limits, Ask(0, 300))
        with pytest.raises(BudgetExceeded):
            await made.reserve("acme", Limits(microusd_per_day=1000), Ask(0, 1))
        assert made.counts["healed"] == 1
        assert made.healthy


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "inf", "1e300", "1.5", "\x00\xff"])
@pytest.mark.parametrize("name", ["ru", "ts", "spent", "held", "day"])
async def test_fields_that_are_no_counts_are_removed(valkey: Any, name: str, value: str) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=100, microusd_per_day=1000)
    async with limiter(valkey.url) as made:
        taken = await made.reserve("acme", limits, Ask(10, 10))
        valkey.say("HSET", made._keys["acme"][0], name, value)
        after = await made.reserve("acme", limits, Ask(100, 100))
        assert (after.requests_left, after.tokens_left) == (1, 0)
        assert made.counts["healed"] == 1
        made.settle(taken, 10, 10)
        assert await made._link.drain(5)
        assert made.healthy


async def test_a_garbled_record_frees_its_slot(valkey: Any) -> None:
    async with limiter(valkey.url) as made:
        taken = await made.reserve("acme", Limits(concurrent=1), Ask(10, 10))
        valkey.say("HSET", made._keys["acme"][0], f"l:{taken.inner}", "who knows")
        made.settle(taken, 1, 1)
        await made.reserve("acme", Limits(concurrent=1), Ask())
        assert made.healthy


# Addresses and secrets.


async def test_a_wrong_password_is_named_but_never_shown(
    own_valkey: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.say("CONFIG", "SET", "requirepass", "s3cret-right")
    with caplog.at_level(logging.DEBUG):
        async with limiter(f"redis://:s3cret-wrong@127.0.0.1:{own_valkey.port}/0") as made:
            assert not made.healthy
            assert "credentials" in str(made.reason)
            with pytest.raises(StoreUnavailable) as caught:
                await made.reserve("acme", BUDGET, Ask(0, 1))
            seen = f"{made.reason} {made!r} {caught.value.message} {caplog.text} {capfd.readouterr()}"
            assert "s3cret" not in seen
            assert str(own_valkey.port) not in caught.value.message
        async with limiter(f"redis://:s3cret-right@127.0.0.1:{own_valkey.port}/3") as made:
            assert made.healthy
            await made.reserve("acme", BUDGET, Ask(0, 1))


@pytest.mark.parametrize(
    "url",
    ["", "postgres://u:s3cret@h/0", "redis://u:s3cret@h:port/0", "redis://:s3cret@h/0?socket_timeout=s3cret",
     "redis://:s3cret@h/0?nonsense=s3cret"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="redis://") as caught:
        RedisLimiter(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_server_that_is_no_store_is_not_waited_for(tmp_path: Any) -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(garble, tmp_path / "s")
    async with server, limiter(f"unix://{tmp_path}/s") as made:
        assert not made.healthy
        await made.reserve("acme", Limits(requests_per_minute=1), Ask())
