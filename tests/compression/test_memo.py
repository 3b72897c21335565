"""What is remembered is found again, within its size, and costs the garbage collector nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from trimtab.compression.memo import Outcome, Recent
from trimtab.compression.prefix import PrefixMemory

MANY = 5_000


def outcomes() -> object:
    kept: Recent[Outcome] = Recent(64 << 20)
    for i in range(MANY):
        outcome = Outcome(b"%d" % i, i)
        kept.put(b"%d" % i, outcome, outcome.size)
    assert len(kept) == MANY
    return kept


def beginnings() -> object:
    kept = PrefixMemory()
    for i in range(MANY):
        kept.store("t", "gpt", [b"%d" % i], 0.0)
    assert len(kept) == MANY
    return kept


@pytest.mark.parametrize("fill", [outcomes, beginnings])
def test_a_full_memory_does_not_lengthen_the_collectors_pause(fill: Callable[[], object]) -> None:
    """A full collection stops every thread for as long as it walks, and these memories hold 100,000 entries."""
    gc.collect()
    before = len(gc.get_objects())
    kept = fill()
    gc.collect()  # which lets go of the tuples that hold nothing it has to follow
    assert len(gc.get_objects()) - before < MANY // 10
    del kept


def test_the_least_lately_used_goes_first_and_what_is_too_large_is_not_kept() -> None:
    kept: Recent[Outcome] = Recent(1000)
    for key in (b"a", b"b", b"c"):
        kept.put(key, Outcome(key), 100)
    assert kept.get(b"a") == Outcome(b"a")
    kept.put(b"large", Outcome(), 126)
    assert kept.get(b"large") is None
    for i in range(9):
        kept.put(b"%d" % i, Outcome(), 100)
    assert kept.get(b"a") == Outcome(b"a")
    assert kept.get(b"b") is None
    assert kept.get(b"c") is None
