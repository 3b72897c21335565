"""Quest's pages: bounds that no key exceeds, the greatest of them chosen, what must be read always among them."""

from __future__ import annotations

import pytest
import torch
from attention_cases import Store, close, store

from trimtab.kernels.attention_paged import paged_attention, reference_paged_attention
from trimtab.kernels.attention_quest import page_bounds, page_scores, quest_pages, reference_page_scores


def bounds(made: Store) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every page that a sequence owns; the others' are left NaN."""
    pages, kv_heads, page, d = made.k_pages.shape
    k_min = torch.full((pages, kv_heads, d), float("nan"), device=made.q.device)
    k_max = k_min.clone()
    owned, filled = [-1], [3]
    for s, length in enumerate(made.kv_len.tolist()):
        for j in range(-(-length // page)):
            owned.append(int(made.page_table[s, j]))
            filled.append(min(page, length - j * page))
    numbers = (torch.tensor(x, dtype=torch.int32, device=made.q.device) for x in (owned, filled))
    page_bounds(made.k_pages, *numbers, k_min, k_max)
    return k_min, k_max


@pytest.mark.parametrize("shape", [(9, 3, 64), (8, 2, 128), (4, 4, 80)])
def test_scores_agree_and_bound_every_key(shape: tuple[int, int, int], device: torch.device) -> None:
    heads, kv_heads, d = shape
    made = store([1, 3, 2, 0], [100, 70, 0, 20], heads=heads, kv_heads=kv_heads, d=d, device=device)
    k_min, k_max = bounds(made)
    found = page_scores(made.q, k_min, k_max, made.page_table, made.q_start, made.kv_len, 16)
    wanted = reference_page_scores(made.q, k_min, k_max, made.page_table, made.q_start, made.kv_len, 16)
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
    own = made.page_table[0, :7].long()
    keys = made.k_pages[own].nan_to_num(0.0).repeat_interleave(heads // kv_heads, 1)
    best = torch.einsum("hd,phsd->ph", made.q[0], keys).view(7, kv_heads, -1).amax(-1)
    assert (best - 1e-4 <= found[0, :, :7].T).all()


def test_slots_that_are_not_filled_bound_nothing(device: torch.device) -> None:
    keys = torch.randn(3, 2, 16, 80, device=device)
    filled = torch.tensor([16, 5, 1], dtype=torch.int32, device=device)
    for page, count in enumerate(filled.tolist()):
        keys[page, :, count:] = 1e4 * (-1) ** torch.arange(16 - count, device=device)[None, :, None]
    k_min, k_max = torch.zeros(2, 3, 2, 80, device=device)
    page_bounds(keys, torch.arange(3, dtype=torch.int32, device=device), filled, k_min, k_max)
    for page, count in enumerate(filled.tolist()):
        assert torch.equal(k_min[page], keys[page, :, :count].amin(1))
        assert torch.equal(k_max[page], keys[page, :, :count].amax(1))


def test_pages_are_distinct_and_hold_what_must_be_read(device: torch.device) -> None:
    made = store([3, 1], [130, 20], device=device)
    made.k_pages[int(made.page_table[0, 7])] = 0.0  # no page scores less, but it has a new row
    k_min, k_max = bounds(made)
    chosen = quest_pages(made.q, k_min, k_max, made.page_table, made.q_start, made.kv_len, page=16, k=5)
    for head in range(2):
        long, short = (row[row >= 0].tolist() for row in chosen[:, head])
        assert len(set(long)) == 5
        assert {0, 7, 8} <= set(long), "the first, and those of positions 127 to 129"
        assert sorted(short) == [0, 1]
    found = paged_attention(*made.all, scale=0.125, pages_top_k=chosen)
    close(found, reference_paged_attention(*made.all, scale=0.125, pages_top_k=chosen))


def test_all_pages_chosen_is_no_choice(device: torch.device) -> None:
    made = store([2], [90], device=device)
    chosen = quest_pages(made.q, *bounds(made), made.page_table, made.q_start, made.kv_len, page=16, k=20)
    close(
        paged_attention(*made.all, scale=0.125, pages_top_k=chosen), reference_paged_attention(*made.all, scale=0.125)
    )


def test_a_page_that_matters_is_found(device: torch.device) -> None:
    """One key like the query among random ones: reading 4 pages of 32 gives nearly what all give."""
    made = store([1], [512], heads=2, kv_heads=2, device=device)
    at = int(made.page_table[0, 13])
    made.k_pages[at, :, 5] = 2.0 * made.q[0]
    chosen = quest_pages(made.q, *bounds(made), made.page_table, made.q_start, made.kv_len, page=16, k=4)
    assert (chosen == 13).any(-1).all()
    found = paged_attention(*made.all, scale=0.5, pages_top_k=chosen)
    wanted = reference_paged_attention(*made.all, scale=0.5)
    torch.testing.assert_close(found.double(), wanted, atol=1e-3, rtol=1e-3)


def test_a_wrong_argument_is_named(device: torch.device) -> None:
    made = store([1], [20], device=device)
    k_min, k_max = bounds(made)
    right = {
        "q": made.q,
        "k_min": k_min,
        "k_max": k_max,
        "page_table": made.page_table,
        "q_start": made.q_start,
        "kv_len": made.kv_len,
        "page": 16,
        "k": 2,
    }
    for name, value in [
        ("q", made.q[0]),
        ("k_min", k_min[0]),
        ("k_min", k_min[:, :, ::2]),
        ("k_max", k_max.half()),
        ("page_table", made.page_table[0]),
        ("q_start", made.q_start[:1]),
        ("kv_len", made.kv_len.long()),
        ("page", 12),
        ("k", 0),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            quest_pages(**{**right, name: value})
    one = torch.zeros(1, dtype=torch.int32, device=device)
    for name, value in [("filled", one[:0]), ("pages", one.long()), ("k_pages", made.k_pages[0])]:
        arguments = {"k_pages": made.k_pages, "pages": one, "filled": one, "k_min": k_min, "k_max": k_max, name: value}
        with pytest.raises(ValueError, match=f"^{name}: "):
            page_bounds(**arguments)
