"""The scale of a page in 8 bits: known from its first row, a power of two, and wide enough for rows that differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.kv_scale import page_scales

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE = 8


def scaled(k: torch.Tensor, v: torch.Tensor, slots: list[int], **more: object) -> tuple[torch.Tensor, torch.Tensor]:
    k_scale, v_scale = (torch.full((6, k.shape[1]), 7.0, device=DEVICE) for _ in "kv")
    at = torch.tensor(slots, device=DEVICE)
    page_scales(k, v, at, k_scale, v_scale, page=PAGE, **more)  # type: ignore[arg-type]
    return k_scale, v_scale


@settings(max_examples=20, deadline=None)
@given(
    kv=st.sampled_from([1, 3]),
    d=st.sampled_from([16, 64, 80]),
    slots=st.lists(st.integers(-1, 6 * PAGE - 1), min_size=1, max_size=9, unique=True),
    size=st.sampled_from([1e-6, 0.01, 1.0, 300.0]),
    normed=st.booleans(),
)
def test_the_first_rows_largest_number_is_kept_between_one_and_two(
    kv: int, d: int, slots: list[int], size: float, normed: bool
) -> None:
    made = torch.randn(len(slots), 2 * kv * d + 1, device=DEVICE)[:, :-1] * size
    k, v = (part.unflatten(1, (kv, d)) for part in made.split(kv * d, dim=1))
    norm = torch.randn(d, device=DEVICE) if normed else None
    found = scaled(k, v, slots, k_norm=norm)
    if norm is not None:
        k = k * torch.rsqrt(k.square().mean(-1, keepdim=True) + 1e-6) * norm
    opened = {slot // PAGE: row for row, slot in enumerate(slots) if slot >= 0 and slot % PAGE == 0}
    for x, scale in ((k, found[0]), (v, found[1])):
        for page in range(6):
            if page not in opened:
                assert (scale[page] == 7.0).all(), "a page that is not opened keeps its scale"
                continue
            top = x[opened[page]].abs().amax(-1) / scale[page]
            assert ((top > 1 - 1e-5) & (top <= 2 + 1e-5)).all()
            assert (torch.frexp(scale[page]).mantissa == 0.5).all(), "a power of two"


def test_rows_of_zeros_and_powers_of_two() -> None:
    k = torch.zeros(3, 1, 16, device=DEVICE)
    k[1, 0, 3], k[2, 0, 5] = -4.0, 4.0001
    scale, _ = scaled(k, k, [0, PAGE, 2 * PAGE])
    assert scale[:3, 0].tolist() == [2.0**-63, 2.0, 4.0]


@pytest.mark.parametrize("times", [1 / 60, 1.0, 200.0])
def test_rows_unlike_the_first_are_kept_as_well(times: float) -> None:
    """Within what 8 bits permit: an eighth at most where numbers are cut off, of the row's largest."""
    first = torch.randn(1, 1, 64, device=DEVICE)
    scale, _ = scaled(first, first, [PAGE])
    other = first.flip(-1) * times
    kept = (other / scale[1, 0]).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale[1, 0]
    assert (kept - other).abs().max() <= other.abs().max() / 8


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("k", {"k": torch.zeros(2, 1, 16, dtype=torch.float64)}),
        ("v", {"v": torch.zeros(2, 2, 16)}),
        ("slots", {"slots": torch.zeros(2, dtype=torch.int32)}),
        ("k_scale", {"k_scale": torch.zeros(3, 2)}),
        ("v_scale", {"v_scale": torch.zeros(3, 1, dtype=torch.float16)}),
        ("k_norm", {"k_norm": torch.zeros(15)}),
        ("page", {"page": 0}),
    ],
)
def test_wrong_arguments_are_named(name: str, change: dict[str, object]) -> None:
    right = {"k": torch.zeros(2, 1, 16), "v": torch.zeros(2, 1, 16), "slots": torch.arange(2), "page": 8}
    right |= {"k_scale": torch.zeros(3, 1), "v_scale": torch.zeros(3, 1)}
    with pytest.raises(ValueError, match=f"^{name}:"):
        page_scales(**{**right, **change})  # type: ignore[arg-type]
