"""Element-wise functions: the same bits wherever an element stands, and however many threads there are."""

import pytest
import torch

from trimtab.backends.engine.lanes import exp2_, swish


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [32, 96, 32_736, 32_768, 200_000])
def test_a_powers_bits_do_not_depend_on_its_place(count, three_threads):
    x = -20 * torch.rand(count, generator=torch.Generator().manual_seed(count))
    alone = torch.cat([exp2_(part.clone()) for part in x.split(32)])
    assert torch.equal(exp2_(x.clone()), alone)
    assert torch.allclose(alone, torch.exp(x.double() * 0.6931471805599453).float())


def test_what_is_hidden_weighs_nothing():
    assert exp2_(torch.full((32,), -torch.inf)).tolist() == [0.0] * 32


@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 40), (50, 1536), (7, 33), (2, 40_000), (2, 32_737)])
def test_a_row_of_swish_does_not_depend_on_the_others(rows, width, three_threads):
    both = torch.randn((rows, 2 * width), generator=torch.Generator().manual_seed(width))
    gate, up = both.chunk(2, dim=-1)
    whole = swish(gate, up)
    assert torch.equal(whole, torch.cat([swish(g[None], u[None]) for g, u in zip(gate, up, strict=True)]))
    assert torch.allclose(whole, torch.nn.functional.silu(gate.double()).float() * up)
