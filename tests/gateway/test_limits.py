"""The contract of limits, kept by both stores: in this process, and in a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.gateway.limits import Reservation, rate_limit_headers, reset_text, shared_out
from trimtab.protocol.errors import BudgetExceeded, LimitExceeded
from trimtab.protocol.exchange import Limits


async def refused(
    store: Any, limits: Limits, tokens: int = 0, microusd: int = 0, tenant: str = "acme"
) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        await store.reserve(limits, tokens, microusd, tenant)
    return caught.value


@pytest.mark.parametrize(
    ("limits", "tokens", "microusd"),
    [
        (Limits(requests_per_minute=10), 0, 0),
        (Limits(tokens_per_minute=1050), 100, 0),
        (Limits(microusd_per_day=1050), 0, 100),
        (Limits(concurrent=10), 0, 0),
        (Limits(10, 1000, 1000, 10), 100, 100),
    ],
)
async def test_of_200_parallel_requests_exactly_the_limit_is_admitted(
    store: Any, limits: Limits, tokens: int, microusd: int
) -> None:
    results = await asyncio.gather(
        *(store.reserve(limits, tokens, microusd) for _ in range(200)), return_exceptions=True
    )
    assert sum(isinstance(r, Reservation) for r in results) == 10
    assert sum(isinstance(r, LimitExceeded) for r in results) == 190


async def test_a_refusal_takes_nothing(store: Any) -> None:
    """Every kind refuses in turn; afterwards the whole of every other limit is still there."""
    full = Limits(requests_per_minute=3, tokens_per_minute=100, microusd_per_day=100, concurrent=3)
    for tokens, microusd in ((100, 0), (0, 100)):
        await store.settle(await store.reserve(full, tokens, microusd), tokens, microusd)
    for tokens, microusd in ((1, 0), (0, 1)):
        for _ in range(5):
            await refused(store, full, tokens, microusd)
    last = await store.reserve(full)
    assert last.requests_left == 0
    assert (await refused(store, full)).kind == "requests"


async def test_a_window_opens_with_its_first_request_and_ends_sixty_seconds_later(store: Any) -> None:
    limits = Limits(requests_per_minute=2)
    store.move(17.5)
    await store.reserve(limits)
    store.move(59.75)
    await store.reserve(limits)
    error = await refused(store, limits)
    assert error.kind == "requests"
    assert error.retry_after == pytest.approx(0.25)
    assert error.should_retry
    store.move(0.25)
    assert (await store.reserve(limits)).requests_left == 1
    await store.reserve(limits)
    assert (await refused(store, limits)).retry_after == pytest.approx(60)


async def test_full_tokens_do_not_use_up_requests(store: Any) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=50)
    first = await store.reserve(limits, 50)
    assert (first.requests_left, first.tokens_left) == (9, 0)
    error = await refused(store, limits, 1)
    assert error.kind == "tokens"
    store.move(60)
    assert (await store.reserve(limits, 50)).requests_left == 9


async def test_settling_gives_back_what_was_not_used(store: Any) -> None:
    limits = Limits(tokens_per_minute=100, microusd_per_day=100)
    reservation = await store.reserve(limits, 100, 100)
    await refused(store, limits, 1)
    await store.settle(reservation, 30, 40)
    again = await store.reserve(limits, 70, 60)
    assert again.tokens_left == 0
    assert isinstance(await refused(store, limits, 0, 1), BudgetExceeded)


async def test_settling_twice_changes_nothing(store: Any) -> None:
    limits = Limits(tokens_per_minute=100, microusd_per_day=100, concurrent=1)
    reservation = await store.reserve(limits, 100, 100)
    for _ in range(3):
        await store.settle(reservation, 60, 60)
    store.limiter.release(reservation)
    await store.settled()
    last = await store.reserve(limits, 40, 40)
    assert last.tokens_left == 0
    assert isinstance(await refused(store, limits, 0, 1), BudgetExceeded)


async def test_more_than_was_reserved_counts_above_the_limit(store: Any) -> None:
    limits = Limits(tokens_per_minute=100, microusd_per_day=100)
    await store.settle(await store.reserve(limits, 10, 10), 150, 0)
    assert (await refused(store, limits, 1)).kind == "tokens"
    store.move(60)
    await store.settle(await store.reserve(limits, 10, 10), 10, 150)
    assert isinstance(await refused(store, limits, 1, 1), BudgetExceeded)


async def test_tokens_come_back_only_to_their_own_window(store: Any) -> None:
    limits = Limits(tokens_per_minute=100)
    early = await store.reserve(limits, 80)
    store.move(60)
    late = await store.reserve(limits, 50)
    await store.settle(early, 0)
    assert (await refused(store, limits, 51)).kind == "tokens"
    await store.settle(late, 20)
    assert (await store.reserve(limits, 80)).tokens_left == 0


async def test_an_excess_is_counted_even_after_its_window(store: Any) -> None:
    limits = Limits(tokens_per_minute=100)
    early = await store.reserve(limits, 10)
    store.move(200)
    await store.settle(early, 70)
    assert (await store.reserve(limits, 40)).tokens_left == 0
    store.move(59.75)
    assert (await refused(store, limits, 1)).retry_after == pytest.approx(0.25)


async def test_a_released_request_frees_all_but_the_request(store: Any) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=100, microusd_per_day=100, concurrent=1)
    reservation = await store.reserve(limits, 100, 100)
    store.limiter.release(reservation)
    await store.settled()
    assert (await store.reserve(limits, 100, 100)).requests_left == 0


async def test_slots_are_free_again_when_their_requests_end(store: Any) -> None:
    limits = Limits(concurrent=2)
    first, _ = await store.reserve(limits), await store.reserve(limits)
    error = await refused(store, limits)
    assert (error.kind, error.status) == ("concurrency", 429)
    assert error.retry_after is not None
    assert error.should_retry
    await store.settle(first)
    await store.reserve(limits)
    await refused(store, limits)


async def test_money_starts_anew_at_utc_midnight(store: Any) -> None:
    limits = Limits(microusd_per_day=100)
    await store.settle(await store.reserve(limits, 0, 90), 0, 90)
    error = await refused(store, limits, 0, 20)
    assert (error.code, error.kind, error.status) == ("insufficient_quota", "insufficient_quota", 429)
    assert error.retry_after == pytest.approx(43_200)
    assert not error.should_retry
    store.move(43_199.75)
    await refused(store, limits, 0, 20)
    store.move(0.25)
    await store.reserve(limits, 0, 100)


async def test_money_counts_on_the_day_it_is_settled(store: Any) -> None:
    limits = Limits(microusd_per_day=100)
    over_midnight = await store.reserve(limits, 0, 60)
    held = await store.reserve(limits, 0, 60, tenant="other")
    store.move(43_200)
    assert (await refused(store, limits, 0, 50, tenant="other")).kind == "insufficient_quota"
    await store.settle(held, 0, 0)
    await store.settle(over_midnight, 0, 30)  # the first that is heard of it on the new day
    await store.reserve(limits, 0, 70)
    assert (await refused(store, limits, 0, 1)).kind == "insufficient_quota"


async def test_a_clock_set_back_over_midnight_does_not_empty_the_day(store: Any) -> None:
    limits = Limits(microusd_per_day=100)
    store.move(43_200)
    await store.settle(await store.reserve(limits, 0, 100), 0, 100)
    store.move(-2)
    assert (await refused(store, limits, 0, 1)).retry_after == pytest.approx(2)
    store.move(4)
    assert (await refused(store, limits, 0, 1)).retry_after == pytest.approx(86_398)


async def test_what_the_ledger_knows_is_spent_after_a_restart(store: Any) -> None:
    limits = Limits(microusd_per_day=100)
    store.limiter.preload("acme", 70)
    assert isinstance(await refused(store, limits, 0, 31), BudgetExceeded)
    await store.settle(await store.reserve(limits, 0, 30), 0, 20)
    store.limiter.preload("acme", 50)  # less than is known already
    assert isinstance(await refused(store, limits, 0, 11), BudgetExceeded)
    await store.reserve(limits, 0, 10)


@pytest.mark.parametrize(
    ("limits", "tokens", "microusd", "kind"),
    [
        (Limits(requests_per_minute=0), 0, 0, "requests"),
        (Limits(tokens_per_minute=10), 11, 0, "tokens"),
        (Limits(microusd_per_day=10), 0, 11, "insufficient_quota"),
        (Limits(concurrent=0), 0, 0, "concurrency"),
    ],
)
async def test_a_request_larger_than_the_limit_is_told_not_to_wait(
    store: Any, limits: Limits, tokens: int, microusd: int, kind: str
) -> None:
    error = await refused(store, limits, tokens, microusd)
    assert (error.kind, error.ever, error.should_retry) == (kind, False, False)
    assert error.retry_after is None


async def test_tenants_do_not_touch_one_another(store: Any) -> None:
    limits = Limits(requests_per_minute=1, microusd_per_day=10)
    for tenant in ("a", "b", "", "{a}", "a:state", "ä\n\0*", "x" * 1000):
        assert (await store.reserve(limits, 0, 10, tenant=tenant)).requests_left == 0
        assert isinstance(await refused(store, limits, 0, 1, tenant=tenant), BudgetExceeded)


async def test_limits_that_change_apply_to_what_is_counted_already(store: Any) -> None:
    for _ in range(3):
        await store.reserve(Limits(requests_per_minute=5), 10)
    await refused(store, Limits(requests_per_minute=3))
    await refused(store, Limits(tokens_per_minute=30), 1)
    assert (await store.reserve(Limits(requests_per_minute=9))).requests_left == 5


async def test_without_limits_everything_passes(store: Any) -> None:
    for _ in range(5):
        reservation = await store.reserve(Limits(), 10**9, 10**9)
        assert rate_limit_headers(reservation) == []
        await store.settle(reservation, 10**9, 10**9)


async def test_large_figures_stay_exact(store: Any) -> None:
    budget = 10**15 + 1
    limits = Limits(tokens_per_minute=10**12 + 1, microusd_per_day=budget)
    await store.settle(await store.reserve(limits, 10**12, 10**12), 10**12, 10**15)
    assert (await store.reserve(limits, 1, 1)).tokens_left == 0
    assert isinstance(await refused(store, limits, 0, 1), BudgetExceeded)


async def test_the_headers_tell_how_the_windows_stand(store: Any) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=1000, microusd_per_day=5)
    await store.reserve(limits, 100)
    store.move(7.25)
    reservation = await store.reserve(limits, 200)
    assert dict(rate_limit_headers(reservation)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"8",
        b"x-ratelimit-reset-requests": b"52.75s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"700",
        b"x-ratelimit-reset-tokens": b"52.75s",
    }


# The same steps in both stores must have the same outcome, whatever they are.

_amount = st.integers(0, 60)
_limit = st.none() | st.integers(0, 100)
_step = st.one_of(
    st.tuples(st.just("reserve"), _amount, _amount),
    st.tuples(st.just("settle"), st.integers(0, 9), _amount, _amount),
    st.tuples(st.just("move"), st.sampled_from([0.25, 1.0, 29.75, 59.75, 60.0, 61.5, 43_200.0, 86_400.0])),
    st.tuples(st.just("preload"), _amount),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Limits, _limit, _limit, _limit, st.none() | st.integers(0, 4)), st.lists(_step, max_size=40))
def test_both_stores_decide_alike(make_store: Callable[[str], Any], limits: Limits, steps: list[Any]) -> None:
    asyncio.run(_alike([make_store("local"), make_store("valkey")], limits, steps))


async def _alike(stores: list[Any], limits: Limits, steps: list[Any]) -> None:
    kept: list[list[Reservation]] = [[], []]
    for store in stores:
        await store.start()
    try:
        for step in steps:
            outcomes = [await _play(store, kept[i], limits, step) for i, store in enumerate(stores)]
            assert outcomes[0] == outcomes[1], step
    finally:
        for store in stores:
            await store.close()


async def _play(store: Any, kept: list[Reservation], limits: Limits, step: tuple[Any, ...]) -> Any:
    if step[0] == "move":
        store.move(step[1])
    elif step[0] == "preload":
        store.limiter.preload("acme", step[1])
    elif step[0] == "settle":
        if step[1] < len(kept):
            await store.settle(kept[step[1]], step[2], step[3])
    else:
        try:
            taken = await store.reserve(limits, step[1], step[2])
        except LimitExceeded as e:
            return (type(e), e.kind, e.message, e.retry_after, e.ever)
        kept.append(taken)
        return rate_limit_headers(taken)
    return None


# Words.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.012, "12ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (7.66, "7.66s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (90.5, "1m30.5s"),
        (7205, "2h0m5s"),
        (-3, "0ms"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert reset_text(seconds) == text


@given(st.floats(0, 200_000))
def test_a_written_duration_is_never_too_short(seconds: float) -> None:
    text = reset_text(seconds)
    if text.endswith("ms"):
        read = float(text[:-2]) / 1000
    else:
        hours, _, rest = text.rpartition("h")
        minutes, _, secs = rest.rpartition("m")
        read = float(hours or 0) * 3600 + float(minutes or 0) * 60 + float(secs[:-1])
    assert seconds - 1e-6 <= read <= seconds + 0.001 + 1e-6


def test_a_replicas_share_is_rounded_up_and_leaves_single_requests_possible() -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=1000, microusd_per_day=7, concurrent=1)
    assert shared_out(limits, 4) == Limits(3, 1000, 7, 1)
    assert shared_out(limits, 1) is limits
