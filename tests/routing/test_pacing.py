"""A day's money lasts the day and is not overdrawn."""

from __future__ import annotations

import random

import pytest

from trimtab.routing.pacing import DAY_S, Pace
from trimtab.routing.share import LiveShare


def _day(requests: int, cost: int, money: int, seed: int) -> list[float]:
    """The times at which the large model answered, with evenly spread requests."""
    dice, pace, live, taken = random.Random(seed), Pace(0.0, 0.0), LiveShare(), []
    for now in sorted(dice.uniform(0, DAY_S) for _ in range(requests)):
        pace = pace.arrived(now, cost)
        if live.is_large(dice.random(), pace.share(money, now)):
            pace = pace.charged(cost)
            taken.append(now)
    assert pace.spent <= money + cost
    return taken


@pytest.mark.parametrize("affordable", [0.1, 0.3, 0.6])
def test_money_is_spent_over_the_whole_day(affordable: float) -> None:
    taken = _day(4_000, 1_000, int(4_000 * 1_000 * affordable), seed=1)
    assert len(taken) >= 0.85 * 4_000 * affordable
    assert taken[-1] > 0.9 * DAY_S


def test_enough_money_lets_everything_through() -> None:
    assert len(_day(1_000, 1_000, 10_000_000, seed=2)) >= 950


def test_no_money_no_large_model() -> None:
    assert Pace(0.0, 0.0).arrived(1.0, 500).share(0, 1.0) == 0.0
    assert Pace(0.0, 0.0, spent=100).share(100, 5.0) == 0.0


def test_a_new_day_begins_with_all_of_it() -> None:
    spent = Pace(0.0, 0.0, spent=900).arrived(DAY_S - 1, 10)
    assert spent.spent == 900
    next_day = spent.arrived(2 * DAY_S + 5, 10)
    assert (next_day.spent, next_day.began) == (0, 2 * DAY_S)
