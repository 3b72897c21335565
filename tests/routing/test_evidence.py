"""Audits are counted by score and week, add up over processes, and mean the same by a score as a decision does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.evidence import MOST, WEEKS, Audits, rounded
from trimtab.routing.floor import Allowed, Audit

scores = st.floats(-1, 1, allow_nan=False)
audits = st.lists(st.tuples(scores, st.booleans(), st.booleans()).map(lambda row: Audit(*row)), max_size=60)


@given(scores)
def test_rounding_is_never_less_risky(score: float) -> None:
    assert score - 1e-9 <= rounded(score) <= score + 0.01 + 1e-9
    assert rounded(rounded(score)) == rounded(score)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="number"):
        rounded(score)


@given(audits, st.integers(0, WEEKS - 1))
def test_what_is_kept_comes_back(rows: list[Audit], ago: int) -> None:
    here, there = Audits(), Audits()
    for row in rows:
        here.add(row, 100 - ago)
    for week, figures in here.taken().items():
        there.absorb(week, figures)
    assert there.rows() == here.rows() == sorted(Audit(rounded(row.score), *row[1:]) for row in rows)
    assert here.taken() == {}, "once"


def test_weeks_that_are_long_gone_do_not_count() -> None:
    held = Audits()
    held.add(Audit(0.1, True, True), 10)
    held.add(Audit(0.1, False, True), 10 + WEEKS - 1)
    assert len(held) == 2
    held.add(Audit(0.1, False, True), 10 + WEEKS)
    assert [row.small_good for row in held.rows()] == [False, False]


def test_of_very_many_an_even_sample_is_judged() -> None:
    held = Audits()
    held.absorb(1, {"10:11": 90_000.0, "20:01": 10_000.0})
    rows = held.rows()
    assert len(rows) == MOST
    assert sum(not row.small_good for row in rows) / MOST == pytest.approx(0.1, abs=0.001)


def test_figures_that_make_no_sense_are_left_out() -> None:
    held = Audits()
    wrong = {
        "10:12": 1.0,
        "x:11": 1.0,
        "101:11": 1.0,
        "10:11": -5.0,
        "11:11": math.nan,
        "²:11": 1.0,
        "": 1.0,
        "12:11": 1e12,
    }
    held.absorb(1, {**wrong, "-7:10": 2.0})
    assert held.rows() == [Audit(-0.07, True, False)] * 2


def test_a_bound_is_remembered_until_another_is_worked_out() -> None:
    held = Audits()
    assert held.borne(0.9) is None
    for _ in range(200):
        held.add(Audit(0.1, True, True), 1)
    assert held.work_out(0.9).highest == 0.1
    assert held.borne(0.9) == held.work_out(0.9)
    held.bear(0.9, Allowed(None, "x"))
    assert held.borne(0.9) == Allowed(None, "x")
    assert held.borne(0.95) is None
