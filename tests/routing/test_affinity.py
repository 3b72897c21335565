"""A conversation changes model when that is worth more than what its cached prefix saves, either way."""

from __future__ import annotations

import pytest

from trimtab.routing.affinity import CACHE_LIFE_S, Pin, lost_prefix, stay

PIN = Pin("large", at=100.0, prefix_tokens=20_000)


def test_what_is_lost_is_the_discount_on_the_prefix() -> None:
    assert lost_prefix(PIN, 2_500_000, 250_000, now=150.0) == 45_000


@pytest.mark.parametrize("now", [100.0 + CACHE_LIFE_S, 99.0])
def test_a_cache_that_let_go_holds_nobody(now: float) -> None:
    assert lost_prefix(PIN, 2_500_000, 250_000, now) == 0


@pytest.mark.parametrize("wanted", ["small", "other"])
def test_a_switch_pays_for_itself(wanted: str) -> None:
    assert stay(PIN, wanted, gain=45_000, lost=45_000).stays
    assert not stay(PIN, wanted, gain=50_000, lost=45_000).stays
    assert not stay(PIN, wanted, gain=1, lost=0).stays


def test_nothing_holds_who_was_not_pinned_elsewhere() -> None:
    assert not stay(None, "small", gain=0, lost=10).stays
    assert not stay(PIN, "large", gain=0, lost=10).stays
