"""One token's way into the pages: norm, rotation, scale, place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.kv_write import reference_rotate, reference_store, write_kv

CPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tables(positions: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.outer(torch.arange(positions), 10000.0 ** -(torch.arange(half) / half)).to(CPU)
    return angles.cos(), angles.sin()


class Tokens:
    """Random rows of a model, on strided memory, with pages that are poison until written."""

    def __init__(self, rows: int, heads: int, kv: int, d: int, page: int, dtype: torch.dtype, half: int) -> None:
        made = torch.randn(rows, (heads + 2 * kv) * d + 3, device=CPU).to(dtype)[:, : (heads + 2 * kv) * d]
        self.q, self.k, self.v = (part.unflatten(1, (-1, d)) for part in made.split((heads * d, kv * d, kv * d), dim=1))
        pages = max(-(-rows // page) + 1, 2)
        self.k_pages = torch.full((pages, kv, page, d), 99.0, device=CPU).to(dtype)
        self.v_pages = self.k_pages.clone()
        self.slots = torch.randperm(pages * page)[:rows].to(CPU)
        self.slots[torch.rand(rows) < 0.2] = -1
        self.positions = torch.randint(0, 50, (rows,)).to(CPU)
        self.cos, self.sin = tables(50, half)

    def rotated(self, x: torch.Tensor, interleaved: bool, norm: torch.Tensor | None) -> torch.Tensor:
        return reference_rotate(x.double(), self.positions, self.cos, self.sin, interleaved, norm, 1e-6)

    def write(self, **more: object) -> torch.Tensor:
        return write_kv(
            self.q, self.k, self.v, self.k_pages, self.v_pages, self.slots, self.positions, self.cos, self.sin,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip


SHAPES = st.sampled_from([(9, 3, 64), (8, 2, 128), (14, 2, 64), (1, 1, 16), (5, 5, 80)])


@settings(max_examples=25)
@given(
    rows=st.integers(0, 9),
    shape=SHAPES,
    page=st.sampled_from([1, 16, 32]),
    part=st.sampled_from([1, 2]),
    interleaved=st.booleans(),
    normed=st.booleans(),
    half_precision=st.booleans(),
)
def test_agrees_with_float64(
    rows: int, shape: tuple[int, int, int], page: int, part: int, interleaved: bool, normed: bool, half_precision: bool
) -> None:
    heads, kv, d = shape
    dtype, tolerance = (torch.float16, 4e-3) if half_precision else (torch.float32, 2e-6)
    tokens = Tokens(rows, heads, kv, d, page, dtype, d // 2 // part)
    norms = (torch.randn(d, device=CPU), torch.randn(d, device=CPU)) if normed else (None, None)
    out = torch.full((rows, heads, d), float("nan"), dtype=dtype, device=CPU)
    tokens.write(interleaved=interleaved, q_norm=norms[0], k_norm=norms[1], out=out)
    torch.testing.assert_close(
        out.double(), tokens.rotated(tokens.q, interleaved, norms[0]), rtol=tolerance, atol=tolerance
    )
    k_pages, v_pages = torch.full_like(tokens.k_pages, 99.0).double(), torch.full_like(tokens.v_pages, 99.0).double()
    reference_store(tokens.rotated(tokens.k, interleaved, norms[1]), k_pages, tokens.slots, None)
    reference_store(tokens.v.double(), v_pages, tokens.slots, None)
    torch.testing.assert_close(tokens.k_pages.double(), k_pages, rtol=tolerance, atol=tolerance)
    assert torch.equal(tokens.v_pages.double(), v_pages)


@pytest.mark.parametrize("kind", ["one", "each"])
def test_eight_bit_pages_hold_values_over_their_scales(kind: str) -> None:
    """With values that 8 bits hold exactly: the interpreter does not round them as the device does."""
    tokens = Tokens(6, 4, 2, 64, 16, torch.float32, 32)
    tokens.slots = torch.tensor([0, 5, 17, -1, 3, 30], device=CPU)
    tokens.cos, tokens.sin = torch.ones_like(tokens.cos), torch.zeros_like(tokens.sin)
    shape = (1,) if kind == "one" else tokens.k_pages.shape[:2]
    k_scale, v_scale = (2.0 ** torch.randint(-9, 3, shape, device=CPU) for _ in "kv")
    codes = torch.randn(2, 6, 2, 64, device=CPU).to(torch.float8_e4m3fn).float()
    codes[1, 0, 0, 0], codes[1, 1, 1, 1] = 1000.0, -449.0
    page = (tokens.slots.clamp_min(0) // 16).tolist()
    each = [scale.expand(len(tokens.k_pages), 2)[page].unsqueeze(2) for scale in (k_scale, v_scale)]
    tokens.k, tokens.v = codes[0] * each[0], codes[1] * each[1]
    tokens.k_pages, tokens.v_pages = (
        torch.zeros_like(p).to(torch.float8_e4m3fn) for p in (tokens.k_pages, tokens.v_pages)
    )
    tokens.write(k_scale=k_scale, v_scale=v_scale)
    for found, want in ((tokens.k_pages, codes[0]), (tokens.v_pages, codes[1].clamp(-448, 448))):
        for row, slot in enumerate(tokens.slots.tolist()):
            if slot >= 0:
                assert torch.equal(found[slot // 16, :, slot % 16].float(), want[row])
    assert tokens.v_pages.float().abs().max() == 448, "saturates, never becomes a NaN"
    assert int((tokens.k_pages.float() != 0).any(-1).sum()) == 5 * 2


@pytest.mark.gpu
def test_eight_bit_values_are_rounded_to_the_nearest() -> None:
    tokens = Tokens(6, 4, 2, 64, 16, torch.bfloat16, 32)
    tokens.k_pages, tokens.v_pages = (
        torch.zeros_like(p).to(torch.float8_e4m3fn) for p in (tokens.k_pages, tokens.v_pages)
    )
    want = tokens.v_pages.clone()
    tokens.write()
    reference_store(tokens.v, want, tokens.slots, None)
    assert torch.equal(tokens.v_pages.float(), want.float())


def test_queries_may_be_rotated_in_place() -> None:
    tokens = Tokens(4, 4, 2, 32, 16, torch.float32, 16)
    want = tokens.rotated(tokens.q, False, None)
    assert tokens.write(out=tokens.q) is tokens.q
    torch.testing.assert_close(tokens.q.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slots", lambda t: setattr(t, "slots", t.slots.int())),
        ("k", lambda t: setattr(t, "k", t.k[:, :, :-1])),
        ("v", lambda t: setattr(t, "v", t.v[:, :1])),
        ("v_pages", lambda t: setattr(t, "v_pages", t.v_pages[:1])),
        ("k_pages", lambda t: setattr(t, "k_pages", t.k_pages.half())),
        ("positions", lambda t: setattr(t, "positions", t.positions.float())),
        ("cos", lambda t: setattr(t, "cos", t.cos.double())),
        ("q", lambda t: setattr(t, "q", t.q.transpose(1, 2).contiguous().transpose(1, 2))),
    ],
)
def test_wrong_arguments_are_named(name: str, change: object) -> None:
    tokens = Tokens(4, 4, 2, 32, 16, torch.float32, 16)
    change(tokens)  # type: ignore[operator]
    before = tokens.k_pages.clone()
    with pytest.raises(ValueError, match=f"^({name}|sin):"):
        tokens.write()
    assert torch.equal(before, tokens.k_pages)
