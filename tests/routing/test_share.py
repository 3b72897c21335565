"""The share that comes about is the share that was asked for, whatever the scores do."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from trimtab.routing.share import LiveShare

Scores = Callable[[random.Random, float], float]
STREAMS: dict[str, Scores] = {
    "even": lambda dice, _: dice.random(),
    "drifts up": lambda dice, at: dice.random() + at,
    "drifts down": lambda dice, at: dice.random() - at,
    "jumps": lambda dice, at: dice.gauss(0, 0.1) + (at > 0.5),
    "all equal": lambda dice, at: 0.25,
    "two values": lambda dice, at: float(dice.random() < 0.5),
}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_share_comes_about_within_two_points(stream: str, share: float) -> None:
    dice, live, count = random.Random(7), LiveShare(), 3_000
    large = sum(live.is_large(STREAMS[stream](dice, at / count), share) for at in range(count))
    assert abs(large / count - share) <= 0.02


def test_the_large_model_gets_the_scores_that_need_it_most() -> None:
    dice, live = random.Random(3), LiveShare()
    scores = [dice.random() for _ in range(4_000)]
    taken = [score for score in scores if live.is_large(score, 0.25)]
    assert sum(score > 0.7 for score in taken) > 0.95 * len(taken)


def test_what_is_taken_beside_the_share_is_made_up_for() -> None:
    dice, live, large = random.Random(5), LiveShare(), 0
    for at in range(4_000):
        if at % 10 == 0:
            live.take_large()
            large += 1
        else:
            large += live.is_large(dice.random(), 0.3)
    assert abs(large / 4_000 - 0.3) <= 0.02


def test_a_window_forgets() -> None:
    live = LiveShare(window=100)
    for _ in range(500):
        live.is_large(0.9, 1.0)
    assert live.realised == 1.0
    for _ in range(100):
        live.is_large(0.1, 0.0)
    assert live.realised == 0.0


def test_a_seed_tells_high_from_low_before_there_is_traffic() -> None:
    seed = [at / 100 for at in range(100)]
    assert LiveShare(seed).is_large(0.95, 0.3)
    assert not LiveShare(seed).is_large(0.2, 0.3)
