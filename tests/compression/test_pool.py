"""Work is bounded in number and in time, and a thread that overran comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.pool import SMALL, Busy, Pool


@pytest.fixture
def pool() -> Pool:
    return Pool(threads=2, waiting=1)


def patiently(release: threading.Event):  # type: ignore[no-untyped-def]
    """Work that sees to its deadline, as a tier's loop does, and ends when it is let go."""

    def work(deadline: Deadline) -> str:
        while not release.wait(0.002):
            deadline.check()
        return "done"

    return work


async def test_large_work_runs_on_a_thread_and_small_work_at_once(pool: Pool) -> None:
    here = threading.get_ident()
    assert await pool.run(lambda _: threading.get_ident(), Deadline(5), SMALL) != here
    assert await pool.run(lambda _: threading.get_ident(), Deadline(5), SMALL - 1) == here
    pool.close()


async def test_what_the_work_raises_is_raised(pool: Pool) -> None:
    def work(deadline: Deadline) -> None:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await pool.run(work, Deadline(5))
    pool.close()


async def test_a_full_pool_is_busy_and_says_so(pool: Pool) -> None:
    release = threading.Event()
    at_work = [asyncio.ensure_future(pool.run(patiently(release), Deadline(10))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await pool.run(lambda _: None, Deadline(10))
    release.set()
    assert await asyncio.gather(*at_work) == ["done"] * 3
    assert await pool.run(lambda _: "again", Deadline(10)) == "again"
    pool.close()


async def test_a_call_returns_at_its_deadline_and_its_thread_comes_back(pool: Pool) -> None:
    """The field's bug: each timeout leaked a thread, until all were gone (chopratejas/headroom#1171)."""
    for _ in range(10):
        with pytest.raises(OutOfTime):
            await pool.run(patiently(threading.Event()), Deadline(0.01))
        await asyncio.sleep(0.01)
    assert await pool.run(lambda _: "still here", Deadline(10)) == "still here"
    pool.close()


async def test_stuck_work_keeps_its_place_and_others_are_told(pool: Pool) -> None:
    """Work that never asks how late it is: the callers return, and no more is queued behind it."""
    stuck = threading.Event()
    for _ in range(2):
        with pytest.raises(OutOfTime):
            await pool.run(lambda _: stuck.wait(10), Deadline(0.02))
    with pytest.raises(OutOfTime):
        await pool.run(lambda _: "queued and given up", Deadline(0.02))
    stuck.set()
    await asyncio.sleep(0.05)
    assert await pool.run(lambda _: "free", Deadline(10)) == "free"
    pool.close()


async def test_queued_work_whose_caller_has_gone_is_not_done(pool: Pool) -> None:
    release, done = threading.Event(), []
    at_work = [asyncio.ensure_future(pool.run(patiently(release), Deadline(10))) for _ in range(2)]
    await asyncio.sleep(0.02)
    with pytest.raises(OutOfTime):
        await pool.run(lambda _: done.append(1), Deadline(0.02))
    release.set()
    await asyncio.gather(*at_work)
    pool.close()
    assert done == []


async def test_a_cancelled_caller_is_cancelled(pool: Pool) -> None:
    release = threading.Event()
    task = asyncio.ensure_future(pool.run(patiently(release), Deadline(10)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    pool.close()


async def test_nothing_starts_after_its_deadline_or_after_the_end(pool: Pool) -> None:
    now = [0.0]
    late = Deadline(1.0, lambda: now[0])
    now[0] = 2.0
    with pytest.raises(OutOfTime):
        await pool.run(lambda _: "too late", late, 1)
    pool.close()
    with pytest.raises(Busy):
        await pool.run(lambda _: "closed", Deadline(5))


async def test_closing_waits_for_what_runs_and_drops_what_waits() -> None:
    pool, release = Pool(threads=1, waiting=4), threading.Event()
    running = asyncio.ensure_future(pool.run(patiently(release), Deadline(10)))
    waiting = asyncio.ensure_future(pool.run(patiently(release), Deadline(10)))
    await asyncio.sleep(0.02)
    threading.Timer(0.05, release.set).start()
    before = time.monotonic()
    await asyncio.to_thread(pool.close)
    assert time.monotonic() - before < 5
    assert await running == "done"
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_one_tenants_work_leaves_a_thread_and_a_place_to_the_others() -> None:
    pool, release = Pool(threads=2, waiting=16), threading.Event()
    flood = [asyncio.ensure_future(pool.run(patiently(release), Deadline(10), whose="flood")) for _ in range(9)]
    await asyncio.sleep(0.02)
    with pytest.raises(Busy):
        await pool.run(lambda _: None, Deadline(10), whose="flood")
    assert await pool.run(lambda _: "at once", Deadline(10), whose="other") == "at once"
    release.set()
    assert await asyncio.gather(*flood) == ["done"] * 9
    pool.close()


async def test_tenants_take_turns() -> None:
    pool, release, order = Pool(threads=1, waiting=16), threading.Event(), list[str]()
    first = asyncio.ensure_future(pool.run(patiently(release), Deadline(10), whose="a"))
    await asyncio.sleep(0.01)
    queued = [
        asyncio.ensure_future(pool.run(lambda _, name=name: order.append(name), Deadline(10), whose=name))  # type: ignore[misc]
        for name in "aaabbc"
    ]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(first, *queued)
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert sorted(order) == [*"aaabbc"]
    pool.close()


async def test_a_caller_who_gave_up_leaves_its_place_at_once(pool: Pool) -> None:
    release = threading.Event()
    at_work = [asyncio.ensure_future(pool.run(patiently(release), Deadline(10))) for _ in range(2)]
    await asyncio.sleep(0.02)
    for _ in range(5):  # one place to wait in
        with pytest.raises(OutOfTime):
            await pool.run(lambda _: None, Deadline(0.01))
    waiting = asyncio.ensure_future(pool.run(lambda _: "my turn", Deadline(10)))
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(*at_work)
    assert await waiting == "my turn"
    pool.close()


async def test_nothing_of_a_call_is_left_when_it_has_failed(pool: Pool) -> None:
    """Without a collection: a request of ten megabytes must not wait for one."""

    class Body:
        pass

    def failing(body: Body) -> Callable[[Deadline], None]:
        def work(deadline: Deadline) -> None:
            assert body
            raise OutOfTime("too long")

        return work

    gc.disable()
    try:
        body = Body()
        left = weakref.ref(body)
        with contextlib.suppress(OutOfTime):
            await pool.run(failing(body), Deadline(10), whose="a")
        del body
        await asyncio.sleep(0.02)
        assert left() is None
    finally:
        gc.enable()
    pool.close()
