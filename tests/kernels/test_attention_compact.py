"""Accepted nodes of a tree move to contiguous slots, even where they overlap, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from attention_cases import store

from trimtab.kernels.attention_compact import compact_accepted, reference_compact_accepted
from trimtab.kernels.attention_rows import read_pages


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("page", [1, 4, 16])
def test_accepted_nodes_move_and_nothing_else(name: str, page: int, device: torch.device) -> None:
    dtype = getattr(torch, name)
    made = store([1, 1, 1], [40, 30, 9], page=page, d=80, device=device)
    k, v = (x.to(dtype) for x in (made.k_pages, made.v_pages))
    base = torch.tensor([21, 14, 5], dtype=torch.int32, device=device)
    paths = [[0, 1, 2, 5, 6, 9, 18], [0, 3, 4, -1, -1, -1, -1], [-1] * 7]
    accepted = torch.tensor(paths, dtype=torch.int32, device=device)
    wanted = [x.view(torch.uint8).clone().view(dtype) for x in (k, v)]
    reference_compact_accepted(*wanted, made.page_table, base, accepted)
    before = read_pages(k, made.page_table[0], 40, None, torch.float32)
    compact_accepted(k, v, made.page_table, base, accepted)
    for found, want in zip((k, v), wanted, strict=True):
        assert torch.equal(found.view(torch.uint8), want.view(torch.uint8))
    after = read_pages(k, made.page_table[0], 40, None, torch.float32)
    assert torch.equal(after[21:28], before[[21, 22, 23, 26, 27, 30, 39]])
    assert torch.equal(after[:21], before[:21])
    assert torch.equal(after[28:], before[28:])


def test_strides_other_than_the_usual(device: torch.device) -> None:
    made = store([1], [30], device=device)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (made.k_pages, made.v_pages))
    base = torch.tensor([10], dtype=torch.int32, device=device)
    accepted = torch.tensor([[0, 2, 7]], dtype=torch.int32, device=device)
    reference_compact_accepted(made.k_pages, made.v_pages, made.page_table, base, accepted)
    compact_accepted(k, v, made.page_table, base, accepted)
    assert torch.equal(k.nan_to_num(9.0), made.k_pages.nan_to_num(9.0))


def test_a_wrong_argument_is_named(device: torch.device) -> None:
    made = store([1], [20], device=device)
    right = {
        "k_pages": made.k_pages,
        "v_pages": made.v_pages,
        "page_table": made.page_table,
        "base": made.kv_len,
        "accepted": torch.zeros(1, 2, dtype=torch.int32, device=device),
    }
    for name, value in [
        ("k_pages", made.k_pages[0]),
        ("k_pages", made.k_pages[:, :, :12]),
        ("v_pages", made.v_pages.half()),
        ("page_table", made.page_table.long()),
        ("base", made.kv_len.long()),
        ("accepted", torch.zeros(1, 65, dtype=torch.int32, device=device)),
        ("accepted", torch.zeros(2, 2, dtype=torch.int32, device=device)),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            compact_accepted(**{**right, name: value})
