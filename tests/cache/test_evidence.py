"""The ledger: the prior carries the first look-ups, audits take over, what contradicts the prior ends it."""

from __future__ import annotations

import random

import pytest

from trimtab.cache.bound import Evidence, lowest
from trimtab.cache.evidence import HALF_LIFE_S, PRIOR_WEIGHT, Ledger, combine, contradicts

GRID = (0.2, 0.5, 0.8, 0.95)
PRIOR = Evidence(GRID, 10_000, (800, 500, 600, 700), (800, 500, 600, 700), (600, 200, 40, 7))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(PRIOR, clock)


def test_the_prior_alone_serves_the_first_repeat(ledger: Ledger) -> None:
    assert ledger.lowest("new", 0.02) is not None
    assert ledger.lowest("new", 0.00001) is None


def test_a_half_weight_prior_promises_less_than_a_whole_one() -> None:
    none = Evidence(GRID, 0, (0,) * 4, (0,) * 4, (0,) * 4)
    alone = combine(PRIOR, none)
    assert alone.judged[0] == PRIOR_WEIGHT * 800
    for limit in (0.001, 0.002, 0.005, 0.01, 0.02):
        careful, whole = lowest(alone, limit), lowest(PRIOR, limit)
        assert careful is None or (whole is not None and whole <= careful)


def test_an_owner_whose_traffic_is_worse_is_served_no_more(ledger: Ledger) -> None:
    before = ledger.lowest("bad", 0.01)
    assert before is not None
    for _ in range(12):
        ledger.looked_up("bad", 0.97)
        ledger.judged("bad", 0.97, wrong=True)
    after = ledger.lowest("bad", 0.01)
    assert after is None or after > before
    assert ledger.lowest("other", 0.01) == before  # nobody else's bound moves


def test_audits_of_an_owner_whose_traffic_is_better_serve_more(ledger: Ledger) -> None:
    before = ledger.lowest("good", 0.01)
    rng = random.Random(3)
    for _ in range(6000):
        score = rng.choice((None, 0.3, 0.6, 0.85, 0.97))
        ledger.looked_up("good", score)
        if score is not None:
            ledger.judged("good", score, wrong=False)
    after = ledger.lowest("good", 0.01)
    assert before is not None
    assert after is not None
    assert after < before


def test_audits_as_the_prior_expects_them_rarely_contradict_it() -> None:
    rng = random.Random(11)
    dropped = 0
    for _ in range(300):
        judged = tuple(float(rng.randrange(60)) for _ in GRID)
        wrong = tuple(
            float(sum(rng.random() < w / n for _ in range(int(j))))
            for j, w, n in zip(judged, PRIOR.wrong, PRIOR.judged, strict=True)
        )
        dropped += contradicts(PRIOR, Evidence(GRID, 300, judged, judged, wrong))
    assert dropped <= 5


def test_a_sampled_audit_is_worth_one_audit(ledger: Ledger) -> None:
    """Its weight is large, its size is not: at one chance for all, the effective number is the real one."""
    for i in range(50):
        ledger.judged("a", 0.9, wrong=i < 5, chance=0.02)
        ledger.judged("b", 0.9, wrong=i < 5)
    assert ledger.evidence("a").judged == pytest.approx(ledger.evidence("b").judged)
    assert ledger.evidence("a").wrong == pytest.approx(ledger.evidence("b").wrong)


def test_audits_at_different_chances_are_worth_fewer(ledger: Ledger) -> None:
    for chance in (1.0, 0.01):
        for _ in range(20):
            ledger.judged("mixed", 0.9, wrong=False, chance=chance)
    own = ledger.evidence("mixed").judged[2] - PRIOR_WEIGHT * PRIOR.judged[2] * 200 / (200 + 20.4)
    assert 20 < own < 22


def test_evidence_grows_old(ledger: Ledger, clock: Clock) -> None:
    for _ in range(100):
        ledger.looked_up("a", 0.9)
        ledger.judged("a", 0.9, wrong=True)
    worse = ledger.evidence("a").wrong[2]
    clock.now += HALF_LIFE_S
    assert ledger.evidence("a").wrong[2] == pytest.approx(worse / 2)
    clock.now += 60 * HALF_LIFE_S
    assert ledger.lowest("a", 0.01) == ledger.lowest("new", 0.01)


def test_a_clock_that_steps_back_harms_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.judged("a", 0.9, wrong=False)
    clock.now -= 1e6
    ledger.looked_up("a", 0.9)
    assert ledger.evidence("a").found[2] > 0


def test_scores_below_the_grid_are_look_ups_and_nothing_more(ledger: Ledger) -> None:
    ledger.looked_up("a", 0.1)
    ledger.looked_up("a", None)
    ledger.judged("a", 0.1, wrong=True)
    none = Ledger(PRIOR, Clock()).evidence("x")
    assert ledger.evidence("a").lookups == none.lookups + 2
    assert ledger.evidence("a").found == none.found
    assert ledger.evidence("a").wrong == none.wrong


@pytest.mark.parametrize("chance", [0, -1, 1.5])
def test_an_impossible_chance_is_refused(ledger: Ledger, chance: float) -> None:
    with pytest.raises(ValueError, match="chance"):
        ledger.judged("a", 0.9, wrong=True, chance=chance)


def test_what_was_saved_is_taken_over(ledger: Ledger, clock: Clock) -> None:
    for i in range(40):
        ledger.looked_up("a", 0.9)
        ledger.judged("a", 0.9, wrong=i % 3 == 0, chance=0.5)
    other = Ledger(PRIOR, clock)
    other.restore(ledger.saved())
    assert other.evidence("a") == ledger.evidence("a")
    with pytest.raises(ValueError, match="grid"):
        Ledger(Evidence((0.5,), 1, (1,), (1,), (0,)), clock).restore(ledger.saved())


def test_owners_are_bounded(clock: Clock) -> None:
    ledger = Ledger(PRIOR, clock, most_owners=3)
    for i in range(10):
        ledger.looked_up(f"owner-{i}", 0.9)
    assert list(ledger.saved()) == ["owner-7", "owner-8", "owner-9"]
