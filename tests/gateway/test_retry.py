"""When another call is made, and that retries cannot multiply an outage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.retry import RetryBudget, RetryPolicy, worth_another
from trimtab.protocol.errors import (
    CircuitOpen,
    ContextTooLong,
    InvalidRequest,
    NotSupported,
    Overloaded,
    TrimtabError,
    UpstreamAnswered,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)


@given(st.integers(1, 2000))
def test_in_a_total_outage_retries_stay_within_a_fifth_and_a_burst(calls: int) -> None:
    budget, retries = RetryBudget(), 0
    for _ in range(calls):
        budget.call()
        retries += budget.take()
    assert retries <= 3 + 0.2 * calls


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (UpstreamUnreachable("refused"), 0.0),
        (UpstreamAnswered(503, b"", retry_after=2.0), 2.0),
        (UpstreamAnswered(429, b"", retry_after=60.0), None),
        (UpstreamAnswered(500, b""), 0.25 * 0.75),
        (UpstreamAnswered(400, b""), None),
        (UpstreamTimeout("first_token", 30), None),
        (UpstreamRefusedKey("no"), None),
        (CircuitOpen("open"), None),
    ],
)
def test_what_is_tried_again_on_the_same_target(error: TrimtabError, wait: float | None) -> None:
    assert RetryPolicy().wait(error, 1, 0.5) == wait


def test_attempts_have_an_end() -> None:
    policy = RetryPolicy(attempts=3)
    error = UpstreamAnswered(500, b"")
    assert [policy.wait(error, attempt, 0.0) is not None for attempt in (1, 2, 3)] == [True, True, False]


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(attempt: int, jitter: float) -> None:
    wait = RetryPolicy(attempts=100).wait(UpstreamAnswered(500, b""), attempt, jitter)
    assert wait is not None
    assert 0 < wait <= 8.0


def test_a_fallback_is_not_asked_what_the_client_got_wrong() -> None:
    assert not worth_another(InvalidRequest("no such field"))
    assert not worth_another(UpstreamAnswered(400, b""))
    assert worth_another(UpstreamTimeout("total", 1))
    assert worth_another(UpstreamAnswered(429, b""))


def test_what_does_not_fit_one_model_may_fit_another() -> None:
    body = b'{"error":{"message":"...","code":"context_length_exceeded"}}'
    for error in (ContextTooLong("too long"), UpstreamAnswered(400, body)):
        assert worth_another(error)
        assert RetryPolicy().wait(error, 1, 0.5) is None, "but not this one, asked again"


def test_a_backend_of_ours_that_cannot_is_left_at_once_for_the_next_target() -> None:
    for error in (Overloaded("full"), NotSupported("no embeddings here")):
        assert worth_another(error)
        assert RetryPolicy().wait(error, 1, 0.5) is None
