"""What hints do is measured by arms: the change is found, its interval holds, and nothing is said of a few answers."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.protocol.exchange import Part, Receipt, ReceiptLine
from trimtab.routing.shape_effect import FEWEST, Effect, Effects, Tally, arm_of


@given(st.lists(st.tuples(st.integers(1, 5_000), st.floats(1, 5_000)), min_size=2, max_size=60))
def test_a_tally_is_its_answers(answers: list[tuple[int, float]]) -> None:
    tally = Tally()
    for tokens, foreseen in answers:
        tally.add(tokens, foreseen)
    logs = [math.log(tokens / foreseen) for tokens, foreseen in answers]
    mean = sum(logs) / len(logs)
    variance = sum((x - mean) ** 2 for x in logs) / (len(logs) - 1)
    assert tally.tokens == sum(tokens for tokens, _ in answers)
    assert tally.mean == pytest.approx(mean, abs=1e-9)
    assert tally.error == pytest.approx(variance / len(logs), abs=1e-9)


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    rng, held = random.Random(3), 0
    for _ in range(200):
        effect = Effect()
        for _ in range(40):
            foreseen = rng.uniform(50, 2_000)
            effect.holdout.add(round(foreseen * math.exp(rng.gauss(0, 0.6))), foreseen)
            effect.hint.add(round(0.7 * foreseen * math.exp(rng.gauss(0, 0.6))), foreseen)
        change = effect.change
        assert change is not None
        held += change.low <= -0.3 <= change.high
    assert 180 <= held <= 199


def test_of_a_few_answers_nothing_is_said() -> None:
    effect = Effect()
    for _ in range(FEWEST):
        effect.hint.add(10, 10)
    for _ in range(FEWEST - 1):
        effect.holdout.add(10, 10)
    assert effect.change is None
    effect.holdout.add(10, 10)
    assert effect.change == (0.0, 0.0, 0.0)


def test_what_is_written_is_read_and_nonsense_is_left() -> None:
    effects, again = Effects(), Effects()
    effects.add("acme", "token_budget", "hint", 30, 60)
    effects.judged("acme", "token_budget", "holdout", wrong=True)
    again.load(json.loads(json.dumps(effects.to_json())))
    assert again.known == effects.known
    again.load([["a", "b", [1, 2, 3], [1]], 7, ["x", "y", [1, 1, math.inf, 0, 0, 0], [0, 0, 0, 0, 0, 0]]])
    assert again.known == effects.known


def test_an_arm_is_read_off_the_plans_line_only() -> None:
    line = ReceiptLine(
        "plan", "planned", length=(90, 200, 300, 400), parts=[Part("cap"), Part("holdout", why="token_budget")]
    )
    assert arm_of(Receipt("r", "t", 0.0, lines=[line])) == ("token_budget", "holdout", 90)
    assert arm_of(Receipt("r", "t", 0.0, lines=[ReceiptLine("prune", "pruned", parts=[Part("hint", why="x")])])) is None
    assert arm_of(Receipt("r", "t", 0.0)) is None
