"""The engine's benchmarks count what they say: speeds against the best peer, and tokens from the first that differs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def rows(found: Any) -> dict[str, Any]:
    return {row.metric: row for row in found}


def test_speeds_are_held_against_the_best_of_each_peer() -> None:
    engine = importlib.import_module("engine")
    a, b = engine.TRANSFORMERS
    alone = {engine.OURS: [50.0, 60.0], a: [20.0, 25.0], b: [30.0, 24.0], engine.LLAMACPP: [100.0, 120.0]}
    batch = {engine.OURS: [500.0, 420.0], a: [90.0, 100.0], b: [200.0, 180.0], engine.LLAMACPP: [150.0, 160.0]}
    found = rows(engine.speeds(alone, batch))
    assert (found["vs_transformers"].value, found["vs_transformers"].holds) == (2.0, True)
    assert (found["vs_llamacpp"].value, found["vs_llamacpp"].holds) == (0.5, False)
    assert (found["scale_16_streams"].value, found["scale_16_streams"].holds) == (pytest.approx(8.333, abs=1e-3), True)
    assert (found["16_streams_vs_best_peer"].value, found["16_streams_vs_best_peer"].holds) == (2.5, False)


def test_without_llama_cpp_nothing_is_said_of_it() -> None:
    engine = importlib.import_module("engine")
    speed = {engine.OURS: [50.0], **{name: [10.0] for name in engine.TRANSFORMERS}}
    assert "vs_llamacpp" not in rows(engine.speeds(speed, speed))


def test_tokens_differ_from_the_first_that_does() -> None:
    identity = importlib.import_module("engine_identity")
    expected = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    got = [[1, 2, 9, 9], [5, 6], [7, 8]]
    exact = rows(identity.differences(got, expected, "int8", exact=True))
    assert (exact["identity_differences"].value, exact["identity_differences"].holds) == (2 + 1, False)
    assert rows(identity.differences(expected, expected, "int8", exact=True))["identity_differences"].holds
    loose = rows(identity.differences(got, expected, "bfloat16", exact=False))
    assert loose["identity_differences"].bar is None
    assert loose["tie_rate"].value == pytest.approx(2 / (3 + 2 + 3))
