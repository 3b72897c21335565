"""The breaker against its own description, under any sequence of outcomes and pauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.breaker import Breaker, counts_against
from trimtab.protocol.errors import (
    InvalidRequest,
    TrimtabError,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamRefusedKey,
    UpstreamTimeout,
)

steps = st.lists(st.tuples(st.sampled_from(["good", "bad", "gone"]), st.floats(0, 400)), max_size=80)


def test_five_failures_open_it_and_a_probe_closes_it() -> None:
    breaker = Breaker()
    for _ in range(5):
        assert breaker.allow(0)
        breaker.failure(0)
    assert not breaker.allow(29.9)
    assert breaker.retry_after(10) == 20
    assert breaker.allow(30)
    assert not breaker.allow(30), "one probe at a time"
    breaker.success()
    assert breaker.state(30) == "closed"
    assert breaker.allow(30)


def test_each_failed_probe_doubles_the_pause_up_to_five_minutes() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failure(0)
    now, pauses = 0.0, []
    for _ in range(6):
        now += breaker.retry_after(now)
        assert breaker.allow(now)
        breaker.failure(now)
        pauses.append(breaker.retry_after(now))
    assert pauses == [60, 120, 240, 300, 300, 300]


def test_half_of_a_window_opens_it_without_a_row() -> None:
    breaker = Breaker()
    for i in range(40):
        breaker.failure(0) if i % 2 else breaker.success()
    assert breaker.state(0) == "open"


def test_a_probe_whose_client_left_lets_another_through() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failure(0)
    assert breaker.allow(31)
    breaker.abandon()
    assert breaker.allow(31)


@given(steps)
def test_it_never_locks_up_and_never_calls_while_open(sequence: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for outcome, pause in sequence:
        now += pause
        state = breaker.state(now)
        allowed = breaker.allow(now)
        assert allowed == (state != "open")
        if not allowed:
            assert 0 < breaker.retry_after(now) <= breaker.longest_pause
            continue
        if outcome == "good":
            breaker.success()
            assert breaker.state(now) == "closed"
        elif outcome == "bad":
            breaker.failure(now)
        else:
            breaker.abandon()
    assert breaker.allow(now + breaker.longest_pause + 1)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (UpstreamAnswered(500, b""), True),
        (UpstreamAnswered(429, b""), False),
        (UpstreamAnswered(400, b""), False),
        (UpstreamTimeout("idle", 1), True),
        (UpstreamCut("cut"), True),
        (UpstreamRefusedKey("key"), False),
        (InvalidRequest("bad"), False),
    ],
)
def test_a_clients_mistake_is_not_the_targets_fault(error: TrimtabError, counts: bool) -> None:
    assert counts_against(error) is counts
