"""A day's money is not given out twice, whatever the books and the requests do meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.money import STALE_S, DayMoney

NOON = 20_000 * 86_400 + 43_200.0


def test_what_is_on_its_way_counts() -> None:
    money = DayMoney(NOON)
    money.arrived(100, NOON)
    assert money.share(100, NOON) > 0
    money.hold(100)
    assert money.spent == 100
    assert money.share(100, NOON) == 0
    money.settle(100, 40)
    assert money.spent == 40


def test_the_books_are_asked_now_and_then() -> None:
    money = DayMoney(NOON)
    assert money.stale(NOON)
    assert not money.stale(NOON + 1)
    money.settle(0, 30)
    money.told(500)
    assert money.spent == 530, "charged while they were read: rather twice than not at all"
    assert money.stale(NOON + STALE_S)
    money.told(530)
    assert money.spent == 530


def test_a_new_day_is_new_money() -> None:
    money = DayMoney(NOON)
    money.stale(NOON)
    money.told(900)
    money.arrived(10, NOON + 50_000)
    assert money.spent == 0


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=60), st.integers(0, 500))
def test_no_order_of_events_overdraws(events: list[tuple[int, bool]], per_day: int) -> None:
    """Requests of known cost: what is given out never exceeds the money; the books agree at every asking."""
    money, booked, flying = DayMoney(NOON), 0, []
    money.stale(NOON)
    money.told(0)
    for at, (cost, lands) in enumerate(events):
        now = NOON + at * 3
        money.arrived(cost, now)
        if money.share(per_day, now) > 0 and money.spent + cost <= per_day:
            money.hold(cost)
            flying.append(cost)
        if lands and flying:
            landed = flying.pop(0)
            money.settle(landed, landed)
            booked += landed
        if money.stale(now):
            money.told(booked)
        assert booked + sum(flying) <= per_day
        assert money.spent >= booked + sum(flying)
