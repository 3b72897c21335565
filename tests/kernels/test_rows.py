"""The kernels that treat each row alone: norm and SwiGLU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.norm import reference_rms_norm, rms_norm
from trimtab.kernels.swiglu import reference_swiglu, swiglu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COLUMNS = st.sampled_from([1, 2, 7, 64, 576, 1000, 1536, 4096])
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def rows_of(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Strided rows, with poison between them."""
    held = torch.full((rows, columns + 3), float("nan"), device=DEVICE, dtype=dtype)
    held[:, :columns] = torch.randn(rows, columns, device=DEVICE)
    return held[:, :columns]


def assert_close(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=12)
@given(rows=st.integers(0, 5), columns=COLUMNS, residual=st.booleans())
def sweep_norm(dtype: torch.dtype, rows: int, columns: int, residual: bool) -> None:
    x, weight = rows_of(rows, columns, dtype), torch.randn(columns, device=DEVICE).to(dtype)
    stream = rows_of(rows, columns, dtype) if residual else None
    # The sum is rounded to the stream's dtype before it is squared; rounding is the reference's too.
    total = x if stream is None else (x.float() + stream.float()).to(dtype)
    exact, _ = reference_rms_norm(total.double(), weight.double(), 1e-5)
    out = torch.full((rows, columns), float("nan"), device=DEVICE, dtype=dtype)
    assert rms_norm(x, weight, 1e-5, residual=stream, out=out) is out
    assert_close(out, exact, dtype)
    if stream is not None:
        assert torch.equal(stream, total)


def test_norm_agrees_with_float64(dtype: torch.dtype) -> None:
    sweep_norm(dtype)


@settings(max_examples=12)
@given(rows=st.integers(0, 5), columns=COLUMNS)
def sweep_swiglu(dtype: torch.dtype, rows: int, columns: int) -> None:
    gate, up = rows_of(rows, 2 * columns, dtype).split(columns, dim=1)
    out = torch.full((rows, columns), float("nan"), device=DEVICE, dtype=dtype)
    swiglu(gate, up, out=out)
    assert_close(out, reference_swiglu(gate.double(), up.double()), dtype)


def test_swiglu_agrees_with_float64(dtype: torch.dtype) -> None:
    sweep_swiglu(dtype)


def test_a_norm_may_be_written_over_its_input() -> None:
    x, weight = rows_of(3, 576, torch.float32), torch.ones(576, device=DEVICE)
    exact, _ = reference_rms_norm(x.double(), weight.double(), 1e-6)
    assert_close(rms_norm(x, weight, 1e-6, out=x), exact, torch.float32)


def test_what_is_normed_is_the_sum_as_it_is_kept() -> None:
    """2048 + 1 is 2048 in fp16: normed unrounded, the first column would differ from the others."""
    x, stream = (torch.full((1, 64), value, device=DEVICE, dtype=torch.float16) for value in (0.0, 2048.0))
    x[0, 0] = 1.0
    y = rms_norm(x, torch.full((64,), 0.99, device=DEVICE), 1e-6, residual=stream)
    assert len(set(y[0].tolist())) == 1


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy says so; exp is then inf, and 1 / inf is 0
def test_large_gates_do_not_overflow() -> None:
    gate = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]], device=DEVICE)
    assert swiglu(gate, torch.ones_like(gate)).tolist() == [[0.0, pytest.approx(0, abs=1e-30), 0.0, 100.0, 1e4]]


@pytest.mark.parametrize("name", ["x", "weight", "residual", "out"])
def test_wrong_arguments_of_the_norm_are_named(name: str) -> None:
    right = {"x": torch.randn(2, 8), "weight": torch.ones(8), "residual": torch.randn(2, 8), "out": torch.empty(2, 8)}
    wrong = right["x"].T.contiguous().T if name == "x" else right[name][:1].half()
    with pytest.raises(ValueError, match=f"^{name}:"):
        rms_norm(**{**right, name: wrong}, eps=1e-5)


@pytest.mark.parametrize("name", ["gate", "up", "out"])
def test_wrong_arguments_of_swiglu_are_named(name: str) -> None:
    right = {"gate": torch.randn(2, 8), "up": torch.randn(2, 8), "out": torch.empty(2, 8)}
    wrong = right["gate"].T.contiguous().T if name == "gate" else right[name].half()
    with pytest.raises(ValueError, match=f"^{name}:"):
        swiglu(**{**right, name: wrong})
