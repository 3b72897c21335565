"""Who goes next and how much of it: shares, fairness and an end to every wait."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.schedule import Limits, guess_room, next_in, reads, split


@dataclass
class One:
    arrived: float
    tenant: str = ""
    expected: int | None = None
    waited: bool = False


@given(st.integers(0, 300), st.lists(st.integers(0, 200), max_size=9))
def test_shares_are_whole_and_fair(room, wanted):
    got = split(room, wanted)
    assert sum(got) == min(room, sum(wanted))
    assert all(0 <= give <= want for give, want in zip(got, wanted, strict=True))
    short = [give for give, want in zip(got, wanted, strict=True) if give < want]
    assert not short or max(short) - min(short) <= 1
    assert not short or all(give <= min(short) + 1 for give in got)


@given(st.integers(1, 16), st.lists(st.integers(1, 70_000), min_size=1, max_size=6))
def test_a_long_prompt_takes_its_share_and_no_more_beside_answers(answering, prompts):
    got = reads(Limits(16, 256, 64), answering, prompts)
    assert sum(got) <= 64
    assert all(got), "and every prompt gets on"
    assert sum(reads(Limits(16, 256, 64), 0, prompts)) == min(256, sum(prompts))


def test_guesses_leave_room_for_prompts():
    assert guess_room(Limits(16, 256, 64), 10, 0) == 246
    assert guess_room(Limits(16, 256, 64), 10, 9999) == 182
    assert guess_room(Limits(16, 20, 16), 16, 9999) == 0


def test_who_comes_first_is_first_while_there_is_room():
    assert next_in([One(3, expected=1), One(1, expected=900), One(2)], Counter(a=5), 4.0, 1.0) == 1


def test_the_shortest_is_first_when_more_wait_than_run():
    assert next_in([One(1, expected=900), One(2), One(3, expected=9)], Counter(a=1), 4.0, 1.0) == 2


def test_nobody_waits_longer_than_twenty_times_an_answer():
    waiting = [One(0, expected=9000), *(One(i, expected=1) for i in range(1, 30))]
    assert next_in(waiting, Counter(), 19.0, 1.0) != 0
    assert next_in(waiting, Counter(), 20.5, 1.0) == 0


def test_a_tenant_with_many_requests_does_not_hold_up_one_with_few():
    waiting = [*(One(i, "busy") for i in range(20)), One(99, "quiet")]
    assert next_in(waiting, Counter(busy=3), 100.0, 100.0) == 20


def test_who_had_to_make_room_resumes_first():
    assert next_in([One(1), One(9, waited=True)], Counter(), 9.0, 1.0) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=1, max_size=30))
def test_everybody_is_served(arrivals):
    """With new short requests at every turn, an old one is still taken in."""
    waiting = [One(float(i), tenant, expected) for i, (tenant, expected) in enumerate(arrivals)]
    old, now, turns = list(waiting), float(len(waiting)), 0
    while any(one in waiting for one in old):
        waiting.pop(next_in(waiting, Counter(a=2), now, 1.0))
        waiting.append(One(now, "new", 1))
        now, turns = now + 1, turns + 1
        assert turns < 200
