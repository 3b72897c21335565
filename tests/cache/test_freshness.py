"""How long an answer may be served, and that nobody asks what a question is about while it does not matter."""

from __future__ import annotations

import pytest

from trimtab.cache.entry import Entry
from trimtab.cache.freshness import asks_about_now, fresh, present
from trimtab.cache.policy import CachePolicy
from trimtab.protocol.messages import Request

POLICY = CachePolicy.model_validate({"ttl_s": 3600, "time_ttl_s": 300})


def entry(expires: float = 1e9) -> Entry:
    return Entry("i", "acme", "", b"p", b"k", "chat", "m", "m", "whole", b"{}", 1000.0, expires)


def never() -> bool:
    raise AssertionError("nobody needs to know")


@pytest.mark.parametrize(
    ("age", "max_age", "expires", "lasts"),
    [
        (299, None, 1e9, True),
        (3600, None, 1e9, False),
        (10, 9, 1e9, False),
        (10, 10, 1e9, True),
        (10, None, 1010, False),
    ],
)
def test_most_are_judged_by_the_clock_alone(age: float, max_age: float | None, expires: float, lasts: bool) -> None:
    assert fresh(entry(expires), POLICY, max_age, 1000.0 + age, never) is lasts


@pytest.mark.parametrize("about_now", [False, True])
def test_what_is_about_the_present_lives_shorter(about_now: bool) -> None:
    assert fresh(entry(), POLICY, None, 1300.0, lambda: about_now) is not about_now


def test_both_ends_of_a_long_question_are_read() -> None:
    filler = "word " * 100_000
    assert asks_about_now(f"{filler} What is new today?")
    assert asks_about_now(f"Today I read this: {filler}")
    assert not asks_about_now(f"{filler} today {filler}"), "what lies between is what the question is put to"


def test_only_a_chats_question_is_about_a_time() -> None:
    text = b'"What is new today?"'
    chat = b'{"messages":[{"role":"user","content":%b}]}' % text
    assert present(Request.parse("chat", chat))
    assert not present(Request.parse("completions", b'{"prompt":%b}' % text))
    assert not present(Request.parse("chat", b'{"messages":[]}'))
