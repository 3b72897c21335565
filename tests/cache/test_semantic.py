"""The semantic tier's look-up over a store in memory: who is a candidate, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from stores import MB, Clock, entry, spot

from trimtab.cache.evidence import Ledger
from trimtab.cache.policy import CachePolicy
from trimtab.cache.semantic import SemanticTier
from trimtab.cache.store_memory import MemoryStore
from trimtab.cache.verifier import Pair, shipped
from trimtab.cache.wishes import NONE, Wishes

POLICY = CachePolicy.model_validate({"semantic": {"enabled": True, "allow": ["time"]}})


class Sure:
    """A verifier that is sure of everything, once `slow` seconds are over."""

    name = "sure"
    slow = 0.0

    async def scores(self, pairs: Sequence[Pair]) -> list[float]:
        await asyncio.sleep(self.slow)
        return [0.999] * len(pairs)


class Blind:
    """An embedder to which all texts are alike."""

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any:
        return np.array([[1.0] + [0.0] * 7] * len(texts), np.float32)


class Exchange:
    """As much of one as a look-up reads."""

    class tenant:
        name = "acme"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}


async def looked(stored: str, asked: str, age: float, wished: Wishes = NONE, slow: float = 0.0) -> str:
    """What becomes of `asked` when `stored` was answered `age` seconds ago."""
    clock = Clock()
    store, verifier = MemoryStore(clock), Sure()
    nobody: Any = None
    tier = SemanticTier(store, Ledger(shipped().prior, clock), verifier, nobody, wall=clock)
    tier.embedder = Blind()
    await store.start(tier.heard)
    unit = np.array([1.0] + [0.0] * 7, np.float16).tobytes()
    store.put(entry(spot(stored), clock(), life=3_600.0, vector=unit), MB)
    clock.now += age
    verifier.slow = slow
    exchange: Any = Exchange()
    return (await tier.look(exchange, spot(asked), POLICY, wished)).outcome


PLAIN = "How high is Mount Everest?", "What height has Mount Everest?"
TIMELY = "Is the shop open right now?", "Right now, is the shop open?"


@pytest.mark.parametrize(
    ("pair", "age", "outcome"),
    [
        (PLAIN, 299, "semantic-hit"),
        (PLAIN, 3_000, "semantic-hit"),
        (PLAIN, 3_601, "miss"),
        (TIMELY, 299, "semantic-hit"),
        (TIMELY, 301, "miss"),
    ],
)
async def test_an_answer_about_the_present_is_a_candidate_for_a_shorter_time(
    pair: tuple[str, str], age: float, outcome: str
) -> None:
    assert await looked(*pair, age) == outcome


async def test_the_callers_own_age_counts() -> None:
    assert await looked(*PLAIN, 61, Wishes(max_age=60)) == "miss"
    assert await looked(*PLAIN, 59, Wishes(max_age=60)) == "semantic-hit"
    assert await looked(*PLAIN, 1, Wishes(read=False)) == "miss"


async def test_a_veto_outweighs_a_verifier_that_is_sure() -> None:
    assert await looked("How high is Mount Everest?", "How high is Mount Blanc?", 1) == "miss"


async def test_what_takes_too_long_is_a_miss() -> None:
    assert await looked(*PLAIN, 1, slow=5.0) == "miss"
