"""No cut that the client did not ask for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.cap import Cap, Then, grown, propose, reserve, then
from trimtab.routing.length import Forecast

FORECAST = Forecast(100, 200, 400, 800, 0, ())


def test_the_clients_limit_stands() -> None:
    assert propose(FORECAST, 7, None, can_continue=True) == Cap(7, ours=False)
    assert then(Cap(7, ours=False), "length") is Then.DELIVER


def test_no_cap_where_an_answer_cannot_be_continued() -> None:
    assert propose(FORECAST, None, None, can_continue=False).tokens is None


def test_a_cap_is_the_far_tail_and_more() -> None:
    assert propose(FORECAST, None, None, can_continue=True) == Cap(1_000, ours=True)
    assert propose(FORECAST, None, 900, can_continue=True).tokens is None


@given(st.integers(1, 100_000), st.floats(1, 3_000), st.none() | st.integers(1, 60_000))
def test_an_answer_comes_whole_however_long_or_ends_at_the_models_own_window(
    true: int, p999: float, room: int | None
) -> None:
    cap = propose(Forecast(1, 1, 1, p999, 0, ()), None, room, can_continue=True)
    written, window = 0, room if room is not None else 10**9
    for _ in range(60):
        most = min(window - written, cap.tokens or 10**9)
        step = min(most, true - written)
        written += step
        if then(cap, "stop" if written == true else "length") is Then.DELIVER:
            break
        cap = grown(cap, written, room)
    assert written == min(true, window)


@given(st.none() | st.integers(1, 500), st.none() | st.integers(1, 500))
def test_reservations_keep_to_limit_and_window(asked: int | None, room: int | None) -> None:
    kept = reserve(FORECAST, asked, room)
    assert 1 <= kept <= min(400, asked or 400, room or 400)
