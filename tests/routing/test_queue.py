"""The order of a queue: plain while it is short, by size when it is long, and nobody waits past what was promised."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.queue import SizedQueue


def test_plain_order_while_no_more_wait_than_slots() -> None:
    queue = SizedQueue[str](slots=2, mean_size=5)
    queue.push("long", 9, 0)
    queue.push("short", 1, 0)
    assert [queue.pop(0), queue.pop(0)] == ["long", "short"]


def test_shorter_first_when_deeper() -> None:
    queue = SizedQueue[str](slots=1, mean_size=5)
    for name, size in (("long", 9.0), ("middle", 5.0), ("short", 1.0)):
        queue.push(name, size, 0)
    assert queue.pop(0) == "short"


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=60), st.integers(1, 4))
def test_each_is_served_once(sizes: list[float], slots: int) -> None:
    queue = SizedQueue[int](slots)
    for at, size in enumerate(sizes):
        queue.push(at, size, float(at), f"tenant {at % 3}")
    assert sorted(queue.pop(float(len(sizes))) for _ in sizes) == list(range(len(sizes)))
    with pytest.raises(IndexError):
        queue.pop(0)


def test_a_long_one_is_not_starved_by_a_flood_of_short_ones() -> None:
    queue, now = SizedQueue[str](1, 1.0), 0.0
    queue.push("long", 4, now)
    for _ in range(1_000):
        queue.push("short", 1, now)
        queue.push("short", 1, now)
        taken = queue.pop(now)
        if taken == "long":
            break
        now += 1
    assert taken == "long"
    assert now <= 30


def test_with_true_sizes_nobody_waits_past_the_promise() -> None:
    draw = random.Random(3)
    queue, now, coming, begun = SizedQueue[int](1, 1.0), 0.0, 0.0, {}
    for at in range(400):
        coming += draw.expovariate(0.95)
        begun[at] = coming
    waits, latest, at = {}, {}, 0
    size = {one: draw.expovariate(1.0) + 0.01 for one in begun}
    while len(waits) < len(begun):
        while at < len(begun) and begun[at] <= now:
            queue.push(at, size[at], begun[at])
            latest[at] = queue._waiting[-1].latest
            at += 1
        if not len(queue):
            now = begun[at]
            continue
        taken = queue.pop(now)
        waits[taken] = now
        now += size[taken]
    # The promise leaves out what is in service on arrival: one service.
    assert all(waits[one] <= latest[one] + max(size.values()) for one in waits)


def test_a_tenant_that_had_much_gives_way() -> None:
    queue, now = SizedQueue[str](1, 1.0), 0.0
    for _ in range(300):
        queue.push("heavy", 1.0, now, "heavy")
    for _ in range(100):
        queue.pop(now)
    for _ in range(20):
        queue.push("light", 1.0, now, "light")
    queue.push("last", 1.0, now, "other")
    first = [queue.pop(now) for _ in range(60)]
    assert first.count("heavy") + first.count("light") + first.count("last") == 60


def test_short_predictions_are_scaled_by_what_services_took() -> None:
    queue = SizedQueue[int](1, 1.0)
    for _ in range(500):
        queue.finished(1.0, 3.0)
    queue.push(0, 1.0, 0)
    assert queue._waiting[0].size == pytest.approx(3.0, rel=0.15)


def test_one_that_left_is_taken_out() -> None:
    queue = SizedQueue[str]()
    item = "here"
    queue.push(item, 1, 0)
    assert queue.discard(item)
    assert not queue.discard(item)
    assert len(queue) == 0
